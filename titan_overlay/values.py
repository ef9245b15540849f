"""Single values as people write them: sizes, rates, durations, addresses, labels, lists, and their ranges.

Every parser takes what a flag, an environment variable or a TOML file may hold (text or a number) and raises
`ValueError` with a text that shows how to write it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

PORT_DEFAULT: Final = 4747

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

UNLIMITED: Final = 2**63 - 1
"""What "unlimited" stands for where a limit is expected, in bytes or bytes per second."""

_SIZE_UNITS: Final = {"": 1, "b": 1} | {
    unit + suffix: base**power
    for power, unit in enumerate("kmgt", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("ib", 1024), ("i", 1024))
}
_DURATION_UNITS: Final = {
    "": 1.0,
    "ms": 0.001,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_QUANTITY: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*([a-z]*)")


def parse_size(value: object) -> int:
    """Bytes. "2GiB" and "2 GiB" are 2 x 1024^3, "500 MB" is 500 x 1000^2, a bare number counts bytes."""
    hint = "write it like 2GiB, 500 MB, a number of bytes, or unlimited"
    return _amount(value, "a size", hint)


def parse_rate(value: object) -> int:
    """Bytes per second. "1.5 MB/s" is 1,500,000; the "/s" may be left out."""
    hint = "write it like 1.5 MB/s, 500 kB/s, a number of bytes per second, or unlimited"
    if isinstance(value, str):
        value = re.sub(r"\s*/\s*s(ec)?\s*$", "", value, flags=re.IGNORECASE)
    return _amount(value, "a rate", hint)


def parse_duration(value: object) -> float:
    """Seconds. "10 min", "30s", "1.5h", "7d", "250ms"; a bare number counts seconds."""
    problem = f"{value!r} is not a duration; write it like 30s, 10 min, 1.5h, 7d or a number of seconds"
    seconds = _scaled(value, _DURATION_UNITS)
    if seconds is None:
        raise ValueError(problem)
    return seconds


def format_size(size: int) -> str:
    """The shortest exact text for a size, which `parse_size` undoes: "1 GiB" for 1073741824."""
    if size == UNLIMITED:
        return "unlimited"
    units = (("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
    for unit, factor in units:
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def parse_address(text: str, port_default: int = PORT_DEFAULT) -> tuple[str, int]:
    """Host and port of "host:port", "[v6]:port", "host" or ":port" (all interfaces of IPv4). Port 0: any free one.

    Raises `ValueError` for anything else.
    """
    problem = f"{text!r} is not an address; write it like example.org:{PORT_DEFAULT} or [::1]:{PORT_DEFAULT}"
    text = text.strip()
    if text.endswith(":"):
        raise ValueError(problem)
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or ":" not in host or (rest and not rest.startswith(":")):
            raise ValueError(problem)
        port = rest[1:]
    elif text.count(":") > 1:
        raise ValueError(f"{problem} (an IPv6 address needs brackets)")
    else:
        host, _, port = text.partition(":")
        if not host and not port:
            raise ValueError(problem)
        host = host or "0.0.0.0"  # noqa: S104 - ":4747" means all interfaces, as it does elsewhere
    if any(c.isspace() or c == "/" for c in host):
        raise ValueError(problem)
    if not port:
        return host, port_default
    if not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise ValueError(f"{problem}; a port is a number from 0 to 65535")
    return host, int(port)


def parse_text(value: object) -> str:
    """Text and nothing else."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value


def parse_addresses(value: object) -> tuple[str, ...]:
    """A list of texts that `parse_address` takes; ":port" stands for all interfaces, of IPv4 and of IPv6."""
    found: list[str] = []
    for text in parse_texts(value):
        parse_address(text)
        found += [f"0.0.0.0{text}", f"[::]{text}"] if text.startswith(":") else [text]  # noqa: S104
    return tuple(found)


def parse_listen(value: object) -> tuple[str, ...]:
    """As `parse_addresses`: at least one, at most one of each family, all with the same port."""
    found = parse_addresses(value)
    sockets(found)
    return found


def sockets(listen: Sequence[str]) -> tuple[list[str], int]:
    """The interfaces and the one port of addresses to listen on.

    Raises `ValueError`: there is none, or two that cannot go together.
    """
    parsed = [parse_address(text) for text in listen]
    hosts = [host for host, _ in parsed]
    if not parsed:
        raise ValueError("name at least one address")
    if len({port for _, port in parsed}) > 1:
        raise ValueError(f"{', '.join(listen)}: all addresses of a node have the same port")
    if len({":" in host for host in hosts}) < len(hosts):
        raise ValueError(f"{', '.join(listen)}: a node has one address of each family (0.0.0.0 and [::] are all)")
    return hosts, parsed[0][1]


