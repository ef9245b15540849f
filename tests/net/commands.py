"""`titan` and `titan-node` as a user runs them: processes of their own, on loopback, in directories of their own."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
SECONDS = 60
"""Bound of every wait; nothing takes as long unless it hangs."""


def environment(home: Path, **more: str) -> dict[str, str]:
    """A user's environment without anything of the one that runs the tests."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
    return {**kept, "HOME": str(home), "PYTHONUNBUFFERED": "1", **more}


class NodeProcess:
    """A `titan-node`. Standard error (its log) goes to a file; what standard output says is the join line."""

    def __init__(
        self, data: Path, *flags: str, listen: str | None = "127.0.0.1:0", installed: Path = BIN, **variables: str
    ) -> None:
        self.data = data
        self.log_file = data.with_name(f"{data.name}.log")
        where = ["--listen", listen] if listen else []
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [installed / "titan-node", "--data", str(data), *where, *flags],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(data.parent, **variables),
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def join_line(self) -> str:
        """Waits until the node serves. Fails with its log where it ends first."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(SECONDS, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline().strip()
        finally:
            watchdog.cancel()
        assert line, f"titan-node ended with {self.process.wait()}:\n{self.log}"
        return line

    def wait_for_log(self, text: str) -> None:
        """Waits until its log says so."""
        turn = threading.Event()
        for _ in range(SECONDS * 20):
            if text in self.log:
                return
            turn.wait(0.05)
        raise AssertionError(f"{text!r} is not in the log:\n{self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signals it, and waits for its end; gives its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


def titan(
    *words: str, home: Path, status: int = 0, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Runs `titan`; its exit status must be `status`, and what it says of errors is one line and no traceback."""
    done = subprocess.run(
        [BIN / "titan", *words],
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        env=environment(home, **variables),
        cwd=home,
    )
    said = f"titan {' '.join(words)}\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
    assert done.returncode == status, said
    assert b"Traceback" not in done.stderr, said
    return done


def titan_json(*words: str, home: Path, **more: Any) -> Any:
    """What `titan ... --json` prints."""
    return json.loads(titan(*words, "--json", home=home, **more).stdout)


def node_fails(*flags: str, home: Path, variables: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Runs a `titan-node` that should not come up: its exit status, and standard error."""
    done = subprocess.run(
        [BIN / "titan-node", *flags],
        capture_output=True,
        timeout=SECONDS,
        text=True,
        env=environment(home, **(variables or {})),
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr
