"""What a simulation shows of itself while it runs."""

import io

from rich.console import Console

from titan_simulations.progress import Bar


def test_into_a_log_go_ten_lines_and_no_bar():
    log = io.StringIO()
    with Bar("churn, seed 1", 1000.0, Console(file=log, width=20)) as step:
        for now in range(1000):
            step("joining", float(now))
    lines = log.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[1].startswith("churn, seed 1: 0:01:40 simulated, ")
    assert lines[1].endswith(" s CPU, joining")


def test_on_a_terminal_there_is_a_bar():
    screen = io.StringIO()
    with Bar("churn, seed 1", 1000.0, Console(file=screen, width=120, force_terminal=True)) as step:
        step("joining", 500.0)
    assert "50%" in screen.getvalue() and "done" in screen.getvalue()