def parse_boolean(value: object) -> bool:
    """True or false, or a word for it (1, yes, on, 0, no, off)."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def number_in(lowest: float, highest: float) -> Callable[[object], float]:
    """Parser of a number from `lowest` to `highest`."""

    def parse(value: object) -> float:
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise ValueError
            number = float(value)
        except (ValueError, OverflowError):
            raise ValueError(f"{value!r} is not a number") from None
        if not lowest <= number <= highest:
            raise ValueError(f"{value!r} is not between {lowest:g} and {highest:g}")
        return number

    return parse


def whole_in(lowest: int, highest: int) -> Callable[[object], int]:
    """Parser of a whole number from `lowest` to `highest`."""

    def parse(value: object) -> int:
        number = number_in(lowest, highest)(value)
        if not number.is_integer():
            raise ValueError(f"{value!r} is not a whole number")
        return int(number)

    return parse


def seconds_in(lowest: float, highest: float) -> Callable[[object], float]:
    """Parser of a duration from `lowest` to `highest` seconds."""

    def parse(value: object) -> float:
        seconds = parse_duration(value)
        if not lowest <= seconds <= highest:
            raise ValueError(f"{value!r} is not between {lowest:g} and {highest:g} seconds")
        return seconds

    return parse


def bytes_in(lowest: int, highest: int) -> Callable[[object], int]:
    """Parser of a size from `lowest` to `highest` bytes."""

    def parse(value: object) -> int:
        size = parse_size(value)
        if not lowest <= size <= highest:
            raise ValueError(f"{value!r} is not between {lowest} and {highest} bytes")
        return size

    return parse


def one_of(*choices: str) -> Callable[[object], str]:
    """Parser of one of these words."""

    def parse(value: object) -> str:
        text = parse_text(value).strip().lower()
        if text not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return text

    return parse


def parse_texts(value: object) -> tuple[str, ...]:
    """A list, or text with commas or blanks between its items (environment variables)."""
    if isinstance(value, str):
        return tuple(value.replace(",", " ").split())
    if isinstance(value, list | tuple):
        return tuple(parse_text(item).strip() for item in value)
    raise ValueError(f"{value!r} is not a list of texts")


def parse_contacts(value: object) -> tuple[str, ...]:
    """A list of nodes to dial: "host:port" or "titan://..." (read by whoever joins)."""
    contacts = parse_texts(value)
    for contact in contacts:
        if not contact.startswith("titan://"):
            parse_address(contact)
    return contacts


def parse_labels(value: object) -> Mapping[str, str]:
    """A TOML table, or texts "key=value"."""
    if isinstance(value, Mapping):
        pairs: Iterable[tuple[object, object]] = value.items()
    else:
        texts = parse_texts(value)
        for text in texts:
            if "=" not in text:
                raise ValueError(f"{text!r} is not a label; write it like region=eu")
        pairs = [tuple(text.split("=", 1)) for text in texts]  # type: ignore[misc]
    labels: dict[str, str] = {}
    for key, item in pairs:
        if not isinstance(item, str | int | float) or isinstance(item, bool) or not parse_text(key).strip():
            raise ValueError(f"{key}={item!r} is not a label; write it like region=eu")
        labels[parse_text(key).strip()] = str(item).strip()
    return labels


def parse_path(value: object) -> Path:
    """A path; "~" is the home directory."""
    if isinstance(value, Path):
        return value
    if not parse_text(value).strip():
        raise ValueError("the path is empty")
    try:
        return Path(parse_text(value)).expanduser()
    except RuntimeError:
        raise ValueError(f"{value!r} has no home directory") from None


def _amount(value: object, what: str, hint: str) -> int:
    if isinstance(value, str) and value.strip().lower() == "unlimited":
        return UNLIMITED
    amount = _scaled(value, _SIZE_UNITS)
    if amount is None or amount >= UNLIMITED:
        raise ValueError(f"{value!r} is not {what}; {hint}")
    return int(amount)


def _scaled(value: object, units: dict[str, int] | dict[str, float]) -> float | int | None:
    """Number x unit, or None when `value` is no finite, non-negative quantity in these units."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value if 0 <= value < UNLIMITED else None
    if not isinstance(value, str):
        return None
    match = _QUANTITY.fullmatch(value.strip().lower())
    if match is None or match[2] not in units:
        return None
    number = float(match[1]) if "." in match[1] else int(match[1])
    return number * units[match[2]]
