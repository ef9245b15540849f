"""Several futures of one simulated world, each in a copy of this process.

A pool that has joined and published is expensive. What is measured under several settings begins from the same state
each time: the process forks, the copy goes on with one setting, and only its result comes back. Copies share memory
until they write, and run one after the other.
"""

import asyncio
import os
import signal
import traceback
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from titan_simulations import termination

T = TypeVar("T")


async def branched(work: Callable[[], Awaitable[T]], kind: type[T]) -> T:
    """The result of `work`, of this kind (a msgspec Struct), done in a copy of this process and its running loop.

    What `work` changes is not changed here.

    Raises:
        RuntimeError: it failed; its traceback is on standard error.
    """
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe()
    copies: list[int] = []
    parent = os.getpid()
    with termination.spread(copies):
        with termination.held():
            child = os.fork()
            if child:
                copies.append(child)
        if child:
            os.close(writer)
            return msgspec.msgpack.decode(_outcome(child, reader), type=kind)
    status = 1
    termination.end_with(parent)
    try:
        os.close(reader)
        asyncio._set_running_loop(loop)  # it counts as running in the process alone that it was started in
        _write(writer, msgspec.msgpack.encode(await work()))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _write(writer: int, answer: bytes) -> None:
    with open(writer, "wb") as pipe:
        pipe.write(answer)


def _outcome(child: int, reader: int) -> bytes:
    """What the copy wrote; simulated time stands still meanwhile."""
    try:
        with open(reader, "rb") as pipe:
            answer = pipe.read()
    except BaseException:  # nobody waits for it any more
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a branch of the simulation failed; its traceback is above")
    return answer
