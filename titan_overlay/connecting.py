"""Ways in: `connect` for programs with an event loop, `connect_sync` and `titan.send` for those without.

The synchronous ones run the asynchronous `Pool` in a thread of their own, so they also work where a loop is already
running (Jupyter).
"""

import asyncio
import atexit
import functools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from titan_overlay.ambient import Ambient
from titan_overlay.client import STREAM_TIMEOUT, Answer, Builtin, Pool
from titan_overlay.config import NodeConfig, default_data_directory
from titan_overlay.errors import ConfigError, Unavailable
from titan_overlay.first_use import FirstUse
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.invitations import redeemed
from titan_overlay.identity.keys import KEY_BYTES, SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.member import Member
from titan_overlay.mutable.talk import Change
from titan_overlay.overlay import udp
from titan_overlay.patience import DEFAULT_TIMEOUT
from titan_overlay.pool.finding.reference import Reference
from titan_overlay.pool.message import Message
from titan_overlay.storage.directory import DataDirectory
from titan_overlay.storage.known_pools import KnownPools

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

BOOTSTRAP_VARIABLE = "TITAN_BOOTSTRAP"
JOIN_SECONDS = 10.0

FindSeeds = Callable[[], Sequence[JoinLine]]
"""Gives the nodes to join through; asked again when all nodes that were known have gone."""


def find_seeds(target: str | None, data: Path) -> Sequence[JoinLine]:
    """Where to connect: what was given, else `TITAN_BOOTSTRAP`, else the node of this user on this machine.

    Raises:
        ConfigError: there is none of the three, or it cannot be read.
    """
    text = target or os.environ.get(BOOTSTRAP_VARIABLE, "")
    if not isinstance(text, str):
        raise ConfigError(f"where to connect is a text, also of several addresses, not of type {type(text).__name__!r}")
    given = text.replace(",", " ").split()
    if given:
        return [JoinLine.parse(each) for each in given]
    running = DataDirectory.running(data)
    if running is not None:
        return [running]
    raise ConfigError(
        f"no pool to connect to: no address was given, {BOOTSTRAP_VARIABLE} is not set, and no node of yours runs "
        f"on {data}; start one with: titan-node"
    )


def _directory(data: str | Path | None) -> Path:
    return Path(data or os.environ.get("TITAN_DATA") or default_data_directory()).expanduser()


@asynccontextmanager
async def connect(
    target: str | None = None,
    *,
    data: str | Path | None = None,
    key: SigningKey | None = None,
    timeout: float = JOIN_SECONDS,
) -> AsyncIterator[Pool]:
    """A light client of a pool; it never enters routing tables.

    A `host:port` without a pool is trust on first use: a warning of the logger `titan` says which pool it is, and the
    data directory remembers it.

    Args:
        target: `host:port`, a join line, several of them with spaces between, or None: `TITAN_BOOTSTRAP`, or the node
            of this user on this machine. When all nodes that it came to know have gone, it looks there again.
        data: directory with this user's key and grants; by default the one that `titan-node` uses.
        key: publish and send as this key instead of the user's.
        timeout: seconds to reach the pool.

    Raises:
        ConfigError: no target, its invitation does not hold, or it is another pool than the join line says or than it
            was at first use.
        Unavailable: nobody answered in time.
    """
    directory = _directory(data)
    bare = functools.partial(find_seeds, target, directory)
    first_use = FirstUse(KnownPools(directory / "known_pools"))
    seeds = first_use.expecting(bare())
    ambient = Ambient.system()
    user = key or DataDirectory.user_key(directory, ambient)
    invited = [
        raw for seed in seeds if seed.invitation for raw in redeemed(seed.invitation, PoolId(seed.pool), user.id)
    ]
    member = Member(
        SigningKey(ambient.token_bytes(KEY_BYTES)),
        Rights(next((PoolId(seed.pool) for seed in seeds if seed.pool), None)),
        ambient,
        NodeConfig(),
        user=user,
        client=True,
        grants=[*DataDirectory.read_grants(directory), *invited],
    )
    async with AsyncExitStack() as stack:
        joined = opened(member, lambda: first_use.expecting(bare()), timeout, udp.here(udp.EVERYWHERE))
        try:
            pool = await stack.enter_async_context(joined)
        except (ConfigError, Unavailable):
            await first_use.check(bare(), ambient.token_bytes)
            raise
        first_use.pin(member.overlay.joined_through, member.overlay.pool)
        yield pool


