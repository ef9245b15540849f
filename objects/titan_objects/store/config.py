"""Settings: what CONFIG GET and SET know, with the values that the engine reads for each command beside them."""

import re
from collections.abc import Callable, Mapping, Sequence

from titan_objects.store.globs import matcher
from titan_objects.store.resp import CommandError

Check = Callable[[str], str]
"""Takes a value as given and returns it as kept. Raises ValueError that says what would be right."""

_UNITS = {"": 1, "k": 1000, "kb": 1 << 10, "m": 10**6, "mb": 1 << 20, "g": 10**9, "gb": 1 << 30, "b": 1}
_EVENTS = "g$lshzxetd"
"""What `A` stands for among the letters of keyspace events."""


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
    if set(text) - set(_EVENTS) - set("AKEmn"):
        raise ValueError("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")
    if "A" in text or set(text) >= set(_EVENTS):
        classes = "A"
    else:
        classes = "".join(letter for letter in f"{_EVENTS}n" if letter in text)
    return classes + "".join(letter for letter in "KEm" if letter in text)


def _only(value: str) -> Check:
    """Of a setting of Redis that has one value here."""

    def check(text: str) -> str:
        if text.lower() != value:
            raise ValueError(f"this store has nothing but '{value}'")
        return value

    return check


def _percentiles(text: str) -> str:
    try:
        found = [float(word) for word in text.split()]
    except ValueError:
        raise ValueError("Invalid latency-tracking-info-percentiles parameters") from None
    if not all(0 <= each <= 100 for each in found):
        raise ValueError("latency-tracking-info-percentiles parameters should sit between [0.0,100.0]")
    return " ".join(f"{each:g}" for each in found)


def _mode(text: str) -> str:
    if not re.fullmatch("0*[0-7]{1,3}", text):
        raise ValueError("argument must be an octal number between 0 and 777")
    return text.lstrip("0") or "0"


def _output_limits(text: str) -> str:
    words = text.split()
    if len(words) % 4:
        raise ValueError("argument must be groups of: class hard-limit soft-limit soft-seconds")
    for at in range(0, len(words), 4):
        words[at] = _one_of("normal", "replica", "slave", "pubsub")(words[at]).replace("replica", "slave")
        words[at + 1 : at + 4] = [_memory(words[at + 1]), _memory(words[at + 2]), _number(0, _INT)(words[at + 3])]
    return " ".join(words)


def _address(text: str) -> str:
    words = text.split()
    if words and not (len(words) == 2 and words[1].isdigit() and 0 < int(words[1]) < 65536):
        raise ValueError("argument must be a host and a port, separated by a blank")
    return " ".join(words)


def _switch(text: str) -> str:
    if text.lower() not in ("yes", "no"):
        raise ValueError("argument must be 'yes' or 'no'")
    return text.lower()


_INT = (1 << 31) - 1
_BIG = (1 << 63) - 1

DATABASES_MAX = 1 << 16

