"""What commands do with their keys, in the words of Redis 7.0's `COMMAND GETKEYSANDFLAGS`.

RO, RW, OW and RM say whether the value is read, changed, written over or removed; the others what the client is after.
"""

from typing import NamedTuple

from titan_objects.store.table import Args, Command, Counted

_READ, _WRITE = "RO access", "RW update"

_EXCEPTIONS = """
    RO: watch type scard touch hlen object|freq object|encoding object|idletime object|refcount zcard strlen exists
        memory|usage llen xlen sismember hstrlen hexists
    RW access: pfcount pfdebug
    RW access update: eval evalsha fcall incrby move zincrby getex decrby getset setbit hincrby incr decr incrbyfloat
        hincrbyfloat bitfield
    RO access: xreadgroup
    RO access, OW update: copy georadius georadiusbymember sort
    OW insert: setnx msetnx
    OW update: set setex psetex mset restore
    OW update, RO access: zinterstore zdiffstore zrangestore bitop zunionstore geosearchstore sdiffstore sunionstore
    RW update, RO access: sinterstore
    RM delete: del unlink
    RW access delete: zmpop zpopmax brpop lmpop getdel blpop zpopmin blmpop bzpopmax bzpopmin spop lpop rpop bzmpop
        migrate
    RW access delete, OW insert: renamenx
    RW access delete, OW update: rename
    RW access delete, RW insert: lmove blmove rpoplpush brpoplpush smove
    RW access insert, RO access: pfmerge
    RW delete: xgroup|destroy xgroup|delconsumer zremrangebyrank xdel ltrim lrem xautoclaim hdel zrem zremrangebylex
        srem zremrangebyscore xtrim
    RW insert: rpush xgroup|create xgroup|createconsumer linsert lpushx lpush pfadd append sadd hsetnx rpushx
    not_key: spublish ssubscribe sunsubscribe
"""


def _parsed() -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    flags: list[list[str]] = []
    for line in _EXCEPTIONS.strip().splitlines():
        head, colon, names = line.rpartition(":")
        if colon:
            flags = [each.split() for each in head.split(",")]
        found |= dict.fromkeys(names.split(), flags)
    return found


_FLAGS = _parsed()


class Spec(NamedTuple):
    """Where some of a command's keys are, in the words of COMMAND INFO, and what is done with them."""

    flags: list[str]
    begin: str
    begin_spec: dict[str, int | str]
    find: str
    find_spec: dict[str, int]


_ANY = ["RW", "access", "update", "variable_flags"]
_STREAMS = {"xread": 1, "xreadgroup": 4}


def key_specs(command: Command) -> list[Spec]:
    """Where the keys are; what has no fixed place and no number before it is unknown, for GETKEYS to find."""
    if command.name in _SPECS:
        return _SPECS[command.name]
    flags = [_ANY] if command.name in ("set", "bitfield") else _known(command)
    movable = command.movable
    if isinstance(movable, Counted):
        specs = [_range(flags[0], at, 0, 1) for at in movable.before]
        counts = {"keynumidx": 0, "firstkey": 1, "keystep": 1}
        return [*specs, Spec(flags[-1], "index", {"index": movable.position}, "keynum", counts)]
    if command.name in _STREAMS:
        begin: dict[str, int | str] = {"keyword": "STREAMS", "startfrom": _STREAMS[command.name]}
        return [Spec(flags[0], "keyword", begin, "range", {"lastkey": -1, "keystep": 1, "limit": 2})]
    if movable is not None:
        return [Spec([*flags[0], "incomplete"], "unknown", {}, "unknown", {})]
    if not command.first:
        return []
    last = command.last if command.last < 0 else command.last - command.first
    if len(flags) == 1:
        return [_range(flags[0], command.first, last, command.step)]
    return [_range(flags[0], command.first, 0, 1), _range(flags[1], command.first + 1, min(last, 0), command.step)]


def _range(flags: list[str], first: int, last: int, step: int) -> Spec:
    return Spec(flags, "index", {"index": first}, "range", {"lastkey": last, "keystep": step, "limit": 0})


def _unknown(flags: list[str]) -> Spec:
    return Spec(flags, "unknown", {}, "unknown", {})


def _behind(flags: list[str], keyword: str, start: int, last: int = 0) -> Spec:
    begin: dict[str, int | str] = {"keyword": keyword, "startfrom": start}
    return Spec(flags, "keyword", begin, "range", {"lastkey": last, "keystep": 1, "limit": 0})


def _stored_places(start: int) -> list[Spec]:
    """What looks for places, and may store them: `start` is where options begin."""
    return [
        _range(["RO", "access"], 1, 0, 1),
        *(_behind(["OW", "update"], each, start) for each in ("STORE", "STOREDIST")),
    ]


_MOVED = ["RW", "access", "delete"]
_SPECS = {
    "sort": [_range(["RO", "access"], 1, 0, 1), _unknown(["RO", "access"]), _unknown(["OW", "update"])],
    "sort_ro": [_range(["RO", "access"], 1, 0, 1), _unknown(["RO", "access"])],
    "georadius": _stored_places(6),
    "georadiusbymember": _stored_places(5),
    "migrate": [_range(_MOVED, 3, 0, 1), _behind([*_MOVED, "incomplete"], "KEYS", -2, -1)],
    "spublish": [_range(["not_key"], 1, 0, 1)],
    "ssubscribe": [_range(["not_key"], 1, -1, 1)],
    "sunsubscribe": [_range(["not_key"], 1, -1, 1)],
}
"""Of commands whose keys stand in places that differ, or are channels."""


def shown_place(command: Command) -> tuple[int, int, int]:
    """First and last key and the step between keys, as COMMAND INFO shows them: of the first specification alone."""
    if command.name not in _SPECS:
        return command.first, command.last, command.step
    spec = _SPECS[command.name][0]
    first, last = int(spec.begin_spec["index"]), spec.find_spec["lastkey"]
    return first, last if last < 0 else first + last, spec.find_spec["keystep"]


def _known(command: Command) -> list[list[str]]:
    return _FLAGS.get(command.name) or [(_WRITE if command.writes else _READ).split()]


def key_flags(command: Command, args: Args, count: int) -> list[list[str]]:
    """The flags of each of the keys of a call."""
    known = _known(command)
    words = {word.upper() for word in args}
    if command.name == "set" and b"GET" in words:
        known = [["RW", "access", "update"]]
    elif command.name == "bitfield" and not words & {b"SET", b"INCRBY"}:
        known = [["RO", "access"]]
    return [known[min(at, len(known) - 1)] for at in range(count)]
