"""What a killed program that ran tasks leaves behind."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.net.test_dag_limits import marked
from titan_objects.dag.places import PREFIX, clear_up, place

KILLED = """
import asyncio, os, sys
from titan_objects.dag.definition import Definition, Task
from titan_objects.dag.here import Here

async def main():
    async with Here(slots=1) as here:
        print(here.executor.directory, flush=True)
        words = ["sh", "-c", "setsid sleep 600 & echo $$ > {here}/began; sleep 600"]
        await here.run(Definition(name="d", tasks=[Task(id="t", run=words)]))

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_next_one_ends_the_commands_of_a_killed_program_and_removes_its_directory(tmp_path: Path) -> None:
    program = KILLED.replace("{here}", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        directory = Path(killed.stdout.readline().strip())
        while not (tmp_path / "began").exists() and killed.poll() is None:
            time.sleep(0.01)
        clear_up()
        assert directory.exists(), "its program lives"
        mark = f"{directory.name}-1"
        assert marked(mark)
        killed.kill()
    assert marked(mark), "nobody waits for them"
    clear_up()
    assert not directory.exists()
    assert not marked(mark)


async def test_a_program_has_its_place_as_long_as_it_runs(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}others").mkdir()
    async with place() as one, place() as other:
        (other / "file").write_text("kept")
        assert one != other
        await asyncio.to_thread(clear_up)
        assert (other / "file").read_text() == "kept"
    assert [each.name for each in tmp_path.iterdir()] == [f"{PREFIX}others"], "which has no lock: it may be being made"


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives directories away")
async def test_what_belongs_to_another_user_is_left_alone(tmp_path: Path) -> None:
    strange = tmp_path / f"{PREFIX}strange"
    strange.mkdir()
    (strange / ".in-use").touch()
    os.chown(strange, 65534, 65534)
    clear_up()
    assert strange.exists()
