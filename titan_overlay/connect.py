"""Ways in: `connect` for programs with an event loop, `connect_sync` and `titan.send` for those without.

The synchronous ones run the asynchronous `Pool` in a thread of their own, so they also work where a loop is already
running (Jupyter).
"""

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from titan_overlay.ambient import Ambient
from titan_overlay.client import DEFAULT_TIMEOUT, Pool
from titan_overlay.config import NodeConfig, default_data_directory
from titan_overlay.errors import ConfigError, Unavailable
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import KEY_BYTES, SigningKey
from titan_overlay.member import Member
from titan_overlay.storage.directory import DataDirectory

P = ParamSpec("P")
T = TypeVar("T")

BOOTSTRAP_VARIABLE = "TITAN_BOOTSTRAP"
JOIN_SECONDS = 10.0


def find_target(target: str | None, data: Path) -> JoinLine:
    """Where to connect: what was given, else `TITAN_BOOTSTRAP`, else the node of this user on this machine.

    Raises:
        ConfigError: there is none of the three.
    """
    text = target or os.environ.get(BOOTSTRAP_VARIABLE, "").replace(",", " ").partition(" ")[0]
    if text:
        return JoinLine.parse(text)
    running = DataDirectory.running(data)
    if running is not None:
        return running
    raise ConfigError(
        f"no pool to connect to: no address was given, {BOOTSTRAP_VARIABLE} is not set, and no node of yours runs "
        "here; start one with: titan-node"
    )


@asynccontextmanager
async def connect(
    target: str | None = None,
    *,
    data: str | Path | None = None,
    key: SigningKey | None = None,
    timeout: float = JOIN_SECONDS,
) -> AsyncIterator[Pool]:
    """A light client of a pool; it never enters routing tables.

    Args:
        target: `host:port`, a join line, or None: `TITAN_BOOTSTRAP`, or the node of this user on this machine.
        data: directory with this user's key and grants; by default the one that `titan-node` uses.
        key: publish and send as this key instead of the user's.
        timeout: seconds to reach the pool.

    Raises:
        ConfigError: no target, or it is another pool than the join line says.
        Unavailable: nobody answered in time.
    """
    directory = Path(data) if data is not None else Path(os.environ.get("TITAN_DATA") or default_data_directory())
    line = find_target(target, directory)
    ambient = Ambient.system()
    user = key or DataDirectory.user_key(directory, ambient)
    grants = [*DataDirectory.read_grants(directory), *([line.invitation] if line.invitation else [])]
    member = Member(
        SigningKey(ambient.token_bytes(KEY_BYTES)),
        PoolId(line.pool) if line.pool else None,
        ambient,
        NodeConfig(),
        user=user,
        client=True,
        grants=grants,
    )
    async with opened(member, line, timeout) as pool:
        yield pool


@asynccontextmanager
async def opened(member: Member, line: JoinLine, timeout: float) -> AsyncIterator[Pool]:
    """A client member, joined through `line`, as a pool; closed at the end."""
    try:
        await member.open("::" if ":" in line.host else "0.0.0.0", 0)  # noqa: S104  (an ephemeral port for replies)
        reached = await member.join([line], give_up_after=timeout)
        if not reached:
            raise Unavailable(
                f"no node answers at {line.host}:{line.port} (waited {timeout:g} s); is it up, and is UDP open?"
            )
        member.wire()
        yield Pool(member)
    finally:
        await member.close()


class SyncPool:
    """`Pool` for programs without an event loop; every method blocks. Made by `connect_sync`, used in a `with`."""

    def __init__(self, target: str | None = None, **options: Any) -> None:
        self._thread = _LoopThread()
        self._manager = connect(target, **options)
        try:
            self._pool: Pool = self._thread.run(self._manager.__aenter__())
        except BaseException:
            self._thread.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the pool; further calls fail."""
        if self._thread.alive:
            try:
                self._thread.run(self._manager.__aexit__(None, None, None))
            finally:
                self._thread.stop()

    def stream(self, name: str, message: Any, *, timeout: float = 60.0) -> Iterator[Any]:
        """As `Pool.stream`."""
        items = self._pool.stream(name, message, timeout=timeout)
        while True:
            try:
                yield self._thread.run(_next(items))
            except StopAsyncIteration:
                return

    def __getattr__(self, method: str) -> Any:
        function = getattr(self._pool, method)
        if not asyncio.iscoroutinefunction(function):
            return function
        return self._blocking(function)

    def _blocking(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._thread.run(function(*args, **kwargs))

        return call


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)


class _LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="titan", daemon=True)
        self._thread.start()
        self.alive = True

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def stop(self) -> None:
        if self.alive:
            self.alive = False
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def connect_sync(target: str | None = None, **options: Any) -> SyncPool:
    """As `connect`, for programs without an event loop: `with titan.connect_sync("host:port") as pool: ...`."""
    return SyncPool(target, **options)


_shared: SyncPool | None = None
_shared_lock = threading.Lock()


def _shared_pool() -> SyncPool:
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = SyncPool()
            atexit.register(_shared.close)
        return _shared


def send(name: str, message: Any, *, timeout: float = DEFAULT_TIMEOUT) -> Any:
    """`reply = titan.send("greeter", "hello")`, through a connection that the process keeps."""
    return _shared_pool().send(name, message, timeout=timeout)


async def asend(name: str, message: Any, *, timeout: float = DEFAULT_TIMEOUT) -> Any:
    """As `send`, to be awaited: `await titan.asend("greeter", "hello")`."""
    pool = await asyncio.to_thread(_shared_pool)
    return await asyncio.to_thread(pool.send, name, message, timeout=timeout)
