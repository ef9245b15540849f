"""What a virtual loop cannot do, each with an error that says what to do instead."""

import asyncio
from typing import Any

from titan_overlay.testing.seal import OutsideWorld

_ENDPOINTS = "use create_datagram_endpoint, create_server, create_connection"


class Refusals(asyncio.BaseEventLoop):
    """A loop without threads, processes, real file descriptors and TLS."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Refused: OutsideWorld."""
        raise OutsideWorld(
            f"run_in_executor({func!r}): a thread is not deterministic; call it directly, or put it behind a seam "
            f"that has an in-memory twin (as storage.Disk has titan_overlay.testing.MemoryDisk)"
        )

    def _refuse(self, what: str, instead: str) -> Any:
        raise OutsideWorld(f"{what} leaves the simulated world; {instead}")

    def set_default_executor(self, executor: Any) -> None:
        """Refused: OutsideWorld."""
        self._refuse("set_default_executor", "there are no executors here")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: OutsideWorld."""
        self._refuse("a subprocess", "hand in a twin of the object that starts it")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: OutsideWorld."""
        self._refuse("a subprocess", "hand in a twin of the object that starts it")

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        """Refused: OutsideWorld."""
        self._refuse("add_reader (a real file descriptor)", _ENDPOINTS)

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        """Refused: OutsideWorld."""
        self._refuse("add_writer (a real file descriptor)", _ENDPOINTS)

    async def start_tls(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: OutsideWorld."""
        self._refuse("TLS", "simulated links go without it")

    async def create_unix_server(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: OutsideWorld."""
        self._refuse("a Unix socket", "use create_server")

    async def create_unix_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: OutsideWorld."""
        self._refuse("a Unix socket", "use create_connection")
