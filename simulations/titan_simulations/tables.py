"""Results on the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from titan_simulations.results import Result


def show_points(result: Result, out: Path) -> None:
    """What was right against how many liars."""
    votes = [each["votes"] for each in result["points"][0]["voted"]]
    table = Table(
        "liars", "paths", "found", "RPCs", "data", "services", *(f"votes {each}" for each in votes),
        title="adversary: what was right",
    )  # fmt: skip
    for column in table.columns:
        column.overflow = "fold"  # in a log of 80 columns a figure goes on below, and is not cut off
    for point in result["points"]:
        table.add_row(
            f"{point['share_malicious']:.0%} {point['attack']}, seed {point['seed']}",
            point["paths"],
            percent(point["lookups_right"], point["lookups"]),
            f"{point['rpcs_per_lookup_median'] or 0:.0f}",
            *(percent(each["right"], each["sends"]) for each in (point, point["services"], *point["voted"])),
        )
    console = Console()
    console.print(table)
    console.print(f"written to {out}/", highlight=False)


def show_paths(result: Result) -> None:
    """What look-ups over so many paths found, and what the closed form says."""
    table = Table("liars", "paths", "found", "closed form", "RPCs, mean", title=f"S/Kademlia, seed {result['seed']}")
    for point in result["points"]:
        form = point["expected"]
        table.add_row(
            f"{point['share_malicious']:.0%}",
            f"d = {point['paths']}" if form is not None else "ours",
            percent(point["lookups_right"], point["lookups"]),
            "-" if form is None else f"{form:.2%}",
            f"{point['rpcs_per_lookup_mean']:.1f}",
        )
    Console().print(table)


def show_copies(result: Result) -> None:
    """Hops and load against the number of copies."""
    table = Table("copies", "requests, mean", "95 %", "hops, mean", "busiest holder", "1 / copies")
    for point in result["points"]:
        table.add_row(
            str(point["copies"]),
            f"{point['rpcs_mean']:.2f}",
            f"{point['rpcs_p95']:.0f}",
            f"{point['hops_mean']:.2f}",
            f"{point['load_max_share']:.1%}",
            f"{1 / point['copies']:.1%}",
        )
    Console().print(table)


def percent(part: int, whole: int) -> str:
    """Of none: a dash."""
    return f"{part / whole:.2%}" if whole else "-"


def show(result: Result, title: str, out: Path) -> None:
    """Each figure, and of several seeds its interval."""
    brackets = result.get("intervals_are")
    table = Table("figure", "value", title=title, caption=f"in brackets: {brackets}" if brackets else None)
    intervals: dict[str, Any] = result.get("intervals", {})
    for key, value in result.items():
        if isinstance(value, dict | list | str) or key in ("kind", "seed"):
            continue
        text = f"{value:,.6g}" if isinstance(value, int | float) else "-"
        bounds = intervals.get(key, [None, None])
        if bounds[0] is not None and bounds[0] == bounds[0]:
            text += f"  [{bounds[0]:,.4g}, {bounds[1]:,.4g}]"
        table.add_row(key.replace("_", " "), text)
    console = Console()
    console.print(table)
    console.print(f"written to {out}/", highlight=False)
