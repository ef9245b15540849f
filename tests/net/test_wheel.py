"""What a user installs: the built wheel, alone in an empty environment."""

import json
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.net.commands import NodeProcess

ROOT = Path(__file__).parents[2]
PACKAGES = {"titan_overlay", "titan_objects", "titan_simulations"}

pytestmark = pytest.mark.timeout(400)


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an sdist of this tree and the wheel that was built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def test_the_wheel_brings_three_typed_packages_and_nothing_else(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_a_packager_needs(dist: Path):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "Makefile", "tests/net/test_wheel.py"} <= names
    assert not any(name.startswith((".venv", "out/", "site/")) for name in names)


@pytest.fixture(scope="module")
def empty_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new virtual environment that holds the wheel and its dependencies."""
    where = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", where, cwd=where)
    run(where / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=where)
    return where / "bin"


@pytest.mark.slow
def test_the_packages_import_without_the_development_tools(empty_environment: Path, tmp_path: Path):
    for package in sorted(PACKAGES):
        assert "site-packages" in run(
            empty_environment / "python", "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "argument"),
    [
        ("titan-node", "--version"),
        ("titan-node", "--help"),
        ("titan", "--version"),
        ("titan", "--help"),
        ("titan-sim", "--help"),
    ],
)
def test_the_commands_run(empty_environment: Path, tmp_path: Path, command: str, argument: str):
    output = run(empty_environment / command, argument, cwd=tmp_path)
    assert ("0." in output) if argument == "--version" else (command in output)


@pytest.mark.slow
def test_a_node_runs(empty_environment: Path, tmp_path: Path):
    (tmp_path / "file").write_text("content")
    node = NodeProcess(tmp_path / "node", installed=empty_environment)
    try:
        line = node.join_line()
        status = run(empty_environment / "titan", "node", "status", "--data", node.data, cwd=tmp_path)
        assert line in status
        name = run(empty_environment / "titan", "put", "file", "--json", "--data", node.data, cwd=tmp_path)
        said = run(empty_environment / "titan", "get", json.loads(name)["name"], "--data", node.data, cwd=tmp_path)
        assert said == "content"
        assert node.stop() == 0
    finally:
        node.stop(signal.SIGKILL)


@pytest.mark.slow
def test_without_the_extra_a_simulation_says_what_to_install(empty_environment: Path, tmp_path: Path):
    done = subprocess.run(
        [empty_environment / "titan-sim", "churn", "--quick"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "pip install 'titan-overlay[sim]'" in done.stderr
