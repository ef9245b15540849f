"""The settings of a node, and where each of them came from.

Precedence: flags, then `TITAN_*` environment variables, then the TOML file, then the defaults below. A value
replaces the one of lower precedence whole: lists and tables are not merged. `resolve` is pure (mappings and
text in, settings and origins out); `load` only finds and reads the file for it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

from titan_overlay.errors import ConfigError
from titan_overlay.values import (
    GIB,
    KIB,
    MIB,
    PORT_DEFAULT,
    bytes_in,
    number_in,
    one_of,
    parse_addresses,
    parse_boolean,
    parse_contacts,
    parse_labels,
    parse_listen,
    parse_path,
    parse_rate,
    parse_size,
    parse_texts,
    seconds_in,
    whole_in,
)

ENVIRONMENT_PREFIX: Final = "TITAN_"
FILE_NAME: Final = "config.toml"

# Read by others than `resolve`: the file itself, and by clients.
_ENVIRONMENT_OTHERS: Final = frozenset({"TITAN_CONFIG"})


def default_data_directory() -> Path:
    """Where the node of this user keeps its files, by the custom of the operating system."""
    import platformdirs  # memory of nodes that are told their directory

    return platformdirs.user_data_path("titan-overlay", appauthor=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything that can be set about a node. Times are in seconds and sizes in bytes.

    The defaults are small and safe for somebody who lends a machine: 1 GiB, half a core, 1 MB/s.
    """

    # What an operator sets.

    bootstrap: Annotated[tuple[str, ...], parse_contacts] = ()
    """Nodes to join through: "host:port" (trust on first use) or join lines. Empty: found a pool."""

    listen: Annotated[tuple[str, ...], parse_listen] = (f"0.0.0.0:{PORT_DEFAULT}", f"[::]:{PORT_DEFAULT}")
    """Addresses for UDP and TCP: one of IPv4, one of IPv6, or both, with one port. By default all of this machine.

    Port 0: any free one. A port that is in use: an error where it was named; the default gives way to the next that is
    free, and the log says so. A machine without IPv6 does without.
    """

    advertise: Annotated[tuple[str, ...], parse_addresses] = ()
    """Addresses for others to dial, where `listen` is not it (port forwarding). Empty: as others see this node."""

    data: Annotated[Path, parse_path] = field(default_factory=default_data_directory)
    """Directory of the node's key, settings and database. One running node per directory."""

    trust: Annotated[tuple[str, ...], parse_texts] = ()
    """Keys whose signed bundles of code this node runs. Empty: only object types that are installed here."""

    labels: Annotated[Mapping[str, str], parse_labels] = field(default_factory=dict)
    """What this machine offers, like "region": "eu"; a policy asks for it with `requires`."""

    max_bytes: Annotated[int, parse_size] = GIB
    """Room on disk for the replicas, cache and bundles of others. At the limit the node holds no more."""

    max_cpu: Annotated[float, number_in(0.01, 4096)] = 0.5
    """CPU-seconds a second, worker processes included, measured over 10 s; above it who used most gets `Overloaded`."""

    worker_bytes: Annotated[int, bytes_in(64 * MIB, 2**62)] = GIB
    """Address space of the worker process of one object; a handler that asks for more gets MemoryError."""

    max_upload: Annotated[int, parse_rate] = 1_000_000
    """Bytes per second that this node sends to other machines, in all; one second's worth may go at once.

    Questions and answers wait for their turn. Counted, but never waiting: messages up to 4 KiB, datagrams, and what the
    members of a group agree on.
    """

    no_fsync: Annotated[bool, parse_boolean] = False
    """For simulations alone: groups answer before their log is on disk; a power failure loses what they answered."""

    no_host: Annotated[bool, parse_boolean] = False
    """Route and keep directory entries, but hold no replica for anybody."""

    private: Annotated[bool, parse_boolean] = False
    """For founding a pool: only keys with a grant may join it. Later: `titan pool set`."""

    puzzle_bits: Annotated[int, whole_in(0, 32)] = 8
    """For founding a pool: the id of a node that serves costs about 2 to this power keys. Later: `titan pool set`."""

    log_level: Annotated[str, one_of("debug", "info", "warning", "error")] = "info"
    """Least severe kind of log line that is written."""

    json_logs: Annotated[bool, parse_boolean] = False
    """Write each log line as one JSON object."""

    objects: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    """Objects that the operator sets up in the TOML file, as it stands there: {"device": ({...}, ...)}.

    The key is the name of a plugin of the entry-point group `titan_overlay.objects`, which checks the tables.
    """

    # The overlay.

    k: Annotated[int, whole_in(2, 256)] = 20
    """Contacts in a bucket and in the answer to find_node (Kademlia, 2.2)."""

    alpha: Annotated[int, whole_in(1, 32)] = 3
    """Requests that a lookup keeps in flight (Kademlia, 2.3)."""

    paths: Annotated[int, whole_in(1, 64)] = 12
    """Disjoint paths of a lookup, at most (S/Kademlia, 4.4). Only one that meets trouble begins more than `alpha`."""

    lookup_budget: Annotated[int, whole_in(10, 1000)] = 40
    """Requests of one lookup, at most."""

    directory_copies: Annotated[int, whole_in(1, 64)] = 16
    """Nodes expected in the region around an object's id, all of which are given its advertisements."""

    directory_entries_max: Annotated[int, whole_in(1, 10_000_000)] = 100_000
    """Statements that this node keeps for others, over all objects (about 1 KiB each)."""

    directory_entries_per_id_max: Annotated[int, whole_in(1, 4096)] = 64
    """Holders of any one object that this node keeps."""

    refresh_interval: Annotated[float, seconds_in(60, 86_400)] = 3600.0
    """A bucket without a lookup for this long, +/- 20 %, is refreshed (Kademlia, 2.3)."""

    # Links and messages.

    message_bytes_max: Annotated[int, bytes_in(64 * KIB, MIB)] = MIB
    """Largest message, reply or item of a stream for objects here; a larger one is refused with an error."""

    links_max: Annotated[int, whole_in(1, 100_000)] = 1024
    """Links that others have opened to this node; above it the subnet that has most gives one up, even a busy one."""

    half_open_max: Annotated[int, whole_in(1, 100_000)] = 64
    """Of these, links that have not said yet who they are: each has 5 s for TLS, and 5 s for its first frame."""

    arrivals_per_second: Annotated[float, number_in(0.1, 100_000)] = 5.0
    """Links that one subnet (a /24, a /48) may open a second, 64 at once; others wait at its own cost."""

    messages_per_peer: Annotated[float, number_in(1, 1_000_000)] = 2000.0
    """Messages a second of one peer on another machine, twice as many at once; four times that of all its subnet. Each
    16 KiB of one count as one."""

    requests_per_peer_max: Annotated[int, whole_in(1, 65_536)] = 1024
    """Requests on one peer's link that are in work at once; above it that peer gets `Overloaded`."""

    mailbox_size: Annotated[int, whole_in(1, 65_536)] = 128
    """Messages that wait for one object; above it the sender gets `Overloaded`."""

    concurrency: Annotated[int, whole_in(1, 4096)] = 16
    """Handlers of one object that run at once, where its class says nothing."""

    # Objects and their life-cycle.

    advertise_interval: Annotated[float, seconds_in(1, 86_400)] = 720.0
    """Each object held is advertised this often, +/- 10 %. An advertisement lives 2.5 intervals: two may be lost."""

    probe_interval: Annotated[float, seconds_in(0.1, 3600)] = 30.0
    """Each co-holder next in rank is probed this often."""

    probe_misses: Annotated[int, whole_in(1, 10)] = 2
    """Probes in a row without an answer after which a co-holder counts as gone and repair starts."""

    recruit_delay: Annotated[float, seconds_in(0, 600)] = 10.0
    """The holder of rank r waits r times this long before it recruits, in case a lower rank does."""

    holder_cache_entries: Annotated[int, whole_in(0, 1_000_000)] = 4096
    """Objects whose holders this node remembers from its own calls."""

    cache_bytes: Annotated[int, parse_size] = 64 * MIB
    """Room, out of `max_bytes`, for data picked up in passing. 0: keep none."""

    stop_timeout: Annotated[float, seconds_in(0, 600)] = 9.0
    """Time to withdraw, hand replicas over and close when the node is asked to stop: gone within ten seconds."""


