"""Real servers for tests: Debian's redis-server, and `titan store serve`; each on a port of its own on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

import pytest

from tests.ports import free_port

BIN = Path(sys.executable).parent
SECONDS = 60

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not here: scripts/install-test-packages brings it"
)


class Process:
    """A server in a process of its own; gone when the block ends."""

    def __init__(self, words: list[str | Path], ready: str, log: Path, **environment: str) -> None:
        self.log_file = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | environment,
            )
        assert self.process.stdout is not None
        watchdog = threading.Timer(SECONDS, self.process.kill)
        watchdog.start()
        try:
            for line in self.process.stdout:
                if ready in line:
                    self.line = line.strip()
                    break
            else:
                raise AssertionError(f"{words[0]} ended with {self.process.wait()}:\n{log.read_text()}")
        finally:
            watchdog.cancel()
        self._drain = threading.Thread(target=self.process.stdout.read, daemon=True)
        self._drain.start()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            status = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self._drain.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        self.stop(signal.SIGKILL)


class RealRedis(Process):
    """Debian's redis-server. Extra words are settings, as on its command line."""

    def __init__(self, directory: Path, *words: str) -> None:
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
        super().__init__(
            ["redis-server", *settings, *words], "Ready to accept connections", directory / "redis-server.log"
        )


class TitanStore(Process):
    """`titan store serve` over a directory. `environment`: variables beside those of this process."""

    def __init__(self, directory: Path, *words: str, **environment: str) -> None:
        directory.mkdir(exist_ok=True)
        log = directory.with_name(f"{directory.name}.log")
        super().__init__(
            [BIN / "titan", "store", "serve", "--dir", str(directory), "--port", "0", *words],
            "serves on",
            log,
            **environment,
        )
        self.port = int(self.line.rpartition(":")[2])


class Wire:
    """A connection that shows replies as they stand on the wire."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self.file = self.socket.makefile("rb")

    def ask(self, *args: bytes | str | int | float) -> bytes:
        self.send(*args)
        return self.reply()

    def send(self, *args: bytes | str | int | float) -> None:
        words = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))

    def reply(self) -> bytes:
        line = self.file.readline()
        if not line:
            raise ConnectionError("the server has closed the connection")
        kind, size = line[:1], line[1:-2]
        if kind in b"$=":
            return line if size == b"-1" else line + self.file.read(int(size) + 2)
        if kind in b"*~>%" and size != b"-1":
            count = int(size) * (2 if kind == b"%" else 1)
            return line + b"".join(self.reply() for _ in range(count))
        return line

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, at: TracebackType | None) -> None:
        self.close()
