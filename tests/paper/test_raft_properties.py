"""Raft: the properties of figure 3 (Ongaro and Ousterhout 2014) on random walks; see `raft_explorer.py`."""

import pytest

from tests.paper.raft_explorer import explore


@pytest.mark.parametrize("members", [3, 5])
def test_figure_3_holds_whatever_happens(members):
    assert explore(members, range(16), 3000) > 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("members", [3, 4, 5])
def test_figure_3_holds_on_long_walks(members):
    assert explore(members, range(1000, 1300), 3000) > 400
