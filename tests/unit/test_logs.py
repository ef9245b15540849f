"""The log of a node: what strangers can cause does not fill the disk."""

import logging
import sys

import pytest

from titan_overlay.cli.logs import ALIKE, KINDS_MAX, JsonLines, Sparing, TextLines


def line(text: str, at: float, *values: object, level: int = logging.ERROR) -> logging.LogRecord:
    record = logging.LogRecord("titan", level, __file__, 1, text, values, None)
    record.relativeCreated = at * 1000
    return record


def test_of_a_flood_of_one_kind_little_is_written_and_the_next_line_says_how_much_was_not() -> None:
    spare = Sparing()
    flood = [line("the handler of %s raised", number / 1000, number) for number in range(10_000)]
    written = [each for each in flood if spare.filter(each)]
    assert ALIKE.burst <= len(written) <= ALIKE.burst + 11 * ALIKE.rate
    assert spare.filter(line("something else", 10.0)), "others are not drowned"
    later = line("the handler of %s raised", 1000.0, "x")
    assert spare.filter(later)
    assert sum(each.left_out for each in [*written, later]) + len(written) == len(flood)  # type: ignore[attr-defined]
    assert f"({later.left_out} more like this were left out)" in TextLines().format(later)  # type: ignore[attr-defined]
    assert f'"left_out":{later.left_out}' in JsonLines().format(later)  # type: ignore[attr-defined]
    assert "left out" not in TextLines().format(written[0])


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_who_asks_for_more_than_warnings_gets_all_of_it(level: int) -> None:
    spare = Sparing()
    assert all(spare.filter(line("so it is", 0.0, level=level)) for _ in range(1000))


def test_kinds_without_end_take_no_memory_without_end_and_a_clock_that_is_set_back_silences_nobody() -> None:
    spare = Sparing()
    for number in range(4 * KINDS_MAX):
        assert spare.filter(line(f"kind {number}", 5000.0))
    assert len(spare._kinds) == KINDS_MAX
    while spare.filter(line("again", 5000.0)):
        pass
    assert spare.filter(line("again", 1000.0))


def test_a_node_is_sparing_with_its_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from titan_overlay.cli import logs

    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    level = root.level
    try:
        logs.set_up("info", json=False)
        for number in range(1000):
            logging.getLogger("titan").warning("number %d", number)
    finally:
        root.setLevel(level)
    assert ALIKE.burst <= capsys.readouterr().err.count("number") < 200
