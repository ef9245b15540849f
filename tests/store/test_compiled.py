"""The store with its hot modules compiled: it does what the plain one does."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from benchmarks.store_compiled import build

HERE = Path(__file__).parent
FEW = ("test_core", "test_values", "test_field_ends", "test_scripts", "test_doors", "test_server", "test_beside_redis")

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        shutil.which("cc") is None or not Path(sysconfig.get_path("include"), "Python.h").exists(),
        reason="a C compiler and Python's headers are needed: apt-get install gcc python3-dev brings them",
    ),
]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel with compiled modules installs."""
    return build(tmp_path_factory.mktemp("compiled"))


def passes(packages: Path, *files: Path) -> None:
    """These tests pass with the compiled store, in processes that they start as well."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *map(str, files)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(packages)
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout


def test_it_is_the_compiled_modules_that_run(packages: Path) -> None:
    words = [sys.executable, "-c", "from titan_objects.store import engine; print(engine.__file__)"]
    found = subprocess.check_output(words, env=os.environ | {"PYTHONPATH": str(packages)}, text=True).strip()
    assert Path(found).parent == packages / "titan_objects" / "store" and not found.endswith(".py")


def test_a_compiled_store_passes_the_tests_of_the_plain_one(packages: Path) -> None:
    passes(packages, *(HERE / f"{name}.py" for name in FEW))


@pytest.mark.slow
def test_a_compiled_store_passes_all_tests_of_the_plain_one(packages: Path) -> None:
    passes(packages, *(each for each in sorted(HERE.glob("test_*.py")) if each.name != Path(__file__).name))