_PARSERS: Final[Mapping[str, Callable[[object], Any]]] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(NodeConfig, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Settings, and where each came from: "default", "flag --listen", "environment TITAN_K", "file ..."."""

    config: NodeConfig
    origins: Mapping[str, str]

    def rows(self) -> list[tuple[str, object, str]]:
        """(key, value, origin) of every setting, in the order of `NodeConfig`."""
        return [(f.name, getattr(self.config, f.name), self.origins[f.name]) for f in fields(self.config)]


def resolve(
    *,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    toml: str = "",
    toml_name: str = FILE_NAME,
    object_sections: Collection[str] = ("device",),
) -> Resolved:
    """Settings by precedence. `object_sections` are the `[[...]]` that the TOML file may hold.

    A flag that is None and a variable that is empty were not given.

    Raises `ConfigError` naming the origin, the key, and the nearest known key or how to write the value.
    """
    values: dict[str, Any] = {}
    origins = {f.name: "default" for f in fields(NodeConfig)}

    def take(key: str, value: object, origin: str, where: str = "") -> None:
        try:
            values[key] = _PARSERS[key](value)
        except ValueError as problem:
            raise ConfigError(f"{where or origin}: {problem}") from None
        origins[key] = origin

    objects = {}
    for key, value in _toml(toml, toml_name).items():
        origin = f"file {toml_name}"
        if key in object_sections:
            objects[key] = _tables(key, value, origin)
        elif key in _PARSERS:
            take(key, value, origin, f"{origin}: {key}")
        else:
            raise ConfigError(f"{origin}: unknown key {key!r}{_nearest(key, [*_PARSERS, *object_sections])}")
    if objects:
        values["objects"] = objects
        origins["objects"] = f"file {toml_name}"

    variables = {ENVIRONMENT_PREFIX + key.upper(): key for key in _PARSERS}
    for variable, text in (environment or {}).items():
        if variable in variables:
            if text:
                take(variables[variable], text, f"environment {variable}")
        elif variable.startswith(ENVIRONMENT_PREFIX) and variable not in _ENVIRONMENT_OTHERS:
            # What another program calls its own is none of ours; a letter away from ours is a mistake.
            hint = _nearest(variable.removeprefix(ENVIRONMENT_PREFIX).lower(), _PARSERS)
            if hint:
                raise ConfigError(f"environment: unknown variable {variable}{hint}")

    for key, given in (flags or {}).items():
        if key not in _PARSERS:
            raise ConfigError(f"{_flag(key)}: unknown{_nearest(key, _PARSERS)}")
        if given is not None:
            take(key, given, _flag(key))

    return Resolved(config=NodeConfig(**values), origins=origins)


def load(
    *,
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
    object_sections: Collection[str] = ("device",),
) -> Resolved:
    """`resolve` with the TOML file read: `file`, else `TITAN_CONFIG`, else config.toml in the data directory.

    The last may be missing; a file that was named may not.
    """
    flags, environment = flags or {}, environment or {}
    named = file or environment.get("TITAN_CONFIG")
    data = flags.get("data") or environment.get(ENVIRONMENT_PREFIX + "DATA") or default_data_directory()
    path = named or data
    try:
        path = parse_path(named) if named else parse_path(data) / FILE_NAME
        toml = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as problem:
        if named:
            raise ConfigError(f"file {path}: {problem.strerror}") from None
        toml = ""
    except OSError as problem:
        raise ConfigError(f"file {path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"file {path}: not UTF-8 text") from None
    except ValueError as problem:
        raise ConfigError(f"file {path}: {problem}") from None
    return resolve(
        flags=flags, environment=environment, toml=toml, toml_name=str(path), object_sections=object_sections
    )


def _toml(text: str, name: str) -> dict[str, Any]:
    import tomllib  # here and in `_nearest`: memory of nodes that need neither

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"file {name}: not TOML: {problem}") from None


def _tables(key: str, value: object, origin: str) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise ConfigError(f"{origin}: {key} is a list of tables; write [[{key}]] above each")
    return tuple(value)


def _flag(key: str) -> str:
    """As it is written on the command line; `--label` is given once for each."""
    return f"flag --{'label' if key == 'labels' else key.replace('_', '-')}"


def _nearest(key: str, known: Iterable[str]) -> str:
    import difflib

    matches = difflib.get_close_matches(key.replace("-", "_"), list(known), n=1, cutoff=0.75)
    return f"; did you mean {matches[0]!r}?" if matches else ""
