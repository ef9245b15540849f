"""What comes of the bytes that a worker process writes on its standard error."""

import logging
import sys
import tempfile

import pytest

from titan_overlay.cli.logs import JsonLines, TextLines
from titan_overlay.pool.hosting.worker_log import (
    LINE_BYTES_MAX,
    LINES,
    TEXT_CHARACTERS_MAX,
    TRACEBACK_CHARACTERS_MAX,
    Lines,
    Record,
    ToNode,
)


@pytest.fixture(autouse=True)
def _level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def written(level: int, text: str, *, logger: str = "titan_overlay.object", trouble: bool = False) -> bytes:
    """What a worker writes for a record of its log."""
    record = logging.LogRecord(logger, level, "", 0, "%s", (text,), None)
    if trouble:
        try:
            raise ValueError(text)
        except ValueError:
            record.exc_info = sys.exc_info()
    with tempfile.TemporaryFile() as file:
        ToNode(file.fileno()).handle(record)
        file.seek(0)
        return file.read()


def test_records_keep_their_level_and_text_and_prints_are_lines() -> None:
    data = b"one\n\n" + written(40, "noisy: two\nlines \ud800") + b"three" + written(30, "four", logger="pil") + b"five"
    lines = Lines("noisy")
    said = [each for at in range(len(data)) for each in lines.take(data[at : at + 1], 0.0)]
    assert [*said, *lines.end(0.0)] == [
        Record(20, "noisy: one"),
        Record(40, "noisy: two\nlines ?"),
        Record(20, "noisy: three"),
        Record(30, "noisy: pil: four"),
        Record(20, "noisy: five"),
    ]


def test_whatever_is_written_is_said_in_the_name_of_the_object() -> None:
    forged = b'\x1e{"level":50,"text":"somebody else: x"}\n\x1e{"level":5000,"text":"x"}\n\xff\x1b[2J\n'
    said = Lines("noisy").take(forged, 0.0)
    assert [each.text.partition(": ")[0] for each in said] == ["noisy"] * 3
    assert [each.level for each in said] == [50, 20, 20]


def test_lines_are_bounded_in_size() -> None:
    lines = Lines("noisy")
    assert not lines.take(b"x" * LINE_BYTES_MAX, 0.0)
    (cut,) = lines.take(b"x", 0.0)
    assert len(cut.text) == TEXT_CHARACTERS_MAX
    longest = written(40, "\x01" * 100_000, trouble=True)
    assert len(longest) < LINE_BYTES_MAX
    (record,) = lines.take(longest, 0.0)
    assert (len(record.text), len(record.traceback)) == (TEXT_CHARACTERS_MAX, TRACEBACK_CHARACTERS_MAX)


def test_of_more_lines_than_a_worker_may_write_only_the_number_is_logged() -> None:
    lines = Lines("noisy")
    many = round(LINES.burst)
    assert len(lines.take(b"x\n" * (many + 7), 0.0)) == many
    later = lines.take(b"y\n", 1.0)
    assert [(each.level, each.text[:14]) for each in later] == [(30, "noisy: 7 lines"), (20, "noisy: y")]
    assert len(lines.take(b"x\n" * many, 1.0)) == LINES.rate - 1
    assert [each.text[:16] for each in lines.end(1.0)] == [f"noisy: {many - LINES.rate + 1:.0f} lines"]


def test_what_the_log_of_the_node_does_not_want_costs_the_worker_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    lines = Lines("noisy")
    assert not lines.take(b"x\n" * round(2 * LINES.burst), 0.0)
    assert lines.take(written(30, "y"), 0.0) == [Record(30, "noisy: y")]


def test_a_traceback_from_a_worker_is_shown_and_no_line_of_it_passes_for_one_of_the_log() -> None:
    record = logging.LogRecord("titan_overlay.object", 40, "", 0, "it raised", (), None)
    record.exc_text = "ValueError: a\x1b[2J\n2026-11-29 00:00:00 error forged"
    head, *trace = TextLines().format(record).split("\n")
    assert head.endswith(" error it raised")
    assert trace == ["    ValueError: a\ufffd[2J", "    2026-11-29 00:00:00 error forged"]
    assert '"traceback":"ValueError: a\\u001b[2J\\n2026' in JsonLines().format(record)
