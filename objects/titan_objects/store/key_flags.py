"""What commands do with their keys, in the words of Redis 7.0's `COMMAND GETKEYSANDFLAGS`.

RO, RW, OW and RM say whether the value is read, changed, written over or removed; the others what the client is after.
"""

from titan_objects.store.table import Args, Command

_READ, _WRITE = "RO access", "RW update"

_EXCEPTIONS = """
    RO: watch type scard touch hlen object|freq object|encoding object|idletime object|refcount zcard strlen exists
        memory|usage llen xlen sismember hstrlen hexists
    RW access: pfcount
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


def key_flags(command: Command, args: Args, count: int) -> list[list[str]]:
    """The flags of each of the keys of a call."""
    known = _FLAGS.get(command.name) or [(_WRITE if command.writes else _READ).split()]
    words = {word.upper() for word in args}
    if command.name == "set" and b"GET" in words:
        known = [["RW", "access", "update"]]
    elif command.name == "bitfield" and not words & {b"SET", b"INCRBY"}:
        known = [["RO", "access"]]
    return [known[min(at, len(known) - 1)] for at in range(count)]
