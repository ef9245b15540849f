"""Votes: who is asked, what counts, and when a majority stands; and which answers count as equal."""

import itertools
import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import titan_overlay as titan
from titan_overlay.errors import BadMessage, Forbidden, RemotableError, RemoteError
from titan_overlay.pool.finding.comparing import Comparison
from titan_overlay.pool.finding.polling import Poll
from titan_overlay.wire import codec

EXACT = Comparison("exact")


def same(how: str, one: Any, other: Any) -> bool:
    comparison = Comparison(how)
    forms = [comparison.form(each if isinstance(each, RemotableError) else codec.encode(each)) for each in (one, other)]
    assert comparison.same(*forms) is comparison.same(*reversed(forms))
    return comparison.same(*forms)


# --- which answers are equal ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "one", "other", "expected"),
    [
        ("exact", {"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}, True),
        ("exact", [1, 2], [2, 1], False),
        ("exact", 1, 1.0, False),
        ("exact", 1, True, False),
        ("exact", "1", b"1", False),
        ("exact", math.nan, math.nan, True),
        ("exact", None, [], False),
        ("exact", [[1], 2], [[1, 2]], False),
        ("set", [1, 2, 2], [2, 1, 2], True),
        ("set", [1, 2, 2], [2, 1, 1], False),
        ("set", {"a": [[3, 1], [2]]}, {"a": [[2], [1, 3]]}, True),
        ("close:1e-6", 1.0, 1.0000001, True),
        ("close:1e-6", 1.0, 1.00001, False),
        ("close:1e-6", {"a": [1.0, "x"]}, {"a": [1.0 + 1e-9, "x"]}, True),
        ("close:1e-6", {"a": [1.0, "x"]}, {"a": [1.0, "y"]}, False),
        ("close:1e-6", {"a": 1.0}, {"b": 1.0}, False),
        ("close:1e-6", [1.0], [1.0, 1.0], False),
        ("close:1e-6", 1, 1.0, True),
        ("close:1e-6", True, 1, False),
        ("close:1e-6", math.nan, math.nan, True),
        ("close:1e-6", math.inf, -math.inf, False),
        ("close:1e-6", 2**63, 2**63 + 1, True),
        ("exact", RemoteError("no", type="a.b", correlation="1"), RemoteError("no", type="a.b", correlation="2"), True),
        ("exact", RemoteError("no", type="a.b"), RemoteError("pay", type="a.b"), False),
        ("exact", Forbidden("no"), BadMessage("no"), False),
        ("close:1e-6", Forbidden("no"), ["forbidden", "no", {}], False),
    ],
)
def test_which_answers_count_as_equal(how: str, one: Any, other: Any, expected: bool) -> None:
    assert same(how, one, other) is expected


@pytest.mark.parametrize("bad", [b"", b"\xc1", b"\x92\x01", b"\x91" * 5000 + b"\x01", b"\x01\x01"])
def test_what_is_no_value_is_no_answer(bad: bytes) -> None:
    with pytest.raises(BadMessage):
        EXACT.form(bad)


@pytest.mark.parametrize("level", [b"\x91", b"\x81\xa1k"])
def test_a_large_answer_is_not_copied_for_each_level_that_it_is_nested(level: bytes) -> None:
    large, other = (level * 300 + codec.encode(fill * 900_000) for fill in (b"x", b"y"))
    one, again, differs = map(EXACT.form, (large, large, other))
    assert len(one.canonical) < 100, "so has each level"
    assert EXACT.same(one, again) and not EXACT.same(one, differs)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, VALUES, st.sampled_from(["exact", "set", "close:1e-6"]))
def test_every_comparison_is_reflexive_and_symmetric_and_never_finer_than_exact(one: Any, other: Any, how: str) -> None:
    assert same(how, one, one)
    assert same(how, one, other) >= same("exact", one, other)


@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from(["exact", "set", "close:0.5"]))
def test_any_bytes_can_be_compared_or_are_refused(one: bytes, other: bytes, how: str) -> None:
    comparison = Comparison(how)
    try:
        forms = [comparison.form(one), comparison.form(other)]
    except BadMessage:
        return
    assert comparison.same(*forms) is comparison.same(*reversed(forms))


@pytest.mark.parametrize(
    "bad", ["", "close", "close:", "close:0", "close:1", "close:-1", "close:nan", "equal", "set:1"]
)
def test_a_comparison_that_does_not_exist_is_refused_where_the_policy_is_made(bad: str) -> None:
    with pytest.raises(ValueError, match="compare is"):
        titan.Policy(compare=bad)


