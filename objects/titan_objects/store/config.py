"""Settings: what CONFIG GET and SET know, with the values that the engine reads for each command beside them."""

import re
from collections.abc import Callable

from titan_objects.store.globs import matcher
from titan_objects.store.resp import CommandError

Check = Callable[[str], str]
"""Takes a value as given and returns it as kept. Raises ValueError that says what would be right."""

_UNITS = {"": 1, "k": 1000, "kb": 1 << 10, "m": 10**6, "mb": 1 << 20, "g": 10**9, "gb": 1 << 30, "b": 1}
_EVENTS = "KEg$lshzxetdmn"


def _memory(text: str) -> str:
    found = re.fullmatch(r"(\d+)([a-z]*)", text.lower())
    if not found or found[2] not in _UNITS:
        raise ValueError("argument must be a memory value")
    return str(int(found[1]) * _UNITS[found[2]])


def _room_for_a_command(text: str) -> str:
    """Memory that commands take: with less than a megabyte, nobody could say that it shall be more."""
    return _number(1 << 20, _BIG)(_memory(text))


def _number(low: int, high: int) -> Check:
    def check(text: str) -> str:
        if not re.fullmatch(r"-?\d+", text) or not low <= int(text) <= high:
            raise ValueError(f"argument must be between {low} and {high} inclusive")
        return str(int(text))

    return check


