"""The public API is typed: what `send` gives is inferred from the message, in every way of sending."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_type_checker_knows_what_programs_get(tmp_path: Path) -> None:
    checked = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--warn-unreachable", "--cache-dir", str(tmp_path),
            "--config-file", str(ROOT / "pyproject.toml"), str(Path(__file__).with_name("snippets.py")),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=110,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
