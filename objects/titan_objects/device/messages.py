"""What devices are sent, and what they answer."""

from typing import Any

import msgspec

import titan_overlay as titan


class Reading(msgspec.Struct, frozen=True):
    """One reading of a sensor."""

    value: Any
    """A number, a text, or any JSON value, as the operator's table says."""
    unit: str
    age: float
    """Seconds since it was taken."""
    error: str = ""
    """Why the newest attempt failed, where this reading is older than that."""


class Read(titan.Message[Reading], namespace="device"):
    """The last reading; with `fresh`, one that is taken now."""

    fresh: bool = False


class Watch(titan.Message[Reading], namespace="device"):
    """A stream of readings, beginning with the present one."""

    count: int = 0
    """How many; 0: until the caller goes."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a command."""

    status: int
    """Exit status; negative: the number of the signal that ended it."""
    output: str
    """Standard output."""
    errors: str
    """Standard error."""
    truncated: bool = False
    """There was more output than the table's `output_bytes_max`; the rest was dropped."""


class Act(titan.Message[Outcome], namespace="device"):
    """Runs one of the commands that the operator listed."""

    command: str
    args: list[str] = msgspec.field(default_factory=list)


class Commands(titan.Message[dict[str, list[str]]], namespace="device"):
    """Which commands are there? By name, with the pattern of each argument."""