def _one_of(*words: str) -> Check:
    def check(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("argument(s) must be one of the following: " + ", ".join(words))
        return text.lower()

    return check


def _text(text: str) -> str:
    return text


def _events(text: str) -> str:
    unknown = set(text) - set(_EVENTS) - {"A"}
    if unknown:
        raise ValueError("Invalid event class character. Use 'Ag$lshzxetdKEmn'.")
    chosen = set(text) | (set("g$lshzxetd") if "A" in text else set())
    return "".join(letter for letter in _EVENTS if letter in chosen)


def _percentiles(text: str) -> str:
    try:
        found = [float(word) for word in text.split()]
    except ValueError:
        raise ValueError("Invalid latency-tracking-info-percentiles parameters") from None
    if not all(0 <= each <= 100 for each in found):
        raise ValueError("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]")
    return " ".join(f"{each:g}" for each in found)


def _output_limits(text: str) -> str:
    words = text.split()
    if len(words) % 4:
        raise ValueError("argument must be groups of: class hard-limit soft-limit soft-seconds")
    for at in range(0, len(words), 4):
        _one_of("normal", "replica", "slave", "pubsub")(words[at])
        words[at + 1 : at + 4] = [_memory(words[at + 1]), _memory(words[at + 2]), _number(0, 1 << 31)(words[at + 3])]
    return " ".join(words)


def _address(text: str) -> str:
    words = text.split()
    if words and not (len(words) == 2 and words[1].isdigit() and 0 < int(words[1]) < 65536):
        raise ValueError("argument must be a host and a port, separated by a blank")
    return " ".join(words)


_SWITCH = _one_of("yes", "no")
_BIG = (1 << 63) - 1

DATABASES_MAX = 1 << 16

_OUTPUT_LIMITS = "normal 268435456 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"

POLICIES = (
    "volatile-lru",
    "volatile-lfu",
    "volatile-random",
    "volatile-ttl",
    "allkeys-lru",
    "allkeys-lfu",
    "allkeys-random",
    "noeviction",
)

SETTINGS: dict[str, tuple[str, Check]] = {
    "aclfile": ("", _text),
    "acllog-max-len": ("128", _number(0, 1 << 20)),
    "appendfsync": ("always", _one_of("always", "everysec", "no")),
    "appendonly": ("yes", _SWITCH),
    "appenddirname": ("appendonlydir", _text),
    "appendfilename": ("appendonly.aof", _text),
    "auto-aof-rewrite-min-size": (str(64 << 20), _memory),
    "auto-aof-rewrite-percentage": ("100", _number(0, 1 << 31)),
    "bind": ("127.0.0.1", _text),
    "client-output-buffer-limit": (
        _OUTPUT_LIMITS,
        _output_limits,
    ),
    "client-query-buffer-limit": (str(1 << 30), _room_for_a_command),
    "databases": ("16", _number(1, DATABASES_MAX)),
    "dbfilename": ("dump.rdb", _text),
    "dir": (".", _text),
    "enable-debug-command": ("no", _one_of("no", "local", "yes")),
    "hash-max-listpack-entries": ("512", _number(0, _BIG)),
    "hash-max-listpack-value": ("64", _number(0, _BIG)),
    "hll-sparse-max-bytes": ("1000", _memory),
    "latency-tracking": ("yes", _SWITCH),
    "latency-tracking-info-percentiles": ("50 99 99.9", _percentiles),
    "latency-monitor-threshold": ("0", _number(0, _BIG)),
    "lfu-decay-time": ("1", _number(0, 1 << 31)),
    "lfu-log-factor": ("10", _number(0, 1 << 31)),
    "list-max-listpack-size": ("-2", _number(-5, _BIG)),
    "lua-time-limit": ("5000", _number(0, _BIG)),
    "masterauth": ("", _text),
    "masteruser": ("", _text),
    "maxclients": ("10000", _number(1, 1 << 20)),
    "maxmemory": ("0", _memory),
    "maxmemory-policy": ("noeviction", _one_of(*POLICIES)),
    "maxmemory-samples": ("5", _number(1, 64)),
    "notify-keyspace-events": ("", _events),
    "port": ("6379", _number(0, 65535)),
    "proto-max-bulk-len": (str(512 << 20), _room_for_a_command),
    "protected-mode": ("yes", _SWITCH),
    "repl-backlog-size": (str(1 << 20), _memory),
    "repl-ping-replica-period": ("10", _number(1, 1 << 31)),
    "repl-timeout": ("60", _number(1, 1 << 31)),
    "replicaof": ("", _address),
    "requirepass": ("", _text),
    "save": ("", _text),
    "set-max-intset-entries": ("512", _number(0, _BIG)),
    "slowlog-log-slower-than": ("10000", _number(-1, _BIG)),
    "slowlog-max-len": ("128", _number(0, 1 << 20)),
    "timeout": ("0", _number(0, 1 << 31)),
    "tracking-table-max-keys": ("1000000", _number(0, _BIG)),
    "zset-max-listpack-entries": ("128", _number(0, _BIG)),
    "zset-max-listpack-value": ("64", _number(0, _BIG)),
}

_ALIASES = {
    "lua-time-limit": "busy-reply-threshold",
    "hash-max-listpack-entries": "hash-max-ziplist-entries",
    "hash-max-listpack-value": "hash-max-ziplist-value",
    "list-max-listpack-size": "list-max-ziplist-size",
    "zset-max-listpack-entries": "zset-max-ziplist-entries",
    "zset-max-listpack-value": "zset-max-ziplist-value",
}

FIXED = frozenset(
    ("aclfile", "databases", "appenddirname", "appendfilename", "bind", "enable-debug-command", "port", "replicaof")
)
"""Chosen at the start and not changed afterwards."""


def canonical(name: str) -> str:
    """The name of a setting that may have been given by its old name."""
    return next((new for new, old in _ALIASES.items() if old == name), name)


class Config:
    """The settings of one store.

    Attributes:
        events: letters of the keyspace events that are published; empty: none.
        maxmemory: bytes; 0: no limit.
        counts_uses: the sizes and uses of keys are known: there is a limit, or a policy that goes by uses.
        lfu_log_factor, lfu_decay_minutes: how fast counters of use grow, and fade; 0 minutes: never.
        rewrite: brings the file that they came from up to date; None: they came from none.
    """

    def __init__(self, **values: str) -> None:
        self._values = {name: default for name, (default, _) in SETTINGS.items()}
        self._watchers: list[Callable[[], None]] = []
        self.events = ""
        self.counts_uses = False
        self.maxmemory = self.lfu_log_factor = self.lfu_decay_minutes = 0
        self.rewrite: Callable[[], None] | None = None
        for name, value in values.items():
            self._set(name.replace("_", "-"), value)
        self._apply()

    def get(self, name: str) -> str:
        """The value as it is kept."""
        return self._values[name]

    def all(self) -> dict[str, str]:
        """Every setting by its name."""
        return dict(self._values)

    def output_limits(self) -> dict[str, tuple[int, int, int]]:
        """How much may wait for a client to read, by its class: bytes at most, and bytes for so many seconds."""
        words = self._values["client-output-buffer-limit"].split()
        limits = {"normal": (0, 0, 0), "slave": (0, 0, 0), "pubsub": (0, 0, 0)}
        for at in range(0, len(words), 4):
            kind = "slave" if words[at] == "replica" else words[at]
            limits[kind] = (int(words[at + 1]), int(words[at + 2]), int(words[at + 3]))
        return limits

    def matching(self, pattern: bytes) -> dict[str, str]:
        """Settings whose name (or old name) matches a glob."""
        match = matcher(pattern.lower())
        found = {name: value for name, value in self._values.items() if match(name.encode())}
        found |= {old: self._values[name] for name, old in _ALIASES.items() if match(old.encode())}
        return found

    def watch(self, changed: Callable[[], None]) -> None:
        """Calls that after each change."""
        self._watchers.append(changed)

    def change(self, pairs: dict[str, str]) -> None:
        """Sets all of them, or none.

        Raises:
            CommandError: names the first that cannot be.
        """
        before = dict(self._values)
        try:
            for name, value in pairs.items():
                self._change(name, value)
        except CommandError:
            self._values = before
            raise
        self._apply()
        for changed in self._watchers:
            changed()

    def _change(self, name: str, value: str) -> None:
        try:
            if name in FIXED:
                raise ValueError("can't set immutable config")
            self._set(name, value)
        except ValueError as why:
            raise CommandError(f"ERR CONFIG SET failed (possibly related to argument '{name}') - {why}") from None

    def _set(self, name: str, value: str) -> None:
        name = canonical(name)
        known = SETTINGS.get(name)
        if known is None:
            raise CommandError(f"ERR Unknown option or number of arguments for CONFIG SET - '{name}'")
        self._values[name] = known[1](value)

    def _apply(self) -> None:
        self.events = self._values["notify-keyspace-events"]
        self.maxmemory = int(self._values["maxmemory"])
        self.counts_uses = bool(self.maxmemory) or self._values["maxmemory-policy"][-3:] in ("lru", "lfu")
        self.lfu_log_factor = int(self._values["lfu-log-factor"])
        self.lfu_decay_minutes = int(self._values["lfu-decay-time"])
