"""What an operator writes under `[[device]]`, checked.

[[device]]
name = "greenhouse/temperature"
kind = "sensor"
file = "/sys/class/thermal/thermal_zone0/temp"
scale = 0.001
unit = "°C"
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

import titan_overlay as titan

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
OutputBytes = Annotated[int, msgspec.Meta(ge=1, le=16 << 20)]
Words = Annotated[list[str], msgspec.Meta(min_length=1, max_length=256)]
"""A command: the program and its arguments, given to it as they are. There is no shell."""


def _anyone() -> list[str]:
    return ["*"]


class SensorTable(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sensor"
):
    """Exactly one of `file`, `command` and `callable` says where the value comes from."""

    name: str
    senders: list[str] = msgspec.field(default_factory=_anyone)
    file: str = ""
    command: Annotated[list[str], msgspec.Meta(max_length=256)] = []
    callable: Annotated[str, msgspec.Meta(pattern=r"^$|^[\w.]+:\w+$")] = ""
    """`module:function` of an installed module, taking nothing."""
    value: Literal["number", "text", "json"] = "number"
    scale: float = 1.0
    """Numbers are multiplied by it."""
    unit: str = ""
    interval: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 10.0
    """Seconds from one reading to the next; 0: read only when asked."""
    timeout: Seconds = 5.0
    output_bytes_max: OutputBytes = 64 << 10


class CommandTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command that takes arguments: `{0}` in `run` stands for the first, which must match `args[0]` as a whole."""

    run: Words
    args: Annotated[list[str], msgspec.Meta(max_length=32)] = []


class ActuatorTable(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="actuator"
):
    """`senders` has no default: an actuator changes the world, so its operator says who may use it."""

    name: str
    senders: list[str]
    commands: Annotated[dict[str, Words | CommandTable], msgspec.Meta(min_length=1)]
    directory: str = ""
    timeout: Seconds = 10.0
    output_bytes_max: OutputBytes = 64 << 10


class ApplicationTable(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="application"
):
    """Exactly one of `run` (a program) and `connect` (`host:port` of a program that runs already)."""

    name: str
    senders: list[str] = msgspec.field(default_factory=_anyone)
    run: Annotated[list[str], msgspec.Meta(max_length=256)] = []
    connect: str = ""
    framing: Literal["line", "length", "connection"] = "line"
    """How a request and a reply end: `line`: with a newline; `length`: 4 bytes, big-endian, before each; `connection`
    (with `connect` only): a connection for each request, which both ends close when they have said all."""
    directory: str = ""
    timeout: Seconds = 10.0
    reply_bytes_max: OutputBytes = 1 << 20
    restart_after: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1.0
    """Seconds before a program that ended is started again; doubled each time, up to 60, until it lasts a minute."""


Table = SensorTable | ActuatorTable | ApplicationTable


def parse(table: Mapping[str, Any]) -> Table:
    """The table, checked.

    Raises:
        ConfigError: names the device, the key, and what would be right.
    """
    called = table.get("name") if isinstance(table.get("name"), str) else "without a name"
    where = f"device {called!r}" if called else "device"
    if table.get("kind") == "actuator" and "senders" not in table:
        raise titan.ConfigError(
            f'{where}: say who may use it: senders = ["*"] for anyone, or fingerprints of keys (titan id shows yours)'
        )
    try:
        parsed: Table = msgspec.convert(dict(table), Table)
        _check(parsed)
    except (msgspec.ValidationError, ValueError) as why:
        raise titan.ConfigError(f"{where}: {why}") from None
    return parsed


def _check(table: Table) -> None:
    """Raises ValueError for what types alone do not say."""
    if not table.name:
        raise ValueError("the name is empty")
    for sender in table.senders:
        if sender != "*" and re.fullmatch(r"~?[0-9a-f]{32}", sender) is None:
            raise ValueError(f'senders: {sender!r} is neither "*" nor a fingerprint of 32 hexadecimal digits')
    if isinstance(table, SensorTable):
        _exactly_one(table, "file", "command", "callable")
    elif isinstance(table, ApplicationTable):
        _exactly_one(table, "run", "connect")
        _check_application(table)
    else:
        for name, command in table.commands.items():
            if isinstance(command, CommandTable):
                _check_command(name, command)


def _exactly_one(table: Table, *keys: str) -> None:
    given = [key for key in keys if getattr(table, key)]
    if len(given) != 1:
        raise ValueError(f"give one of {', '.join(keys)}, not {' and '.join(given) or 'none'}")


def _check_application(table: ApplicationTable) -> None:
    if table.framing == "connection" and table.run:
        raise ValueError('framing: "connection" goes with connect; a program is spoken to by "line" or "length"')
    if table.connect:
        host, _, port = table.connect.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"connect: {table.connect!r} is not host:port")


def _check_command(name: str, command: CommandTable) -> None:
    where = f"commands.{name}"
    for pattern in command.args:
        try:
            re.compile(pattern)
        except re.error as why:
            raise ValueError(f"{where}.args: {pattern!r} is not a regular expression: {why}") from None
    used = {int(number) for word in command.run for number in re.findall(r"\{([0-9]{1,3})\}", word)}
    if used != set(range(len(command.args))):
        places = ", ".join(f"{{{number}}}" for number in range(len(command.args))) or "no place"
        raise ValueError(f"{where}: {len(command.args)} patterns in args need {places} in run, and no other")
    if "{" in command.run[0]:
        raise ValueError(f"{where}: the program itself cannot come from an argument")
