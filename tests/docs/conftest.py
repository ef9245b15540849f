"""The pool that the documentation runs on: real `titan-node` processes, started as the tutorial starts them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, Block, blocks_of, matches

PATIENCE = 60.0
RUN = ("runs", "soon", "stays", "pool")
PROGRAMMER = DOCS / "tutorials" / "programmer.md"


class Place:
    """A directory to run blocks in, and the processes that they leave running."""

    def __init__(self, directory: Path, data: Path, join: str = "") -> None:
        self.directory = directory
        self.data = data
        self.join = join
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []
        directory.mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("TITAN_")}
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}",
            "HOME": str(self.directory),
            "TITAN_DATA": str(self.data),
            "TITAN_LISTEN": "127.0.0.1:0",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "200",
        }

    def run(self, block: Block) -> None:
        """Runs one block as its mark says."""
        text = block.text.replace("titan://...", self.join) if self.join else block.text
        if block.title:
            (self.directory / block.title).write_text(text, encoding="utf-8")
        command = self._command(block, text) if block.mark in RUN else []
        if block.mark == "runs":
            self._to_its_end(block, command)
        elif block.mark == "soon":
            self._again_and_again(block, command)
        elif block.mark in ("stays", "pool"):
            self._in_the_background(block, command)

    def _command(self, block: Block, text: str) -> list[str]:
        if block.language == "python":
            return [sys.executable, block.title] if block.title else [sys.executable, "-c", text]
        assert block.language == "sh", f"{block}: nobody knows how to run {block.language}"
        return ["bash", "-euo", "pipefail", "-c", text]

    def _to_its_end(self, block: Block, command: list[str]) -> None:
        status, printed = self._once(command)
        assert status == block.status, f"{block} ended with {status}:\n{printed}{self.logs()}"
        if block.prints is not None:
            assert matches(block.prints, printed), f"{block} printed\n{printed}\nand not\n{block.prints}"

    def _again_and_again(self, block: Block, command: list[str]) -> None:
        assert block.prints is not None, f"{block}: say what it prints in the end"
        until = time.monotonic() + PATIENCE
        while not matches(block.prints, (printed := self._once(command)[1])):
            assert time.monotonic() < until, f"{block} printed\n{printed}\nand not\n{block.prints}{self.logs()}"
            time.sleep(0.2)

    def _once(self, command: list[str]) -> tuple[int, str]:
        """Exit status and what was printed, on either stream."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def _in_the_background(self, block: Block, command: list[str]) -> None:
        output = self.directory / f"output-{len(self._running)}.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append((process, output))
        assert block.prints is not None, f"{block}: say what it prints, so that it is known when it runs"
        until = time.monotonic() + PATIENCE
        while not matches(block.prints, output.read_text(errors="replace")):
            over = process.poll() not in (None, 0) or time.monotonic() > until
            assert not over, f"{block} printed\n{output.read_text()}\nand not\n{block.prints}"
            time.sleep(0.05)

    def logs(self) -> str:
        return "".join(f"\n--- {path.name}\n{path.read_text(errors='replace')}" for _, path in self._running)

    def close(self, patience: float = 3.0) -> None:
        """Ends what still runs: politely, then not."""
        for sign, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
            until = time.monotonic() + seconds
            while _signal(process for process, _ in self._running) and time.monotonic() < until:
                if sign:
                    _signal((process for process, _ in self._running), sign)
                    sign = 0
                time.sleep(0.05)
        for process, _ in self._running:
            process.wait()


def _signal(processes: Iterable["subprocess.Popen[bytes]"], sign: int = 0) -> bool:
    """Sends a signal to the process groups (0: none); whether there is still somebody to get it."""
    somebody = False
    for process in processes:
        process.poll()
        try:
            os.killpg(process.pid, sign)
            somebody = True
        except ProcessLookupError:
            pass
    return somebody


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The pool of the programmer's tutorial: its founder's place."""
    base = tmp_path_factory.mktemp("documents")
    place = Place(base / "founder", base / "founder-data")
    try:
        for block in blocks_of(PROGRAMMER):
            if block.mark == "pool":
                place.run(block)
        asked = subprocess.run(
            ["titan", "invite", "--rights", "host"],
            env=place.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        place.join = asked.stdout.strip()
        yield place
    finally:
        place.close()