_LIMITS = "client-output-buffer-limit"
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
    "appendonly": ("yes", _switch),
    "appenddirname": ("appendonlydir", _text),
    "appendfilename": ("appendonly.aof", _text),
    "auto-aof-rewrite-min-size": (str(64 << 20), _memory),
    "auto-aof-rewrite-percentage": ("100", _number(0, _INT)),
    "bind": ("127.0.0.1", _text),
    _LIMITS: (_OUTPUT_LIMITS, _output_limits),
    "client-query-buffer-limit": (str(1 << 30), _room_for_a_command),
    "databases": ("16", _number(1, DATABASES_MAX)),
    "dir": (".", _text),
    "enable-debug-command": ("no", _one_of("no", "local", "yes")),
    "hash-max-listpack-entries": ("512", _number(0, _BIG)),
    "hash-max-listpack-value": ("64", _number(0, _BIG)),
    "hll-sparse-max-bytes": ("1000", _memory),
    "latency-tracking": ("yes", _switch),
    "latency-tracking-info-percentiles": ("50 99 99.9", _percentiles),
    "latency-monitor-threshold": ("0", _number(0, _BIG)),
    "lfu-decay-time": ("1", _number(0, _INT)),
    "lfu-log-factor": ("10", _number(0, _INT)),
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
    "protected-mode": ("yes", _switch),
    "repl-backlog-size": (str(1 << 20), _memory),
    "repl-ping-replica-period": ("10", _number(1, _INT)),
    "repl-timeout": ("60", _number(1, _INT)),
    "replicaof": ("", _address),
    "requirepass": ("", _text),
    "set-max-intset-entries": ("512", _number(0, _BIG)),
    "slowlog-log-slower-than": ("10000", _number(-1, _BIG)),
    "slowlog-max-len": ("128", _number(0, 1 << 20)),
    "timeout": ("0", _number(0, _INT)),
    "tracking-table-max-keys": ("1000000", _number(0, _BIG)),
    "unixsocket": ("", _text),
    "unixsocketperm": ("0", _mode),
    "zset-max-listpack-entries": ("128", _number(0, _BIG)),
    "zset-max-listpack-value": ("64", _number(0, _BIG)),
}

CONSTANT = {
    # the log and snapshots
    "aof-load-truncated": "yes",
    "aof-timestamp-enabled": "no",
    "aof-use-rdb-preamble": "no",
    "dbfilename": "dump.rdb",
    "no-appendfsync-on-rewrite": "no",
    "rdbchecksum": "no",
    "rdbcompression": "no",
    "save": "",
    "stop-writes-on-bgsave-error": "yes",
    # memory: what is deleted is freed at once, by the thread that executes commands
    "activedefrag": "no",
    "lazyfree-lazy-eviction": "no",
    "lazyfree-lazy-expire": "no",
    "lazyfree-lazy-server-del": "no",
    "lazyfree-lazy-user-del": "no",
    "lazyfree-lazy-user-flush": "no",
    "list-compress-depth": "0",
    "maxmemory-clients": "0",
    "proto-max-bulk-len": str(512 << 20),
    # servers beside this one
    "cluster-enabled": "no",
    "min-replicas-max-lag": "10",
    "min-replicas-to-write": "0",
    "repl-disable-tcp-nodelay": "no",
    "repl-diskless-sync": "yes",
    "repl-diskless-sync-delay": "0",
    "replica-announce-ip": "",
    "replica-announce-port": "0",
    "replica-lazy-flush": "no",
    "replica-read-only": "yes",
    "replica-serve-stale-data": "yes",
    # the process
    "dynamic-hz": "no",
    "enable-module-command": "no",
    "hz": "100",
    "io-threads": "1",
    "io-threads-do-reads": "no",
    "syslog-enabled": "no",
    "tcp-backlog": "1024",
    "tcp-keepalive": "0",
    "tls-port": "0",
}
"""Settings of Redis that clients and tools ask for, and that have one value here: another is refused."""

SETTINGS |= {name: (value, _only(value)) for name, value in CONSTANT.items()}

_ALIASES = {
    "lua-time-limit": "busy-reply-threshold",
    "hash-max-listpack-entries": "hash-max-ziplist-entries",
    "hash-max-listpack-value": "hash-max-ziplist-value",
    "list-max-listpack-size": "list-max-ziplist-size",
    "zset-max-listpack-entries": "zset-max-ziplist-entries",
    "zset-max-listpack-value": "zset-max-ziplist-value",
    "min-replicas-max-lag": "min-slaves-max-lag",
    "min-replicas-to-write": "min-slaves-to-write",
    "repl-ping-replica-period": "repl-ping-slave-period",
    "replica-announce-ip": "slave-announce-ip",
    "replica-announce-port": "slave-announce-port",
    "replica-lazy-flush": "slave-lazy-flush",
    "replica-read-only": "slave-read-only",
    "replica-serve-stale-data": "slave-serve-stale-data",
    "replicaof": "slaveof",
}

