"""An asyncio event loop on virtual time.

`VirtualLoop` runs unmodified asyncio code. Its clock stands still while anything is ready to run and then jumps to the
next timer, so an hour of a thousand nodes costs what their callbacks cost. Sockets are served by a `MemoryNetwork`.
Two runs with one seed do the same things in the same order:

- timers of equal deadline fire first-in first-out (asyncio's heap does not promise it);
- tasks and futures hash by serial number, since `asyncio.wait` and `TaskGroup` iterate over sets of them;
- threads, executors and real sockets are refused with `OutsideWorld`;
- `time`, `os.urandom` and `random` are sealed while the loop runs (`titan_overlay.testing.seal`).
"""

import asyncio
import contextlib
import contextvars
import gc
import heapq
import ipaddress
import itertools
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar, TypeVarTuple

from titan_overlay.testing.handles import OrderedWeakSet, VirtualFuture, VirtualHandle, VirtualTask, VirtualTimer
from titan_overlay.testing.network import MemoryNetwork
from titan_overlay.testing.refusals import Refusals
from titan_overlay.testing.seal import OutsideWorld, Seal

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MANY_CANCELLED = 256
GC_THRESHOLDS = (200_000, 20, 10)
"""Little here is garbage in cycles but dead nodes, and walking a thousand live ones would be half of the cost."""


class Deadlock(RuntimeError):
    """Nothing is ready and no timer is armed: every task waits for something that cannot happen."""


class Livelock(RuntimeError):
    """Callbacks keep each other busy at one instant, so the clock never moves."""


# What the heap holds: (when, serial, timer, None, ()) for call_at, (when, serial, None, callback, args) for post_at.
# The serial is unique, so a comparison never gets past it, and tuples compare in C.
_Entry = tuple[float, int, Any, Callable[..., object] | None, tuple[Any, ...]]


