"""Printing: JSON for programs, tables for people, bytes as they are. What peers say never steers the terminal."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

WIDTH_UNBOUND = 240
"""Columns where output goes to a file or a pipe: cells are not cut there."""

HEX_NOTE_BYTES = 64


def print_json(value: Any, *, to: TextIO | None = None) -> None:
    """One JSON document and a newline. Bytes become base64; what could steer a terminal is written in ASCII."""
    import msgspec

    stream = to or sys.stdout
    text = msgspec.json.encode(value, enc_hook=str).decode()
    if not text.isprintable():
        text = "".join(_escaped(c) if _steers(c) else c for c in text)
    stream.write(text + "\n")


def print_rich(what: Any) -> None:
    """A table or a text on standard output; None: nothing."""
    if what is None:
        return
    if isinstance(what, str):
        sys.stdout.write(printable(what) + "\n")
        return
    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(what)
        return
    console = Console(width=WIDTH_UNBOUND)
    with console.capture() as captured:
        console.print(what)
    sys.stdout.write("\n".join(line.rstrip() for line in captured.get().strip("\n").split("\n")) + "\n")


def print_value(value: Any) -> None:
    """A reply: text as text, bytes as they are, anything else as JSON."""
    if isinstance(value, str):
        sys.stdout.write((printable(value) if sys.stdout.isatty() else value) + "\n")
    elif isinstance(value, bytes):
        print_bytes(value)
    else:
        print_json(value)


def print_bytes(data: bytes) -> None:
    """Bytes into a pipe or a file; to a terminal, how many there are and the first of them."""
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    _print_some(data[:HEX_NOTE_BYTES], len(data))


def print_file(file: Path) -> None:
    """As `print_bytes`, of what a file holds, piece by piece."""
    with file.open("rb") as content:
        if sys.stdout.isatty():
            _print_some(content.read(HEX_NOTE_BYTES), file.stat().st_size)
            return
        sys.stdout.flush()
        import shutil  # half a megabyte, with what it imports, that nodes do without

        shutil.copyfileobj(content, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _print_some(first: bytes, size: int) -> None:
    print_rich(f"{size} bytes: {first.hex(' ')}{' ...' if size > len(first) else ''}")
    note("redirect the output (> FILE) to have the bytes themselves")


def note(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """The text without what could steer a terminal."""
    return "".join(c if c in "\n\t" or not _steers(c) else "\N{REPLACEMENT CHARACTER}" for c in text)


def _steers(character: str) -> bool:
    """Control characters, and those of format: the direction of text, what joins and what is not seen."""
    if character.isascii():
        return not character.isprintable()
    import unicodedata  # memory of nodes that say nothing but ASCII

    return unicodedata.category(character) in ("Cc", "Cf", "Cs")


def _escaped(character: str) -> str:
    """As JSON writes it where it must."""
    pairs = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{pairs[at : at + 4]}" for at in range(0, len(pairs), 4))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Any:
    """A rich table. A column whose name begins with `>` is aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        # Text, not str: square brackets in a peer's answer are no markup.
        made.add_row(*(Text(printable(str(cell))) for cell in row))
    return made


def pairs(rows: Iterable[tuple[str, Any]]) -> Any:
    """Two columns without a head: what, and its value."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column()
    made.add_column(overflow="fold")
    for key, value in rows:
        made.add_row(Text(key, style="bold"), Text(printable(str(value))))
    return made


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on standard error, where that is a terminal; gives what `put` and `get` call, or None."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(what), total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


def size(count: float) -> str:
    """Bytes for people: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds for people: `45s`, `12m`, `3.5h`, `2.1d`."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds / 60:.0f}m"
    return f"{seconds / 3600:.1f}h" if seconds < 86400 else f"{seconds / 86400:.1f}d"


class _Lines(logging.Formatter):
    """Log lines, and tracebacks, that may quote what peers said."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def set_up_logging(verbose: bool) -> None:
    """Warnings as lines on standard error; with `verbose`, all of the log."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("titan: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.WARNING, handlers=[handler], force=True)
    if not verbose:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