def test_a_policy_with_more_votes_than_copies_is_refused() -> None:
    with pytest.raises(ValueError, match="min_copies"):
        titan.Policy(votes=5, min_copies=3)
    titan.Policy(votes=5, min_copies=5)


# --- the vote ---------------------------------------------------------------------------------------------------


def poll(votes: int, candidates: int, how: str = "exact") -> Poll[int]:
    return Poll(votes, range(candidates), Comparison(how))


def form(value: Any, how: str = "exact") -> Any:
    return Comparison(how).form(codec.encode(value))


def test_as_many_as_there_are_votes_are_asked_at_once() -> None:
    assert poll(5, 9).start() == [0, 1, 2, 3, 4]


def winner(vote: Poll[int]) -> Any:
    return None if vote.elected is None else (vote.elected.form.value, vote.elected.agreed)


def answers(vote: Poll[int], told: str) -> None:
    """Of the first few, a letter each."""
    for voter, value in enumerate(told):
        vote.answered(voter, form(value))


def test_what_all_agree_on_is_the_answer_once_all_have_given_it() -> None:
    vote = poll(5, 10)
    vote.start()
    answers(vote, "aaaa")
    assert winner(vote) is None, "the quickest may be liars"
    assert vote.answered(4, form("a")) == []
    assert (winner(vote), vote.needed) == (("a", 5), 3)


def test_where_two_differ_as_many_again_are_asked_and_most_of_them_have_to_agree() -> None:
    vote = poll(5, 12)
    vote.start()
    assert vote.answered(0, form("a")) == []
    assert vote.answered(1, form("b")) == [5, 6, 7, 8, 9]
    assert (vote.asked, vote.electorate, vote.needed) == (10, 10, 6)
    for voter in range(2, 6):
        assert vote.answered(voter, form("a")) == []
    assert winner(vote) is None
    vote.answered(6, form("a"))
    assert winner(vote) == ("a", 6)


@pytest.mark.parametrize(("candidates", "told"), [(5, "ababa"), (6, "abbaba"), (7, "abaaa"), (7, "abbbb")])
def test_of_fewer_candidates_than_twice_the_votes_most_of_all_of_them(candidates: int, told: str) -> None:
    vote = poll(5, candidates)
    vote.start()
    answers(vote, told)
    assert vote.asked == vote.electorate == candidates
    assert winner(vote) is None and vote.is_short, "whoever told of these may not have told of all"
    assert vote.more([]) == []
    assert not vote.is_short
    most = max(map(told.count, told))
    assert (winner(vote) is not None) == (most > candidates / 2)
    assert vote.hopeless == (candidates == 6)


def test_where_nobody_can_say_whether_there_are_others_a_dispute_is_not_decided() -> None:
    vote = poll(5, 5)
    vote.start()
    answers(vote, "bbba")
    assert vote.is_short and winner(vote) is None
    assert vote.more(None) == []
    assert winner(vote) is None and vote.hopeless and not vote.is_short
    vote.close()
    assert winner(vote) is None


def test_who_has_the_most_of_those_asked_first_has_not_won() -> None:
    vote = poll(5, 10)
    vote.start()
    answers(vote, "bbb")
    assert vote.answered(3, form("a")) == [5, 6, 7, 8, 9]
    answers(vote, "bbbaaaaaa")
    assert winner(vote) == ("a", 6)


def test_a_tie_is_no_answer() -> None:
    vote = poll(4, 8)
    vote.start()
    answers(vote, "ababab")
    assert not vote.hopeless
    answers(vote, "abababab")
    assert winner(vote) is None and vote.hopeless


def test_a_tie_of_all_that_are_known_is_broken_by_those_who_are_found_later() -> None:
    vote = poll(4, 6)
    vote.start()
    answers(vote, "ababab")
    assert (vote.electorate, vote.needed) == (6, 4)
    assert winner(vote) is None and not vote.hopeless
    assert vote.more([5, 6, 7, 8]) == [6, 7]
    answers(vote, "abababaa")
    assert winner(vote) == ("a", 5)


def test_three_of_three_that_answered_are_no_majority_of_seven() -> None:
    vote = poll(7, 7)
    vote.start()
    answers(vote, "aaa")
    for voter in range(3, 7):
        assert vote.failed(voter) == []
    assert winner(vote) is None and vote.is_short
    assert vote.more([6, 7, 8]) == [7, 8], "others may answer in their place"
    assert (vote.electorate, vote.needed) == (9, 5), "who failed is counted: that helps no liar"
    vote.answered(7, form("a"))
    assert winner(vote) is None
    vote.answered(8, form("a"))
    assert winner(vote) == ("a", 5)


