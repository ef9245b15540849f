"""`make demo`, as the README says."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.net.commands import environment

ROOT = Path(__file__).parents[2]
SECONDS = 90
"""What the demo promises to take at most."""


@pytest.mark.timeout(SECONDS + 30)
def test_the_demo_kills_holders_and_loses_nothing(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "examples/demo.py"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(tmp_path, TMPDIR=str(tmp_path)),
        start_new_session=True,
    )
    try:
        said, _ = demo.communicate(timeout=SECONDS)
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)  # its nodes too
            demo.communicate()
    assert demo.returncode == 0, said
    figures = dict(re.findall(r"^│ (.+?) +│ (.+?) +│$", said, re.MULTILINE))
    assert figures["nodes started / killed with SIGKILL"] == "8 / 2", said
    answered, sent = figures["messages answered / sent"].split(" / ")
    assert answered == sent != "0", said
    assert re.fullmatch(r"\d+\.\d s", figures["copies back at min_copies=3 after"]), said
    assert figures["file read back"] == "same bytes", said
    assert list(tmp_path.glob("titan-demo-*")) == [], "it left its nodes' data behind"


def test_make_demo_runs_it() -> None:
    recipe = re.search(r"^demo: setup\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert recipe[1] == "\t$(BIN)/python examples/demo.py\n"
