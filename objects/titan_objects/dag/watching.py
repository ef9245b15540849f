"""How a run looks on a terminal while somebody waits for it: what its tasks write, below it a bar and what runs now."""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import titan_overlay as titan
from titan_objects.dag.submitted import ENDED, SubmittedRun
from titan_objects.dag.views import TaskView

if TYPE_CHECKING:
    from rich.console import RenderableType

ROWS_MAX = 12
"""Tasks that are shown by name."""
PAINT_SECONDS = 0.5
SKIPPED = "SKIPPED"
SHOWN = ("RUNNING", "AWAITING_APPROVAL")


async def watch(face: titan.Face, run: SubmittedRun) -> None:
    """Shows a run until it has ended. Where no person looks, its lines alone."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    if not (console.is_terminal and sys.stdout.isatty()):  # results for a program come without a show beside them
        async for line in run.logs():
            face.note(f"{line.key}: {line.text}")
        return
    with Live(console=console, transient=True) as live:

        async def paint() -> None:
            while True:
                with suppress(titan.RemotableError):  # it is asked again
                    seen = await run.look(states=SHOWN)
                    live.update(picture(await run.counts(), seen.tasks))
                await asyncio.sleep(PAINT_SECONDS)

        painting = asyncio.create_task(paint())
        try:
            async for line in run.logs():
                console.print(Text(_harmless(f"{line.key}: {line.text}")))
        finally:
            painting.cancel()


def picture(counts: Mapping[str, int], tasks: Sequence[TaskView]) -> "RenderableType":
    """A bar of what has ended, and a table of what runs."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    total = sum(counts.values())
    done = sum(counts.get(state, 0) for state in (*ENDED, SKIPPED))
    table = Table(box=None, pad_edge=False)
    for head in ("task", "state", "done", "where"):
        table.add_column(head)
    shown = [each for each in tasks if each.state in SHOWN]
    for each in shown[:ROWS_MAX]:
        share = f"{each.progress:.0%}" if each.progress else ""
        table.add_row(*map(_harmless, (each.key, each.state, share, each.child or each.worker)))
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    more = f", and {len(shown) - ROWS_MAX} more run" if len(shown) > ROWS_MAX else ""
    return Group(table, ProgressBar(max(total, 1), done, width=60), f"{done} of {total} tasks: {states}{more}")


def _harmless(text: str) -> str:
    """What tasks and workers write, without what steers a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text.expandtabs())
