"""A warm process that calls functions of one bundle.

    python -m titan_objects.dag.child DIRECTORY

Its standard input is a socket, by which requests come and answers go (`conversation.py`). What the functions print goes
to one pipe, which is both standard output and standard error: the worker reads it as the task's log.
"""

import fcntl
import importlib
import os
import stat
import sys
import termios
from types import CoroutineType
from typing import Any

import msgspec

from titan_objects.dag import inside
from titan_objects.dag.inside import Answer, Call, Running, read_frame

END = "\x1eend"
"""On a line of its own among what is printed: all that a call has written came before it."""
TEXT_MAX = 2000
TRACE_MAX = 64 * 1024


def call(request: Call) -> Answer:
    """Calls a function. Whatever it raises is an answer."""
    try:
        module, _, name = request.function.partition(":")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        found = getattr(found, "function", found)
        value = found(*request.args, **request.inputs)
        if isinstance(value, CoroutineType):
            from asyncio import run  # most functions need none

            value = run(value)
        answer = Answer(msgspec.msgpack.encode(value))
    except BaseException as why:
        sys.stdout.flush()
        sys.stderr.write(_trace(why))
        answer = Answer(kind=type(why).__name__, text=_text(why))
    sys.stdout.flush()
    sys.stderr.flush()
    if is_read():
        return answer
    sys.stderr.write(f"\n{END}\n")
    sys.stderr.flush()
    return msgspec.structs.replace(answer, more=True)


def _trace(why: BaseException) -> str:
    """Where it was raised, for the log: from the function on."""
    from traceback import format_exception  # most calls need none

    above = why.__traceback__
    return "".join(format_exception(type(why), why, above and above.tb_next))[-TRACE_MAX:]


def _text(why: BaseException) -> str:
    try:
        return str(why)[:TEXT_MAX].encode(errors="backslashreplace").decode()  # names of files may be no text
    except Exception:
        return "(its text cannot be shown)"


def is_read() -> bool:
    """Whether the worker has all that was printed. Only Linux tells, and of pipes alone: uvloop uses sockets."""
    if sys.platform != "linux" or not stat.S_ISFIFO(os.fstat(2).st_mode):
        return False
    return not any(fcntl.ioctl(2, termios.FIONREAD, bytes(4)))


def main() -> None:
    """Serves until its input ends."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(0), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.path.insert(0, sys.argv[1])
    while (body := read_frame(requests)) is not None:
        request = msgspec.msgpack.decode(body, type=Call)
        inside.here = running = Running(request.epoch, requests, answers, request.store)
        answer = call(request)
        inside.here = None
        running.end(answer)


if __name__ == "__main__":
    main()
