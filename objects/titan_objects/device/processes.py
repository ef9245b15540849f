"""Running a program: no shell, bounded output, bounded time, and its children end with it."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

import msgspec

import titan_overlay as titan

T = TypeVar("T")

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
_PIECE_BYTES = 64 << 10


class Finished(msgspec.Struct, frozen=True):
    """What a program left behind."""

    status: int
    output: bytes
    errors: bytes
    truncated: bool


def environment() -> dict[str, str]:
    """What a program is told of ours: enough to find its files, and no settings or secrets of the node."""
    return {key: os.environ[key] for key in _PASSED_ON if key in os.environ}


async def start(
    words: Sequence[str], *, directory: str = "", talks: bool = False, limit: int = _PIECE_BYTES
) -> asyncio.subprocess.Process:
    """Starts a program in a session of its own, so that what it starts can be ended with it.

    Args:
        talks: its standard input is a pipe; else it is empty.
        limit: bytes that its output may have in one line.

    Raises:
        Unavailable: it cannot be started.
    """
    try:
        return await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=directory or None,
            env=environment(),
            start_new_session=True,
            limit=limit,
        )
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) and why.strerror else str(why)
        raise titan.Unavailable(f"{words[0]} cannot be started: {reason}") from None


async def end(process: asyncio.subprocess.Process) -> None:
    """Ends a program and all that it started, whatever they are doing, and waits for it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # A pipe that somebody else still holds open must not keep us: what is unread is dropped. The transport is closed
    # last: while the status is on its way to the loop's watcher of children, it would take it away from there.
    transport: Any = process._transport  # type: ignore[attr-defined]
    for number in range(3):
        if (pipe := transport.get_pipe_transport(number)) is not None:
            pipe.close()
    await process.wait()
    transport.close()


async def run(words: Sequence[str], *, timeout: float, output_bytes_max: int, directory: str = "") -> Finished:
    """Runs a program to its end.

    Raises:
        Unavailable: it cannot be started.
        DeadlineExceeded: it took longer than `timeout` seconds, and was ended.
    """
    process = await start(words, directory=directory)
    assert process.stdout is not None and process.stderr is not None
    try:
        async with asyncio.timeout(timeout):
            output, errors, status = await asyncio.gather(
                _bounded(process.stdout, output_bytes_max),
                _bounded(process.stderr, output_bytes_max),
                process.wait(),
            )
    except TimeoutError:
        raise titan.DeadlineExceeded(
            f"{words[0]} took longer than {timeout:g} s and was ended", maybe_executed=True
        ) from None
    finally:
        await asyncio.shield(end(process))
    return Finished(status, output[0], errors[0], output[1] or errors[1])


async def _bounded(reader: asyncio.StreamReader, limit: int) -> tuple[bytes, bool]:
    """Everything up to `limit` bytes, and whether there was more. Reads on to the end: a full pipe would block it."""
    kept = bytearray()
    more = False
    while piece := await reader.read(_PIECE_BYTES):
        room = limit - len(kept)
        kept += piece[:room]
        more = more or len(piece) > room
    return bytes(kept), more


async def in_thread(function: Callable[[], T], timeout: float) -> T:
    """Runs a function that may block in a thread of its own, which dies with the process where it never returns.

    Raises:
        DeadlineExceeded: after `timeout` seconds; the thread goes on, its result is dropped.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]

    def work() -> None:
        value, error = None, None
        try:
            value = function()
        except BaseException as why:
            error = why if isinstance(why, Exception) else RuntimeError(f"{type(why).__name__}: {why}")
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, value, error)

    Thread(target=work, daemon=True, name="titan-sensor").start()
    try:
        async with asyncio.timeout(timeout):
            return await result
    except TimeoutError:
        raise titan.DeadlineExceeded(f"no reading within {timeout:g} s") from None


def text_of(data: bytes) -> str:
    """Output as text; bytes that are not UTF-8 become U+FFFD."""
    return data.decode("utf-8", "replace")


def first_line(data: bytes) -> str:
    """The first line of some output, for an error."""
    return text_of(data).strip().partition("\n")[0][:200]


def allowed(senders: Sequence[str], ctx: titan.Context) -> None:
    """Raises Forbidden unless the sender is among `senders` (fingerprints, or "*" for anyone)."""
    who = ctx.sender.id.hex()[:32]
    if "*" not in senders and all(who != known.removeprefix("~") for known in senders):
        raise titan.Forbidden(
            f"{ctx.name!r} takes no messages from key {who}; its operator lists who may: senders = [...]"
        )
