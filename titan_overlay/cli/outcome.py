"""How a command ends: its work done, or one line that says why not, and an exit status.

Exit status 0: done. 1: the operation failed. 2: a flag, a setting or the data directory is wrong. 130: interrupted.
"""

import asyncio
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from titan_overlay.cli import output


def run(
    work: Callable[[], Any],
    *,
    json: bool = False,
    verbose: bool = False,
    program: str = "titan",
    passing: tuple[type[Exception], ...] = (),
) -> None:
    """Does the work of a command. What goes wrong becomes one line on standard error and an exit status.

    Args:
        passing: exceptions that the parser of the command line knows what to do with.
    """
    output.set_up_logging(verbose)
    try:
        result = work()
        if inspect.iscoroutine(result):
            asyncio.run(result)
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Whoever read our output has had enough (`titan ls | head`). Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except passing:
        raise
    except Exception as why:
        if verbose:
            _print_traceback(why)
        fail(why, json=json, program=program)


def fail(why: Exception, *, json: bool = False, program: str = "titan") -> NoReturn:
    """Says what went wrong in one line, and ends with the status for it."""
    from titan_overlay.errors import ConfigError, StorageError

    text, code = _explained(why)
    if json:
        fields = {name: getattr(why, name) for name in getattr(why, "FIELDS", ())}
        details = {
            "error": code,
            "text": text,
            "retryable": bool(getattr(why, "retryable", False)),
            "maybe_executed": bool(getattr(why, "maybe_executed", False)),
            **({"fields": fields} if fields else {}),
        }
        output.print_json(details, to=sys.stderr)
    else:
        output.note(f"{program}: {text}")
    raise SystemExit(2 if isinstance(why, ConfigError | StorageError) else 1) from None


def _explained(why: Exception) -> tuple[str, str]:
    """A line for the error, and its code."""
    from titan_overlay.errors import ConfigError, RemotableError, RemoteError, StorageError, TitanError

    said = " ".join(str(why).split())
    text = said or type(why).__name__
    if isinstance(why, RemoteError):
        where = f" (look for {why.correlation} in the holder's log)" if why.correlation else ""
        return f"the object raised {why.type or 'an error'}{': ' * bool(said)}{said}{where}", why.code
    if isinstance(why, RemotableError):
        tail = "; it may have been carried out" if why.maybe_executed and why.code != "bad-message" else ""
        return text + tail, why.code
    if isinstance(why, ConfigError):
        return text, "config"
    if isinstance(why, StorageError):
        return text, "storage"
    if isinstance(why, TitanError):
        return text, "link"
    if isinstance(why, TimeoutError):
        return "it took too long; give it more with --timeout SECONDS", "deadline"
    if isinstance(why, OSError):
        where = f"{why.filename}: " if why.filename else ""
        return f"{where}{why.strerror or text}", "os"
    return f"defect: {type(why).__name__}: {text}; please report it with what -v shows", "defect"


def _print_traceback(why: Exception) -> None:
    import traceback

    output.note("".join(traceback.format_exception(why)).rstrip("\n"))
