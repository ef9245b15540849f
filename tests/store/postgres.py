"""A real PostgreSQL server for tests: Debian's, on a port of its own on loopback, and thrown away with its database."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.store.real import Process


def _directory() -> Path | None:
    """Where Debian has the newest server's programs, which are on nobody's PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: int(each.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgresql() -> Iterator[str]:
    """A server with an empty database, by its URL; skips the test where there is none."""
    place = _directory()
    if place is None:
        pytest.skip("postgresql is not here: scripts/install-test-packages brings it")
    # It refuses to run as root, and nobody else sees what root's temporary directories hold.
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    home = Path(tempfile.mkdtemp(prefix="titan-postgresql-"))
    try:
        if user:
            shutil.chown(home, "postgres", "postgres")
        words = [*user, place / "initdb", "-D", home / "data", "-U", "titan", "-A", "trust", "-N", "-E", "UTF8"]
        subprocess.run(words, check=True, capture_output=True, cwd="/", timeout=120)
        port = free_port()
        settings = ("fsync=off", "shared_buffers=1MB", "max_connections=10", "unix_socket_directories=")
        words = [
            *user, "sh", "-c", 'cd / && exec "$@" 2>&1', "sh", place / "postgres", "-D", home / "data",
            "-h", "127.0.0.1", "-p", str(port), *(word for each in settings for word in ("-c", each)),
        ]  # fmt: skip
        with Process(words, "ready to accept connections", home / "log") as server:
            yield f"postgresql://titan@127.0.0.1:{port}/postgres"
            server.stop(signal.SIGINT)
    finally:
        shutil.rmtree(home, ignore_errors=True)