def test_one_that_fails_is_replaced_and_one_that_is_late_may_still_answer() -> None:
    vote = poll(3, 6)
    vote.start()
    assert vote.failed(0) == [3]
    assert vote.late(1) == [4]
    assert vote.late(1) == []
    vote.answered(1, form("a"))
    vote.answered(3, form("a"))
    assert winner(vote) is None
    vote.answered(4, form("a"))
    assert winner(vote) == ("a", 3), "all alike; number 2 is not needed any more"


def test_the_last_that_is_awaited_is_replaced_too() -> None:
    vote = poll(5, 10)
    vote.start()
    answers(vote, "aaaa")
    assert vote.failed(4) == [5]
    assert winner(vote) is None
    assert vote.late(5) == [6]
    assert vote.answered(6, form("b")) == [7, 8, 9], "in a dispute as many as make twice the votes"
    assert vote.electorate == 10


def test_liars_that_answer_while_others_are_slow_do_not_win() -> None:
    vote = poll(5, 10)
    asked = vote.start()
    for voter in asked:
        asked += vote.late(voter)
    assert asked == list(range(10)), "each is replaced, up to twice the votes"
    for liar in (1, 4, 9):
        vote.answered(liar, form("b"))
    assert (vote.needed, winner(vote), vote.is_short) == (6, None, False)
    for voter in (0, 2, 3, 5, 6, 7):
        vote.answered(voter, form("a"))
    assert winner(vote) == ("a", 6)


def test_who_is_slow_is_not_replaced_for_ever() -> None:
    vote = poll(3, 64)
    asked = vote.start()
    for voter in asked:
        asked += vote.late(voter)
    assert len(asked) == 6
    assert vote.failed(0) == [6], "but who fails is"


def test_whom_others_keep_from_answering_is_counted() -> None:
    vote = poll(5, 10)
    asked = vote.start()
    for voter in asked:
        asked += [] if voter in (1, 4, 9) else vote.failed(voter)
    for liar in (1, 4, 9):
        vote.answered(liar, form("b"))
    assert (vote.asked, vote.needed, winner(vote)) == (10, 6, None)
    assert vote.is_short


def test_where_many_have_failed_more_have_to_agree_and_are_asked() -> None:
    vote = poll(3, 9)
    asked = vote.start()
    for voter in asked[:3]:
        asked += vote.failed(voter)
    assert asked == [0, 1, 2, 3, 4, 5]
    assert (vote.needed, winner(vote)) == (4, None)
    assert [vote.answered(voter, form("a")) for voter in (3, 4, 5)] == [[6], [], []]
    vote.answered(6, form("a"))
    assert winner(vote) == ("a", 4)


def test_when_the_time_is_over_who_has_not_answered_is_no_reason_to_wait() -> None:
    vote = poll(5, 10)
    vote.start()
    answers(vote, "aaaa")
    assert winner(vote) is None
    vote.close()
    assert winner(vote) == ("a", 4)


def test_who_alone_keeps_others_waiting_does_not_keep_them_for_ever() -> None:
    vote = poll(5, 6)
    vote.start()
    answers(vote, "aaaa")
    assert vote.failed(4) == [5]
    assert winner(vote) is None
    vote.late(5)
    assert winner(vote) is None and vote.is_short
    vote.more([])
    assert winner(vote) == ("a", 4), "four of six agree, nobody differs, and nobody is left to ask"


def test_liars_that_a_directory_names_with_few_others_do_not_win_though_those_are_silent() -> None:
    vote = poll(5, 5)
    vote.start()
    answers(vote, "bbb")
    vote.late(3)
    vote.failed(4)
    assert winner(vote) is None and vote.is_short
    assert vote.more(range(5, 10)) == [5, 6]
    assert winner(vote) is None
    vote.answered(5, form("a"))
    assert vote.asked == vote.electorate == 10 and vote.needed == 6


def test_what_was_looked_for_already_is_not_looked_for_again() -> None:
    vote: Poll[int] = Poll(5, range(5), EXACT, are_all=True)
    vote.start()
    answers(vote, "abaab")
    assert winner(vote) == ("a", 3) and not vote.is_short


