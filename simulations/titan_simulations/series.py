"""Figures over time: one row for each sampling interval of a run."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from titan_simulations.statistics import quantile


class Window:
    """Messages and look-ups that ended in one interval."""

    def __init__(self) -> None:
        self.messages = self.answered = self.lookups = self.found = 0
        self.message_seconds: list[float] = []
        self.lookup_seconds: list[float] = []


class Sample(msgspec.Struct, frozen=True):
    """One row of series.csv. Times in seconds; traffic in bytes sent per second and live node."""

    seconds: float
    nodes: int
    copies_min: float
    copies_p5: float
    copies_median: float
    copies_mean: float
    copies_p95: float
    copies_max: float
    passing_replicas: int
    objects_below_min: int
    objects_lost: int
    messages: int
    messages_answered: int
    message_seconds_median: float
    message_seconds_p95: float
    lookups: int
    lookups_found: int
    lookup_seconds_median: float
    lookup_seconds_p95: float
    routing_bytes: float
    lookup_bytes: float
    upkeep_bytes: float
    repair_bytes: float
    link_bytes: float

    @classmethod
    def of(
        cls,
        at: float,
        *,
        nodes: int,
        copies: Sequence[int],
        passing: int,
        below: int,
        lost: int,
        traffic: dict[str, int],
        seconds: float,
        window: Window,
    ) -> Self:
        """The row of an interval of `seconds` that ends at `at`; `copies` of each object, ascending."""
        per = 1.0 / (seconds * max(1, nodes))
        return cls(
            seconds=round(at, 3),
            nodes=nodes,
            copies_min=copies[0] if copies else 0,
            copies_p5=quantile(copies, 0.05),
            copies_median=quantile(copies, 0.5),
            copies_mean=sum(copies) / max(1, len(copies)),
            copies_p95=quantile(copies, 0.95),
            copies_max=copies[-1] if copies else 0,
            passing_replicas=passing,
            objects_below_min=below,
            objects_lost=lost,
            messages=window.messages,
            messages_answered=window.answered,
            message_seconds_median=quantile(window.message_seconds, 0.5),
            message_seconds_p95=quantile(window.message_seconds, 0.95),
            lookups=window.lookups,
            lookups_found=window.found,
            lookup_seconds_median=quantile(window.lookup_seconds, 0.5),
            lookup_seconds_p95=quantile(window.lookup_seconds, 0.95),
            routing_bytes=routing(traffic) * per,
            lookup_bytes=traffic.get("lookup_bytes_sent", 0) * per,
            upkeep_bytes=upkeep(traffic) * per,
            repair_bytes=traffic.get("repair_bytes", 0) * per,
            link_bytes=traffic.get("link_bytes", 0) * per,
        )


def routing(traffic: dict[str, int]) -> int:
    """Bytes sent to keep routing tables: refreshes, joins, and the handshakes of all sessions."""
    return traffic.get("routing_bytes_sent", 0) + traffic.get("handshake_bytes_sent", 0)


def upkeep(traffic: dict[str, int]) -> int:
    """Bytes sent to keep replicas known and watched: advertisements, withdrawals, probes, and what probes lead to."""
    return sum(traffic.get(f"{purpose}_bytes_sent", 0) for purpose in ("advertise", "probe", "other"))


class Series:
    """Rows, and the window that is being filled."""

    def __init__(self) -> None:
        self.rows: list[Sample] = []
        self._window = Window()

    def add(self, sample: Sample) -> None:
        """One more row."""
        self.rows.append(sample)

    def take(self) -> Window:
        """The window up to now; a new one begins."""
        window, self._window = self._window, Window()
        return window

    def message(self, seconds: float | None) -> None:
        """A message ended; None: without an answer."""
        self._window.messages += 1
        if seconds is not None:
            self._window.answered += 1
            self._window.message_seconds.append(seconds)

    def lookup(self, seconds: float | None) -> None:
        """A look-up ended; None: it found nobody."""
        self._window.lookups += 1
        if seconds is not None:
            self._window.found += 1
            self._window.lookup_seconds.append(seconds)

    def write(self, path: Path) -> None:
        """As CSV."""
        write(self.rows, path)


def write(rows: Sequence[msgspec.Struct], path: Path) -> None:
    """As CSV, a column for each field; no value is an empty field."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0].__struct_fields__ if rows else ())
        for row in rows:
            writer.writerow("" if value != value else f"{value:.6g}" for value in msgspec.structs.astuple(row))


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a CSV file that `write` made; empty fields are nan."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value or "nan") for key, value in row.items()} for row in csv.DictReader(file)]
