"""Commands of programs, which come as messages: `pool.send("store/main", ["SET", "k", "v"])`."""

from typing import Any

import titan_overlay as titan
from titan_objects.store.table import Args

_OF_CONNECTIONS = frozenset(b"select watch unwatch multi exec discard subscribe psubscribe ssubscribe monitor".split())
"""They say what becomes of later commands, or of a connection."""


def words_of(message: list[Any]) -> Args:
    """The command that a message is.

    Raises:
        BadMessage: it is none, or one that would be answered and have no effect.
    """
    if not message or not all(isinstance(word, (str, bytes, int, float)) for word in message):
        raise titan.BadMessage('a command is a list of words, like ["SET", "k", "v"]: text, bytes or numbers')
    args = [word if isinstance(word, bytes) else str(word).encode() for word in message]
    if args[0].lower() in _OF_CONNECTIONS:
        raise titan.BadMessage(
            f"{args[0].decode()} is for connections, and messages have none: each stands alone, in database 0; what "
            "belongs together is a script (EVAL), and what is published is heard by titan_objects.store.hearing.Hearing"
        )
    return args
