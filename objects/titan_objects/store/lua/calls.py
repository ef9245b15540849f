"""What the call of a script says of it before it runs."""

from typing import TYPE_CHECKING

from titan_objects.store.lua.library import declared
from titan_objects.store.resp import CommandError
from titan_objects.store.table import Args, Command

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

_SOURCE = frozenset(("eval", "eval_ro"))
_DIGEST = frozenset(("evalsha", "evalsha_ro"))
_FUNCTION = frozenset(("fcall", "fcall_ro"))
_ALL = _SOURCE | _DIGEST | _FUNCTION


def _flags(engine: "Engine", name: str, args: Args) -> list[bytes] | None:
    if name in _FUNCTION:
        return engine.functions.find(args[1]).flags
    if name in _SOURCE:
        return declared(args[1])
    return declared(engine.scripts.sources.get(args[1].lower(), b""))


def writes(engine: "Engine", command: Command, args: Args) -> bool | None:
    """Whether a command writes. None: perhaps, as a script that does not say."""
    said = None if "may-replicate" in command.flags else command.writes
    if command.name not in _ALL:
        return said
    try:
        flags = _flags(engine, command.name, args)
    except CommandError:
        return said
    return said if flags is None else b"no-writes" not in flags