class VirtualLoop(Refusals):
    """Event loop whose clock starts at 0.0 and moves only when nothing is ready to run.

    seed: what the sealed surroundings, and a network without a seed of its own, draw from.
    network: the wires; a `MemoryNetwork()` with default latencies if not given. One network serves one loop.
    rounds_max: how many rounds of callbacks may run at one instant before `Livelock` is raised.
    callbacks: how many callbacks have run (a measure of work that does not depend on the machine).
    """

    def __init__(
        self, seed: int | str = 0, network: MemoryNetwork | None = None, *, rounds_max: int = 1_000_000
    ) -> None:
        super().__init__()
        # Base class internals that this class takes part in; typeshed does not list them.
        self._ready: deque[Any] = deque()
        self._scheduled: list[_Entry] = []
        self._stopping: bool
        self._thread_id: int | None
        self._clock_resolution = 1e-9  # for code that looks: never 0, or `when <= now + resolution` loops miss timers
        self._timer_cancelled_count = 0
        self._asyncgens = OrderedWeakSet()

        self.seed = seed
        self.rounds_max = rounds_max
        self.callbacks = 0
        self._now = 0.0
        self._next_serial = itertools.count(1).__next__
        self._next_task = itertools.count(1).__next__
        self._home_thread = threading.get_ident()
        self._seal = Seal(self.time, seed)
        self.network = MemoryNetwork() if network is None else network
        try:
            self.network.attach(self, seed)
        except BaseException:
            self.close()  # or the interpreter would warn about a loop that nobody ever had
            raise

    # -- time ------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's, first-in first-out."""
        if self._closed:
            self._check_closed()
        handle = VirtualHandle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's; equal deadlines fire in the order they were set."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's; equal deadlines fire in the order they were set."""
        if self._closed:
            self._check_closed()
        timer = VirtualTimer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, (when, self._next_serial(), timer, None, ()))
        return timer

    def post_at(self, when: float, callback: Callable[..., object], *args: Any) -> None:
        """Like `call_at`, but cannot be cancelled and copies no context: a third of the cost, for the wires."""
        heapq.heappush(self._scheduled, (when, self._next_serial(), None, callback, args))

    def _timer_handle_cancelled(self, handle: Any) -> None:
        if not handle._scheduled:
            return
        self._timer_cancelled_count += 1
        heap = self._scheduled
        if self._timer_cancelled_count > _MANY_CANCELLED and self._timer_cancelled_count * 2 > len(heap):
            # In place: the running loop holds this list. The handle itself is only marked after this call.
            heap[:] = [entry for entry in heap if (h := entry[2]) is None or not (h._cancelled or h is handle)]
            heapq.heapify(heap)
            handle._scheduled = False
            self._timer_cancelled_count = 0

    # -- the engine ------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        """One round of what is ready; before it, if nothing is, the clock jumps to the next timer."""
        ready, heap = self._ready, self._scheduled
        pop = heapq.heappop
        rounds = 0
        while True:
            if not ready and not self._stopping:
                while heap and (timer := heap[0][2]) is not None and timer._cancelled:
                    pop(heap)
                    timer._scheduled = False
                    self._timer_cancelled_count -= 1
                if not heap:
                    raise Deadlock(self._describe_deadlock())
                when = heap[0][0]
                if when > self._now:
                    self._now = when
                    rounds = 0
            now = self._now
            while heap and heap[0][0] <= now:
                entry = pop(heap)
                timer = entry[2]
                if timer is None:
                    ready.append(entry)
                elif timer._cancelled:
                    timer._scheduled = False
                    self._timer_cancelled_count -= 1
                else:
                    timer._scheduled = False
                    ready.append(timer)
            self._run_ready(ready)
            if self._stopping:
                return
            rounds += 1
            if rounds > self.rounds_max:
                raise Livelock(
                    f"{rounds} rounds of callbacks ran at {now:.6f} s without the clock moving: something spins "
                    f"(`while ...: await asyncio.sleep(0)`); let it wait for an event or sleep a while"
                )

    def _run_ready(self, ready: deque[Any]) -> None:
        popleft = ready.popleft
        count = len(ready)
        self.callbacks += count
        item: Any
        for _ in range(count):
            item = popleft()
            try:
                if type(item) is tuple:
                    item[3](*item[4])
                elif not item._cancelled:
                    item._context.run(item._callback, *item._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                callback = item[3] if type(item) is tuple else item._callback
                context = {"message": f"Exception in callback {callback!r}", "exception": error}
                if type(item) is not tuple:
                    context["handle"] = item
                self.call_exception_handler(context)
        item = None  # or the last callback would live as long as this frame

    def run_forever(self) -> None:
        """Runs until `stop`, with the surroundings sealed."""
        self._home_thread = threading.get_ident()
        with self._seal:
            super().run_forever()

    def _describe_deadlock(self) -> str:
        lines = [f"nothing is ready and no timer is armed at {self._now:.6f} s, so no task can ever go on:"]
        tasks = self.tasks()
        for task in tasks[:20]:
            frames = task.get_stack(limit=1)
            where = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "?"
            name = getattr(task.get_coro(), "__qualname__", "?")
            lines.append(f"  {task.get_name()} {name} waits at {where}")
        if len(tasks) > 20:
            lines.append(f"  and {len(tasks) - 20} more")
        if not tasks:
            lines.append("  there is no task; run_forever() needs a timer or a task to wait for")
        return "\n".join(lines)

    # -- tasks and futures -----------------------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        """A future that hashes by serial number."""
        return VirtualFuture(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        **kwargs: Any,
    ) -> asyncio.Task[T]:
        """A task that hashes by serial number; unnamed ones are named by their number in this loop."""
        if self.get_task_factory() is not None:
            return super().create_task(coro, name=name, **kwargs)
        self._check_closed()
        text = f"task-{self._next_task()}" if name is None else str(name)
        task = VirtualTask(coro, loop=self, name=text, **kwargs)
        task.host = self.network.here
        return task

    def tasks(self) -> list[VirtualTask]:
        """All unfinished tasks, oldest first."""
        return sorted((t for t in asyncio.all_tasks(self) if isinstance(t, VirtualTask)), key=hash)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none: executors are refused."""

    # -- what does not exist here ----------------------------------------------------------------------------

    def _check_closed(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")

    _closed: bool

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """From the loop's own thread (signal handlers, finalizers) as `call_soon`; from any other: OutsideWorld."""
        if threading.get_ident() != self._home_thread:
            raise OutsideWorld(
                "another thread called into a simulation (call_soon_threadsafe, run_coroutine_threadsafe): its timing "
                "is not deterministic; make the call from a task of the loop"
            )
        return self.call_soon(callback, *args, context=context)

    # -- wires -----------------------------------------------------------------------------------------------

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Answers numerically, and for the names in `network.names`; anything else is an unknown name (gaierror)."""
        nowhere = "0.0.0.0" if flags & socket.AI_PASSIVE else "127.0.0.1"  # noqa: S104 - an answer, nothing is bound
        text = host.decode() if isinstance(host, bytes) else host or nowhere
        text = self.network.resolve(text)
        version = ipaddress.ip_address(text).version
        found = socket.AF_INET if version == 4 else socket.AF_INET6
        if family not in (0, found):
            raise socket.gaierror(socket.EAI_NONAME, f"simulated network: {text!r} is not of family {family}")
        number = int(port or 0)
        address = (text, number) if version == 4 else (text, number, 0, 0)
        kinds = [(socket.SOCK_STREAM, socket.IPPROTO_TCP), (socket.SOCK_DGRAM, socket.IPPROTO_UDP)]
        return [(found, kind, p, "", address) for kind, p in kinds if type in (0, kind) and proto in (0, p)]

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Numeric."""
        return str(sockaddr[0]), str(sockaddr[1])

    async def create_datagram_endpoint(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        """As asyncio's, on the memory network. OSError: EADDRINUSE, EADDRNOTAVAIL."""
        return await self.network.create_datagram_endpoint(protocol_factory, *args, **kwargs)

    async def create_server(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        """As asyncio's, on the memory network. OSError: EADDRINUSE, EADDRNOTAVAIL."""
        return await self.network.create_server(protocol_factory, *args, **kwargs)

    async def create_connection(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        """As asyncio's, on the memory network. OSError: ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH."""
        return await self.network.create_connection(protocol_factory, *args, **kwargs)


def run(
    main: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T],
    *,
    seed: int | str = 0,
    network: MemoryNetwork | None = None,
) -> T:
    """Runs `main` on a fresh virtual loop, as `asyncio.run` does on a real one, and gives back its result.

    Afterwards every task left is cancelled and awaited, asynchronous generators are closed, the loop is closed.
    Inside, `asyncio.get_running_loop()` is the `VirtualLoop`, and its `.network` the wires.
    """
    if asyncio._get_running_loop() is not None:
        if asyncio.iscoroutine(main):
            main.close()
        raise RuntimeError("titan_overlay.testing.run() cannot be called from a running event loop")
    loop = VirtualLoop(seed, network)
    with _rare_collections():
        try:
            return loop.run_until_complete(main() if callable(main) else main)
        finally:
            try:
                _cancel_all_tasks(loop)
                loop.run_until_complete(loop.shutdown_asyncgens())
            finally:
                loop.close()


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """The garbage collector seldom runs meanwhile."""
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _cancel_all_tasks(loop: VirtualLoop) -> None:
    left = loop.tasks()
    if not left:
        return
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    for task in left:
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "unhandled exception during the shutdown of a simulation", "exception": error}
            loop.call_exception_handler({**context, "task": task})