_FILES = "aclfile appenddirname appendfilename dir unixsocket unixsocketperm"
FIXED = frozenset(f"{_FILES} bind databases enable-debug-command port replicaof".split())
"""Chosen at the start and not changed afterwards."""


def _by_class(limits: str) -> dict[str, list[str]]:
    words = limits.split()
    return {words[at]: words[at + 1 : at + 4] for at in range(0, len(words), 4)}


def taken(name: str, text: str, values: Mapping[str, str]) -> str:
    """What a setting is then, of those that have these values. Raises ValueError: it cannot be that."""
    default, check = SETTINGS[name]
    value = check(text)
    if name == _LIMITS:  # of classes that it does not name, the limits stay
        merged = _by_class(values.get(name, default)) | _by_class(value)
        return " ".join(" ".join((kind, *limits)) for kind, limits in merged.items())
    return value


def canonical(name: str) -> str:
    """The name of a setting that may have been given by its old name."""
    return next((new for new, old in _ALIASES.items() if old == name), name)


def _failed(name: str, why: object) -> str:
    return f"ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"


class Config:
    """The settings of one store.

    Attributes:
        events: letters of the keyspace events that are published, `A` taken apart; empty: none.
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
            name = name.replace("_", "-")
            try:
                self._set(name, value)
            except ValueError as why:
                raise ValueError(f"{name}: {why}") from None
        self._apply()

    def get(self, name: str) -> str:
        """The value as it is kept."""
        return self._values[name]

    def all(self) -> dict[str, str]:
        """Every setting by its name."""
        return dict(self._values)

    def output_limits(self) -> dict[str, tuple[int, int, int]]:
        """How much may wait for a client to read, by its class: bytes at most, and bytes for so many seconds."""
        return {
            kind: (int(hard), int(soft), int(seconds))
            for kind, (hard, soft, seconds) in _by_class(self._values[_LIMITS]).items()
        }

    def matching(self, pattern: bytes) -> dict[str, str]:
        """Settings whose name (or old name) matches a glob."""
        match = matcher(pattern.lower())
        found = {name: value for name, value in self._values.items() if match(name.encode())}
        found |= {old: self._values[name] for name, old in _ALIASES.items() if match(old.encode())}
        return found

    def watch(self, changed: Callable[[], None]) -> None:
        """Calls that after each change."""
        self._watchers.append(changed)

    def unwatch(self, changed: Callable[[], None]) -> None:
        """Calls that no more, if it did."""
        if changed in self._watchers:
            self._watchers.remove(changed)

    def check_names(self, names: Sequence[str]) -> None:
        """Raises CommandError: one of these settings cannot be changed, is not there, or is named twice."""
        for name in names:
            if canonical(name.lower()) not in SETTINGS:
                raise CommandError(f"ERR Unknown option or number of arguments for CONFIG SET - '{name}'")
        known: set[str] = set()
        for name in names:
            if canonical(name.lower()) in FIXED:
                raise CommandError(_failed(name, "can't set immutable config"))
            if canonical(name.lower()) in known:
                raise CommandError(_failed(name, "duplicate parameter"))
            known.add(canonical(name.lower()))

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
        before = self._values["appendonly"]
        try:
            self._set(name, value)
            if self._values["appendonly"] != before:
                raise ValueError(f"it is '{before}' until the next start")
        except ValueError as why:
            raise CommandError(_failed(name, why)) from None

    def _set(self, name: str, value: str) -> None:
        name = canonical(name)
        if name not in SETTINGS:
            raise CommandError(f"ERR Unknown option or number of arguments for CONFIG SET - '{name}'")
        self._values[name] = taken(name, value, self._values)

    def _apply(self) -> None:
        self.events = self._values["notify-keyspace-events"].replace("A", _EVENTS)
        self.maxmemory = int(self._values["maxmemory"])
        self.counts_uses = bool(self.maxmemory) or self._values["maxmemory-policy"][-3:] in ("lru", "lfu")
        self.lfu_log_factor = int(self._values["lfu-log-factor"])
        self.lfu_decay_minutes = int(self._values["lfu-decay-time"])
