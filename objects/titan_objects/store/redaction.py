"""Commands as they may be shown to others (MONITOR, SLOWLOG): without passwords, where Redis leaves them out."""

from collections.abc import Callable, Iterable

from titan_objects.store.table import Args

HIDDEN = b"(redacted)"
_SETTINGS = frozenset((b"requirepass", b"masterauth", b"masteruser"))


def redacted(args: Args) -> Args:
    """The words of a command, what is secret replaced."""
    find = _SECRETS.get(args[0].lower())
    if find is None:
        return args
    secret = frozenset(find(args))
    return [HIDDEN if at in secret else word for at, word in enumerate(args)]


def _auth(args: Args) -> Iterable[int]:
    return range(1, len(args))


def _acl(args: Args) -> Iterable[int]:
    return range(2, len(args)) if args[1:] and args[1].lower() == b"setuser" else ()


def _config(args: Args) -> Iterable[int]:
    pairs = range(2, len(args) - 1, 2) if args[1:] and args[1].lower() == b"set" else ()
    return [at + 1 for at in pairs if args[at].lower() in _SETTINGS]


def _hello(args: Args) -> Iterable[int]:
    return _credentials(args, 1, {b"AUTH": 2}, {b"SETNAME": 1})


def _migrate(args: Args) -> Iterable[int]:
    return _credentials(args, 6, {b"AUTH": 1, b"AUTH2": 2}, {b"KEYS": len(args)})


def _credentials(args: Args, begin: int, secret: dict[bytes, int], plain: dict[bytes, int]) -> Iterable[int]:
    """Where they stand: behind options, so many words each. Others have words that may look like options."""
    found: list[int] = []
    at = begin
    while at < len(args):
        option = args[at].upper()
        end = at + 1 + secret.get(option, 0)
        found += range(at + 1, end)
        at = end + plain.get(option, 0)
    return found


_SECRETS: dict[bytes, Callable[[Args], Iterable[int]]] = {
    b"auth": _auth,
    b"acl": _acl,
    b"config": _config,
    b"hello": _hello,
    b"migrate": _migrate,
}
