"""Writes what a benchmark measured where it belongs: on the screen, as JSON, and into docs/benchmarks.md.

A table stands between `<!-- name:begin -->` and `<!-- name:end -->`; everything between is replaced, and stamped with
machine, date, commit and command, so that no figure in the documentation was typed in by hand.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"

Row = tuple[str, str, str]
"""Label, key of the result, format of its value (which may name other keys)."""


def table(rows: Sequence[Row], result: dict[str, Any]) -> str:
    """Two columns of markdown."""
    lines = ["| figure | value |", "|---|---:|"]
    for label, key, form in rows:
        if key in result:
            lines.append(f"| {label} | {form.format(result[key], **result)} |")
    return "\n".join(lines)


def write_table(marker: str, markdown: str, *, stamped: str = "", page: Path = PAGE) -> None:
    """Puts the table between its markers (at the end of the page, where there are none yet), with a stamp below.

    stamped: another stamp than that of now.
    """
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    text = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    if begin not in text or end not in text:
        text = f"{text.rstrip()}\n\n## {marker.capitalize()}\n\n{begin}\n{end}\n"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{head}{begin}\n{markdown}\n\n{stamped or stamp()}\n{end}{tail}", encoding="utf-8")


def stamp() -> str:
    """Machine, date, commit and command, as one line of markdown."""
    return stamp_of([provenance()])


def provenance() -> dict[str, str]:
    """Where, when and of which sources something is measured that is measured now."""
    return {"machine": machine(), "date": datetime.date.today().isoformat(), "commit": commit()}


def stamp_of(results: Sequence[dict[str, Any]]) -> str:
    """The stamp of a table made of results that may have been measured at different times."""
    parts = {key: ", ".join(dict.fromkeys(str(each[key]) for each in results)) for key in ("machine", "date", "commit")}
    commits = "commits" if "," in parts["commit"] else "commit"
    return f"*{parts['machine']}; {parts['date']}; {commits} {parts['commit']};* `{command()}`"


def machine() -> str:
    """Processor, cores and Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def commit() -> str:
    """Short hash, with `+` if the sources differ from it."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=ROOT, capture_output=True, text=True
    )
    return asked.stdout.strip() or "unknown"


def command() -> str:
    """What was typed, without paths of this machine."""
    name = Path(sys.argv[0])
    if name.is_absolute() and name.is_relative_to(ROOT):
        module = ".".join(name.relative_to(ROOT).with_suffix("").parts)
        return shlex.join(["python", "-m", module.removesuffix(".__main__"), *_arguments()])
    return shlex.join(["python", name.name, *_arguments()])


def _arguments() -> list[str]:
    """Arguments, but where to write JSON."""
    kept: list[str] = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        if argument == "--json":
            next(arguments, None)
        elif not argument.startswith("--json="):
            kept.append(argument)
    return kept


def publish(marker: str, rows: Sequence[Row], result: dict[str, Any], options: argparse.Namespace) -> None:
    """Prints the result as JSON, and keeps it: see `keep`."""
    print(json.dumps(result, indent=1, default=str))
    keep(marker, table(rows, result), result, options)


def publish_table(marker: str, markdown: str, result: dict[str, Any], options: argparse.Namespace) -> None:
    """Prints the table, which is of a form of its own, and keeps it: see `keep`."""
    print(markdown)
    keep(marker, markdown, result, options)


def keep(marker: str, markdown: str, result: dict[str, Any], options: argparse.Namespace) -> None:
    """Writes the result into the file `options.json`, and with `options.report` the table into the page."""
    if options.json:
        stamped = {**result, **provenance(), "command": command()}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(stamped, indent=1, default=str) + "\n", encoding="utf-8")
    if options.report:
        write_table(marker, markdown)