@asynccontextmanager
async def opened(member: Member, find: FindSeeds, timeout: float, interfaces: Sequence[str]) -> AsyncIterator[Pool]:
    """A client member with these interfaces, joined through the seeds, as a pool; closed at the end."""
    seeds = find()
    try:
        await member.open(interfaces)
        if not await member.join(seeds, give_up_after=timeout):
            tried = ", ".join(seed.address for seed in seeds)
            raise Unavailable(f"no node answers at {tried} (waited {timeout:g} s); is it up, and is UDP open?")
        member.overlay.find_seeds = find
        member.wire()
        await member.gossip.compare()  # what was taken back must not be believed meanwhile
        pool = Pool(member)
        try:
            yield pool
        finally:
            pool._leave()
    finally:
        await member.close()


def _blocking(
    method: Callable[Concatenate[Pool, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncPool", P], T]:
    """The method of `Pool`, as one of `SyncPool`."""

    @functools.wraps(method)
    def call(self: "SyncPool", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(method(self._pool, *args, **kwargs))

    return call


class SyncPool:
    """`Pool` for programs without an event loop; every method blocks. Made by `connect_sync`, used in a `with`.

    Any thread may use it. A process that was forked opens its own.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        data: str | Path | None = None,
        key: SigningKey | None = None,
        timeout: float = JOIN_SECONDS,
    ) -> None:
        self._process = os.getpid()
        self._opened: Future[Pool] = Future()
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()
        connection = connect(target, data=data, key=key, timeout=timeout)
        self._thread = threading.Thread(target=self._live, args=(connection,), name="titan", daemon=True)
        self._thread.start()
        self._loop, self._life = self._started.result()
        atexit.register(self.close)
        try:
            self._pool = self._opened.result()
        except BaseException:
            self.close()
            raise

    def _live(self, connection: AbstractAsyncContextManager[Pool]) -> None:
        """What the thread does: keeps the connection until `close` cancels it."""

        async def life() -> None:
            task = asyncio.current_task()
            assert task is not None
            self._started.set_result((asyncio.get_running_loop(), task))
            async with connection as pool:
                self._opened.set_result(pool)
                await asyncio.get_running_loop().create_future()

        work = life()
        try:
            asyncio.run(work)
        except BaseException as why:
            if not self._started.done():  # there was no loop to begin it: too many files are open
                work.close()
                self._started.set_exception(why)
            elif not self._opened.done():
                self._opened.set_exception(why)
            elif not isinstance(why, asyncio.CancelledError):
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it has left the pool."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """Leaves the pool; further calls fail."""
        atexit.unregister(self.close)
        if self._process == os.getpid() and not self.closed:
            with suppress(RuntimeError):  # it may end by itself just now
                self._loop.call_soon_threadsafe(self._life.cancel)
            self._thread.join()

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begins work in the thread."""
        trouble = ""
        if self._process != os.getpid():
            trouble = "this pool was opened before the process was forked; open one in each process"
        elif threading.current_thread() is self._thread:
            trouble = "this would wait for itself: a callback of a pool cannot make a blocking call to that pool"
        elif not self.closed:
            with suppress(RuntimeError):
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise RuntimeError(trouble or "this pool is closed")

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._submit(work)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError("this pool was closed by another thread") from None
        except BaseException:
            future.cancel()  # Ctrl-C: the work is not wanted any more
            raise

    # ---- what `Pool` has, blocking -----------------------------------------------------------------------------

    @overload
    def send(self, name: str, message: Message[R], *, timeout: float = ..., once: str = ...) -> R: ...
    @overload
    def send(self, name: str, message: Builtin, *, timeout: float = ..., once: str = ...) -> Any: ...
    def send(self, name: str, message: Any, *, timeout: float = DEFAULT_TIMEOUT, once: str = "") -> Any:
        """As `Pool.send`."""
        return self._run(self._pool.send(name, message, timeout=timeout, once=once))

    def send_batch(
        self, name: str, messages: Sequence[Any], *, timeout: float = DEFAULT_TIMEOUT, once: str = ""
    ) -> list[Any]:
        """As `Pool.send_batch`."""
        return self._run(self._pool.send_batch(name, messages, timeout=timeout, once=once))

    @overload
    def read(self, name: str, message: Message[R], *, stale_ok: bool = ..., timeout: float = ...) -> R: ...
    @overload
    def read(self, name: str, message: Builtin, *, stale_ok: bool = ..., timeout: float = ...) -> Any: ...
    def read(self, name: str, message: Any, *, stale_ok: bool = False, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """As `Pool.read`."""
        return self._run(self._pool.read(name, message, stale_ok=stale_ok, timeout=timeout))

    def add_member(self, name: str, node: str, *, timeout: float = 60.0) -> None:
        """As `Pool.add_member`."""
        self._run(self._pool.add_member(name, node, timeout=timeout))

    def watch(self, name: str, *, start: int = 0) -> Iterator[Change]:
        """As `Pool.watch`. Closing the iterator, or letting it go, ends it."""
        return self._iterate(self._pool.watch(name, start=start))

    @overload
    def ask(self, name: str, message: Message[R], *, timeout: float = ...) -> Answer[R]: ...
    @overload
    def ask(self, name: str, message: Builtin, *, timeout: float = ...) -> Answer[Any]: ...
    def ask(self, name: str, message: Any, *, timeout: float = DEFAULT_TIMEOUT) -> Answer[Any]:
        """As `Pool.ask`."""
        return self._run(self._pool.ask(name, message, timeout=timeout))

    @overload
    def stream(self, name: str, message: Message[R], *, timeout: float = ...) -> Iterator[R]: ...
    @overload
    def stream(self, name: str, message: Builtin, *, timeout: float = ...) -> Iterator[Any]: ...
    def stream(self, name: str, message: Any, *, timeout: float = STREAM_TIMEOUT) -> Iterator[Any]:
        """As `Pool.stream`. Closing the iterator, or letting it go, ends the stream."""
        return self._iterate(self._pool.stream(name, message, timeout=timeout))

    def _iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        try:
            while True:
                try:
                    item = self._run(_next(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if not self.closed:  # with the pool its streams have ended
                self._run(items.aclose())

    def ref(self, type: type[Any], name: str) -> Any:
        """As `Pool.ref`; calls block: `pool.ref(Greeter, "greeter").greet("you")`."""
        return Reference(self, type, name)

    publish = _blocking(Pool.publish)
    put = _blocking(Pool.put)
    put_receipt = _blocking(Pool.put_receipt)
    get = _blocking(Pool.get)
    delete = _blocking(Pool.delete)
    move = _blocking(Pool.move)
    locate = _blocking(Pool.locate)
    describe = _blocking(Pool.describe)
    group = _blocking(Pool.group)
    recover = _blocking(Pool.recover)
    multicast = _blocking(Pool.multicast)
    census = _blocking(Pool.census)
    nearest = _blocking(Pool.nearest)
    crowd = _blocking(Pool.crowd)
    pack = _blocking(Pool.pack)
    unpack = _blocking(Pool.unpack)
    send_raw = _blocking(Pool.send_raw)
    ask_raw = _blocking(Pool.ask_raw)

    @property
    def id(self) -> str:
        """As `Pool.id`."""
        return self._pool.id

    def token_bytes(self, length: int) -> bytes:
        """As `Pool.token_bytes`."""
        return self._pool.token_bytes(length)

    @property
    def trusted(self) -> list[str]:
        """As `Pool.trusted`."""
        return self._pool.trusted


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


def connect_sync(
    target: str | None = None,
    *,
    data: str | Path | None = None,
    key: SigningKey | None = None,
    timeout: float = JOIN_SECONDS,
) -> SyncPool:
    """As `connect`, for programs without an event loop: `with titan.connect_sync("host:port") as pool: ...`."""
    return SyncPool(target, data=data, key=key, timeout=timeout)


# ---- one connection for the whole process ----------------------------------------------------------------------

_shared: SyncPool | None = None
_shared_lock = threading.Lock()
_inherited: list[SyncPool] = []
"""Of the process that this one was forked from: kept, so that nothing here closes its sockets."""


def _shared_pool() -> SyncPool:
    global _shared
    with _shared_lock:
        if _shared is None or _shared.closed:  # closed: at exit, and what runs after that may still send
            _shared = SyncPool()
        return _shared


def _after_fork() -> None:
    global _shared, _shared_lock
    _shared_lock = threading.Lock()
    if _shared is not None:
        _inherited.append(_shared)
        _shared = None


os.register_at_fork(after_in_child=_after_fork)


@overload
def send(name: str, message: Message[R], *, timeout: float = ...) -> R: ...
@overload
def send(name: str, message: Builtin, *, timeout: float = ...) -> Any: ...
def send(name: str, message: Any, *, timeout: float = DEFAULT_TIMEOUT) -> Any:
    """`reply = titan.send("greeter", "hello")`, through a connection that the process keeps.

    It goes to `TITAN_BOOTSTRAP`, or to the node of this user on this machine. Raises as `connect` and `Pool.send`.
    """
    return _shared_pool().send(name, message, timeout=timeout)


@overload
async def asend(name: str, message: Message[R], *, timeout: float = ...) -> R: ...
@overload
async def asend(name: str, message: Builtin, *, timeout: float = ...) -> Any: ...
async def asend(name: str, message: Any, *, timeout: float = DEFAULT_TIMEOUT) -> Any:
    """As `send`, to be awaited: `await titan.asend("greeter", "hello")`."""
    pool = _shared
    if pool is None or pool.closed:
        pool = await asyncio.to_thread(_shared_pool)
    return await asyncio.wrap_future(pool._submit(pool._pool.send(name, message, timeout=timeout)))