def test_a_late_one_and_its_replacement_that_both_fail_leave_the_vote_to_the_next() -> None:
    vote = poll(3, 6)
    assert vote.start() == [0, 1, 2]
    assert vote.late(0) == [3]
    assert vote.failed(3) == [4]
    assert vote.failed(0) == []
    answers(vote, " aa")
    vote.answered(4, form("a"))
    assert winner(vote) == ("a", 3)


def test_nobody_votes_twice() -> None:
    vote = Poll(3, [0, 0, 1, 1, 2], EXACT)
    assert vote.start() == [0, 1, 2]
    vote.answered(0, form("a"))
    vote.answered(0, form("a"))
    assert winner(vote) is None and len(vote.ballots) == 1


def test_where_equality_is_not_transitive_the_value_that_a_majority_agrees_with_is_elected() -> None:
    vote = poll(3, 3, "close:0.1")
    vote.start()
    vote.answered(0, form(100.0, "close:0.1"))
    vote.answered(1, form(115.0, "close:0.1"))
    vote.more([])
    assert winner(vote) is None
    assert not vote.hopeless
    vote.answered(2, form(108.0, "close:0.1"))
    assert vote.disputed
    assert winner(vote) == (108.0, 3)


ANSWERS = st.lists(
    st.tuples(st.sampled_from(["answer", "fail", "late"]), st.integers(0, 11), st.integers(0, 3)), max_size=60
)


@given(st.integers(1, 7), st.integers(0, 12), ANSWERS, st.sampled_from(["exact", "close:0.4"]))
def test_whatever_happens_nobody_is_elected_without_a_majority_of_those_who_were_to_answer(
    votes: int, candidates: int, events: list[tuple[str, int, int]], how: str
) -> None:
    comparison = Comparison(how)
    vote: Poll[int] = Poll(votes, range(candidates), comparison)
    asked = list(vote.start())
    assert len(asked) == min(votes, candidates)
    counted: dict[int, int] = {}
    for what, voter, value in events:
        waited_for = voter in asked and voter not in counted
        if what == "answer":
            before = len(vote.ballots)
            asked += vote.answered(voter, comparison.form(codec.encode(value)))
            assert len(vote.ballots) - before <= waited_for
            if len(vote.ballots) > before:
                counted[voter] = value
        elif voter in asked:
            asked += vote.failed(voter) if what == "fail" else vote.late(voter)
        assert len(set(asked)) == len(asked) == vote.asked <= candidates
        assert [each.voter for each in vote.ballots] == list(counted)
        most = max(
            (sum(same(how, value, other) for other in counted.values()) for value in counted.values()), default=0
        )
        assert vote.electorate >= max(len(asked), votes)
        assert not vote.disputed or vote.electorate >= min(2 * votes, candidates)
        assert vote.disputed or most == len(counted)
        if vote.elected is not None:
            assert vote.elected.agreed == most > vote.electorate / 2
            break
        if vote.hopeless:
            break
    elected, hopeless = vote.elected, vote.hopeless
    vote.close()
    assert not hopeless or vote.elected is None
    assert elected is None or vote.elected is elected


@pytest.mark.parametrize("votes", [5, 7])
@pytest.mark.parametrize(
    ("share", "way"),
    [
        *itertools.product([0.2, 0.3, 0.5], ["any order", "liars first"]),
        *itertools.product([0.2, 0.3], ["the honest are late"]),
    ],
)
def test_the_wrong_answers_are_fewer_than_the_binomial_bound_says(votes: int, share: float, way: str) -> None:
    chance = Random(f"{votes}/{share}")
    bound = sum(math.comb(votes, n) * share**n * (1 - share) ** (votes - n) for n in range(votes // 2 + 1, votes + 1))
    trials, wrong = 2000, 0
    for _ in range(trials):
        vote = poll(votes, 2 * votes)
        liar = [chance.random() < share for _ in range(2 * votes)]
        queue = vote.start()
        for voter in queue if way == "the honest are late" else []:
            queue += [] if liar[voter] else vote.late(voter)
        while queue and vote.elected is None:
            lying = [each for each in queue if liar[each]]
            voter = chance.choice(lying if lying and way != "any order" else queue)
            queue.remove(voter)
            if chance.random() < 0.1 and not liar[voter]:
                queue += vote.failed(voter)
            else:
                queue += vote.answered(voter, form("lie" if liar[voter] else "true"))
        wrong += winner(vote) is not None and winner(vote)[0] == "lie"
    spread = math.sqrt(bound * (1 - bound) / trials)
    assert wrong / trials < bound - 3 * spread
