"""The lookup core: whom it asks, when, and when it is over."""

from random import Random

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId
from titan_overlay.overlay.lookup import MAX_QUESTIONS, Lookup

TARGET = bytes(32)
ME = b"\xff" * 32


def at(distance: int) -> Contact:
    return Contact(NodeId(distance.to_bytes(32, "big")), "10.0.0.1", distance % 60000 + 1)


def lookup(**options: object) -> Lookup:
    return Lookup(TARGET, ME, **{"alpha": 3, "wanted": 4} | options)


def test_it_asks_the_closest_first_and_no_more_than_alpha() -> None:
    walk = lookup()
    assert walk.start([at(n) for n in (9, 3, 7, 5, 1)]) == [at(1), at(3), at(5)]
    assert walk.late(at(99).id) == []


def test_a_new_question_goes_out_as_soon_as_one_is_answered() -> None:
    walk = lookup(wanted=5)
    walk.start([at(n) for n in (10, 20, 30, 40)])
    assert walk.reply(at(20).id, [at(2)]) == [at(2)]
    assert walk.reply(at(2).id, []) == [at(40)], "the two others are still on their way"


def test_it_ends_when_the_closest_have_answered() -> None:
    walk = lookup(wanted=2)
    walk.start([at(10), at(20), at(30)])
    walk.reply(at(20).id, [])
    assert not walk.finished
    walk.reply(at(10).id, [])
    assert walk.finished
    assert walk.answered(9) == [at(10), at(20)]


def test_a_late_one_costs_a_spare_question_and_its_answer_is_still_welcome() -> None:
    walk = lookup(alpha=1, wanted=2)
    assert walk.start([at(10), at(20), at(30)]) == [at(10)]
    assert walk.late(at(10).id) == [at(20)]
    assert walk.reply(at(10).id, [at(5)]) == []
    assert walk.reply(at(20).id, []) == [at(5)]
    assert walk.reply(at(5).id, []) == []
    assert walk.finished and walk.answered(2) == [at(5), at(10)]


def test_a_late_one_does_not_keep_it_from_ending_unless_it_is_patient() -> None:
    for patient in (False, True):
        walk = lookup(wanted=1, patient=patient)
        walk.start([at(10)])
        walk.late(at(10).id)
        assert walk.finished is not patient


def test_a_dead_one_is_replaced_by_the_next() -> None:
    walk = lookup(alpha=2, wanted=2)
    walk.start([at(10), at(20), at(30)])
    assert walk.failed(at(10).id) == [at(30)]
    walk.reply(at(20).id, [])
    walk.reply(at(30).id, [])
    assert walk.finished and walk.known(5) == [at(20), at(30)]


def test_it_never_asks_itself_or_anyone_twice() -> None:
    walk = lookup()
    me = Contact(NodeId(ME), "10.0.0.9", 9)
    assert walk.start([me, at(1), at(1)]) == [at(1)]
    assert walk.reply(at(1).id, [at(1), me]) == []
    assert walk.finished


def test_without_contacts_it_is_over_at_once() -> None:
    walk = lookup()
    assert walk.start([]) == [] and walk.finished


def test_liars_who_always_know_somebody_closer_cannot_keep_it_going() -> None:
    walk = lookup()
    distance = 1 << 200
    asking = walk.start([at(distance)])
    asked = 0
    while asking:
        asked += 1
        distance -= 1
        asking = walk.reply(asking[0].id, [at(distance)])
    assert asked == MAX_QUESTIONS and walk.finished


def test_paths_that_share_what_is_taken_are_disjoint() -> None:
    taken: set[bytes] = set()
    one, other = lookup(taken=taken), lookup(taken=taken)
    contacts = [at(n) for n in range(1, 9)]
    assert set(one.start(contacts)).isdisjoint(other.start(contacts))


def test_it_finds_the_exact_closest_whatever_order_answers_come_in() -> None:
    """A complete little world: everyone knows the 6 closest to the target among 60, and 10 others at random."""
    random = Random(3)
    world = [at(random.getrandbits(256)) for _ in range(60)]
    exact = sorted(world, key=lambda c: c.long_id)
    for _ in range(50):
        walk = lookup(wanted=6)
        flying = walk.start(random.sample(world, 3))
        while flying:
            asked = flying.pop(random.randrange(len(flying)))
            closer = [c for c in exact if c.long_id < asked.long_id][-6:]
            flying += walk.reply(asked.id, closer + random.sample(world, 4) + exact[: 2 if len(closer) < 6 else 0])
        assert walk.finished
        assert walk.answered(6) == exact[:6]
