"""Sorted sets and sets against plain models."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from titan_objects.store.globs import matcher
from titan_objects.store.values import Members, ZSet

MEMBER = st.binary(min_size=1, max_size=2)
SCORE = st.sampled_from([0.0, 1.0, 1.5, -1.0, float("inf"), float("-inf")])


class ShortRows(ZSet):
    ROW_MAX = 4


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), MEMBER, SCORE), max_size=120))
def test_a_sorted_set_is_sorted_and_knows_ranks(steps: list[tuple[bool, bytes, float]]) -> None:
    values, model = ShortRows(), {}
    for put, member, score in steps:
        if put:
            values.put(member, score)
            model[member] = score
        else:
            assert values.remove(member) == (model.pop(member, None) is not None)
    pairs = sorted((score, member) for member, score in model.items())
    assert list(values) == pairs
    assert [values.rank(member) for _, member in pairs] == list(range(len(pairs)))
    assert values.slice(1, 4) == pairs[1:4]


def test_rows_split_and_vanish() -> None:
    values, random = ZSet(), Random(5)
    names = [b"%d" % at for at in range(5000)]
    random.shuffle(names)
    for name in names:
        values.put(name, float(len(name)))
    assert len(values._rows) > 3
    assert values.slice(0, 5000) == sorted((float(len(name)), name) for name in names)
    for name in names:
        values.remove(name)
    assert len(values) == 0 and not values._rows and values.slice(0, 1) == []


@given(st.lists(st.tuples(st.booleans(), MEMBER), max_size=60))
def test_a_set_keeps_each_members_place(steps: list[tuple[bool, bytes]]) -> None:
    members, model = Members(), set()
    for add, member in steps:
        if add:
            assert members.add(member) == (member not in model)
            model.add(member)
        else:
            assert members.remove(member) == (member in model)
            model.discard(member)
    assert set(members) == set(members.order) == model
    assert all(members.order[at] == member for member, at in members.items())


def test_globs() -> None:
    for pattern, yes, no in [
        (b"h?llo", b"hello", b"hllo"),
        (b"h*llo", b"heeello", b"hell"),
        (b"h[ae]llo", b"hallo", b"hillo"),
        (b"h[^e]llo", b"hallo", b"hello"),
        (b"h[a-b]llo", b"hbllo", b"hcllo"),
        (b"\\*", b"*", b"x"),
        (b"a\nb*", b"a\nbc", b"ab"),
        (b"[", b"", b"x"),
    ]:
        assert matcher(pattern)(yes) or pattern == b"["
        assert not matcher(pattern)(no)
