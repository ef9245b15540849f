"""Categories of commands, as `@read` or `@dangerous` name them in rules of ACL."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titan_objects.store.table import Command

_CATEGORIES = {"generic": "keyspace", "transactions": "transaction", "sorted-set": "sortedset"}
_BELONGS = {
    **dict.fromkeys(["sort", "sort_ro"], ("list", "set", "sortedset")),
    **dict.fromkeys(["dbsize", "flushall", "flushdb", "swapdb"], ("keyspace",)),
    **dict.fromkeys(["command", "wait", "asking", "readonly", "readwrite"], ("connection",)),
}
"""Where Redis's ACL puts commands elsewhere than its documentation; sub-commands go with their container."""
_ADMIN = frozenset(["lastsave", "role"])
_DANGEROUS = frozenset(["keys", "flushall", "flushdb", "sort", "sort_ro", "info", "swapdb", "restore", "migrate"])


def categories(command: "Command") -> set[str]:
    """The classes that a command belongs to, without `@`."""
    found = set(_BELONGS.get(command.container, ()))
    found |= set() if found else {_CATEGORIES.get(command.group, command.group.replace("-", ""))}
    reads = "readonly" in command.flags and command.group != "scripting"  # a script reads what its commands may
    found |= {"write"} if command.writes else {"read"} if reads else set()
    found |= {"fast"} if "fast" in command.flags else {"slow"}
    found |= {"admin", "dangerous"} if "admin" in command.flags or command.name in _ADMIN else set()
    found |= {"blocking"} if "blocking" in command.flags else set()
    found |= {"pubsub"} if "pubsub" in command.flags else set()
    found |= {"dangerous"} if command.name in _DANGEROUS else set()
    return found - {"server", "cluster"}
