"""The lookup core: whom it asks, on which path, when more paths begin, and when it is over."""

import gc
from collections.abc import Iterable, Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId
from titan_overlay.overlay.lookup import ACCEPTED, BUDGET, STRIKES, Lookup, Question

TARGET = bytes(32)
ME = b"\xff" * 32


def at(distance: int, address: str = "10.0.0.1") -> Contact:
    return Contact(NodeId(distance.to_bytes(32, "big")), address, distance % 60000 + 1)


def table(*contacts: Contact) -> "Seeds":
    return Seeds(contacts)


class Seeds:
    """A routing table: the closest of what it holds."""

    def __init__(self, contacts: Iterable[Contact]) -> None:
        self.contacts = list(contacts)

    def __call__(self, target: bytes, count: int) -> Sequence[Contact]:
        wanted = int.from_bytes(target, "big")
        return sorted(self.contacts, key=lambda c: c.long_id ^ wanted)[:count]


def one_path(*contacts: Contact, **options: object) -> Lookup:
    """The walk of plain Kademlia."""
    return Lookup(TARGET, ME, table(*contacts), **{"alpha": 3, "paths": 1, "wanted": 4, "union": 0} | options)


def asked(questions: list[Question]) -> list[Contact]:
    return [question.contact for question in questions]


# --- what it leaves -----------------------------------------------------------------------------------------


def test_when_it_is_closed_it_leaves_nothing_to_the_garbage_collector_and_keeps_what_it_found() -> None:
    gc.collect()
    gc.disable()
    try:
        walk = one_path(*[at(n) for n in (10, 20, 30)])
        walk.start()
        walk.reply(at(10), [at(20), at(40)])
        walk.reply(at(20), [at(10), at(40)])
        walk.finish()
        walk.close()
        assert walk.answered(3) == walk.heard(100) == [at(10), at(20)]
        del walk
        assert gc.collect() == 0, "paths and contacts in circles"
    finally:
        gc.enable()


# --- one path -------------------------------------------------------------------------------------------------


def test_it_asks_the_closest_first_and_no_more_than_alpha() -> None:
    walk = one_path(*[at(n) for n in (9, 3, 7, 5, 1)])
    assert asked(walk.start()) == [at(1), at(3), at(5)]
    assert walk.late(at(99)) == []


def test_a_new_question_goes_out_as_soon_as_one_is_answered() -> None:
    walk = one_path(*[at(n) for n in (10, 20, 30, 40)], wanted=5)
    walk.start()
    assert asked(walk.reply(at(20), [at(2)])) == [at(2)]
    assert asked(walk.reply(at(2), [])) == [at(40)], "the two others are still on their way"


def test_it_ends_when_the_closest_have_answered() -> None:
    walk = one_path(at(10), at(20), at(30), wanted=2, alpha=2)
    walk.start()
    walk.reply(at(20), [])
    assert not walk.finished
    walk.reply(at(10), [])
    assert walk.finished
    assert walk.answered(9) == [at(10), at(20)]


def test_a_late_one_costs_a_spare_question_and_its_answer_is_still_welcome() -> None:
    walk = one_path(at(10), at(20), at(30), alpha=1, wanted=2)
    assert asked(walk.start()) == [at(10)]
    assert asked(walk.late(at(10))) == [at(20)]
    assert walk.reply(at(10), [at(5)]) == []
    assert asked(walk.reply(at(20), [])) == [at(5)]
    assert walk.reply(at(5), []) == []
    assert walk.finished and walk.answered(2) == [at(5), at(10)]


def test_a_late_one_does_not_keep_it_from_ending_unless_it_is_patient() -> None:
    for patient in (False, True):
        walk = one_path(at(10), patient=patient)
        walk.start()
        walk.late(at(10))
        assert walk.finished is not patient


def test_a_dead_one_is_replaced_by_the_next() -> None:
    walk = one_path(at(10), at(20), at(30), alpha=2, wanted=2)
    walk.start()
    assert asked(walk.failed(at(10))) == [at(30)]
    walk.reply(at(20), [])
    walk.reply(at(30), [])
    assert walk.finished and walk.answered(5) == [at(20), at(30)]


def test_it_never_asks_itself_or_anyone_twice() -> None:
    me = Contact(NodeId(ME), "10.0.0.9", 9)
    walk = one_path(me, at(1))
    assert asked(walk.start()) == [at(1)]
    assert walk.reply(at(1), [at(1), me]) == []
    assert walk.finished


def test_without_contacts_it_is_over_at_once() -> None:
    walk = one_path()
    assert walk.start() == [] and walk.finished


def test_liars_who_always_know_somebody_closer_cannot_keep_it_going() -> None:
    distance = 1 << 200
    walk = one_path(at(distance))
    asking = walk.start()
    count = 0
    while asking:
        count += 1
        distance -= 1
        asking = walk.reply(asking[0].contact, [at(distance)])
    assert count == BUDGET and walk.finished


# --- many paths -----------------------------------------------------------------------------------------------


def paths(*contacts: Contact, **options: object) -> Lookup:
    return Lookup(TARGET, ME, table(*contacts), **{"alpha": 3, "paths": 8, "first": 3, "union": 0} | options)


def test_every_start_contact_begins_a_path_of_its_own() -> None:
    walk = paths(*[at(n) for n in (10, 20, 30, 40)])
    assert asked(walk.start()) == [at(10), at(20), at(30)]
    assert walk.paths == 3


def test_few_paths_share_the_start_contacts_among_them() -> None:
    walk = paths(*[at(n) for n in range(1, 20)], paths=2, wanted=9)
    flying = asked(walk.start())
    assert walk.paths == 2 and len(flying) == 3
    while flying:
        flying += asked(walk.failed(flying.pop()))
    assert walk.finished and walk.questions == 8


def test_a_path_follows_only_contacts_that_were_heard_of_on_it() -> None:
    walk = paths(at(10), at(20), at(30))
    walk.start()
    assert asked(walk.reply(at(10), [at(1)])) == [at(1)]
    # The contact that the other path heard of is known, but this path has nobody left to ask.
    assert walk.reply(at(20), []) == []
    # Asked on one path, it is asked on no other.
    assert walk.reply(at(30), [at(1)]) == []


def test_of_one_reply_only_so_many_contacts_count() -> None:
    walk = paths(at(1000), first=1, paths=1, wanted=99, alpha=1)
    walk.start()
    assert asked(walk.reply(at(1000), [at(n) for n in range(1, 99)])) == [at(1)]
    assert walk.heard(999) == [at(n) for n in range(2, 1 + ACCEPTED)]


def test_every_further_path_walks_to_a_point_of_its_own() -> None:
    points = iter(n.to_bytes(32, "big") for n in (400, 800))
    walk = paths(*[at(n) for n in (1, 2, 3, 401, 402, 801)], aim=lambda: next(points))
    assert walk.start() == [(at(1), TARGET), (at(401), at(400).id), (at(801), at(800).id)]


def test_paths_that_begin_in_trouble_begin_elsewhere() -> None:
    far = at(1 << 255)
    walk = paths(*[at(n) for n in (10, 20, 30, 40)], far, origin=lambda: far.id)
    assert asked(walk.start()) == [at(10), at(20), at(30)]
    assert asked(walk.failed(at(10))) == [far], "whoever filled the table near the target has not filled all of it"


def test_a_question_in_vain_begins_another_path() -> None:
    walk = paths(*[at(n) for n in (10, 20, 30, 40, 50, 60)], expects=25)
    walk.start()
    assert walk.reply(at(30), [at(29)]) == [(at(29), TARGET)], "it lies too far to know"
    assert walk.paths == 3
    assert asked(walk.reply(at(20), [])) == [at(40)], "it should have known"
    assert walk.paths == 4
    assert asked(walk.failed(at(10))) == [at(50)]
    assert asked(walk.late(at(29))) == [at(60)]
    assert walk.paths == 6


def test_who_names_contacts_that_do_not_answer_loses_his_say() -> None:
    walk = paths(at(1000), at(2000), first=1, wanted=9, alpha=1)
    [(liar, _)] = walk.start()
    named = asked(walk.reply(liar, [at(n) for n in range(1, 9)]))
    failures = 0
    while named and named[0].long_id < 9:
        failures += 1
        named = asked(walk.failed(named[0]))
    assert failures <= STRIKES


def test_who_misleads_is_left_for_a_path_with_nothing_against_it() -> None:
    walk = paths(at(1000), at(2000), first=2, alpha=2, wanted=9)
    walk.start()
    walk.reply(at(1000), [at(1), at(2)])
    walk.late(at(1))
    assert asked(walk.reply(at(2000), [at(500), at(600), at(700)])) == [at(500)]
    assert asked(walk.reply(at(500), [])) == [at(600)], "it is further off, and nobody vouches less for it"


def test_who_is_avoided_is_asked_after_the_others_and_not_never() -> None:
    walk = one_path(*[at(n) for n in (10, 20, 30)], alpha=1, avoided=lambda node: node == at(10).id)
    assert asked(walk.start()) == [at(20)]
    assert asked(walk.reply(at(20), [])) == [at(30)]
    assert asked(walk.reply(at(30), [])) == [at(10)]


def questions_of(walk: Lookup, *, told: bool) -> int:
    """How many are asked where everybody names two that are further away."""
    waiting = asked(walk.start())
    while waiting:
        one = waiting.pop()
        waiting += asked(walk.reply(one, [at(2 * one.long_id + 100), at(2 * one.long_id + 101)], told=told))
    assert walk.finished
    return walk.questions


def test_only_while_nobody_tells_anything_is_the_whole_budget_asked() -> None:
    starts = [at(n) for n in range(1, 9)]
    shape = {"alpha": 1, "wanted": 9, "budget": 30, "spare": 10, "expects": 1}
    assert questions_of(paths(*starts, **shape), told=False) == 30
    assert questions_of(paths(*starts, **shape), told=True) == 20


def test_a_lookup_does_not_end_with_the_union_while_nobody_has_told_anything() -> None:
    starts = [at(n) for n in range(1, 9)]
    assert questions_of(paths(*starts, alpha=1, wanted=1, union=12, budget=16, expects=1 << 200), told=False) == 16


def test_a_false_address_keeps_nobody_from_being_asked_at_the_right_one() -> None:
    walk = paths(at(10), at(20), first=2, alpha=2)
    walk.start()
    false, true = at(5, "10.66.6.6"), at(5)
    assert asked(walk.reply(at(10), [false])) == [false]
    walk.failed(false)
    assert true in asked(walk.reply(at(20), [true]))
    walk.reply(true, [])
    assert walk.answered(1) == [true]


def test_a_contact_is_believed_where_it_answered() -> None:
    walk = paths(at(5, "10.66.6.6"))
    walk.start()
    walk.reply(at(5, "10.66.6.6"), [], proven=at(5))
    assert walk.answered(1) == [at(5)] == walk.heard(100)


def test_the_union_asks_the_closest_of_all_paths() -> None:
    walk = paths(*[at(n) for n in (100, 200, 300)], wanted=1, union=2)
    walk.start()
    assert walk.reply(at(100), [at(150)]) == [], "the closest on this path has answered"
    walk.reply(at(300), [at(350)])
    assert asked(walk.reply(at(200), [at(250)])) == [at(150)]
    assert walk.reply(at(150), []) == []
    assert walk.finished and walk.answered(2) == [at(100), at(150)]


# --- whatever happens -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 20), first=st.integers(1, 8), liars=st.floats(0, 1))
def test_nobody_is_asked_twice_and_the_budget_holds(seed: int, count: int, first: int, liars: float) -> None:
    random = Random(seed)
    world = [at(random.getrandbits(256)) for _ in range(80)]
    walk = Lookup(
        TARGET,
        ME,
        Seeds(random.sample(world, 30)),
        alpha=3,
        paths=count,
        first=first,
        aim=lambda: random.randbytes(32),
        expects=1 << random.randrange(256),
        within=1 << random.randrange(256),
        patient=random.random() < 0.5,
    )
    flying = asked(walk.start())
    everyone = list(flying)
    while flying:
        contact = flying.pop(random.randrange(len(flying)))
        event = random.random()
        if event < 0.1:
            more = walk.late(contact)
            flying.append(contact)
            if random.random() < 0.3:
                more += walk.failed(contact)
                flying.remove(contact)
        elif event < 0.2:
            more = walk.failed(contact)
        elif random.random() < liars:
            more = walk.reply(contact, [at(random.getrandbits(256)) for _ in range(20)])
        else:
            more = walk.reply(contact, random.sample(world, 8), told=random.random() < 0.1)
        flying += asked(more)
        everyone += asked(more)
        assert all(c.id != ME for c in flying)
    assert len(everyone) == len(set(everyone)) == walk.questions <= BUDGET
    assert walk.finished


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 20))
def test_in_an_honest_static_network_it_finds_the_exact_closest(seed: int, count: int) -> None:
    """Everyone knows the 8 closest to the target that are closer than itself, and some others."""
    random = Random(seed)
    world = [at(random.getrandbits(256)) for _ in range(60)]
    exact = sorted(world, key=lambda c: c.long_id)

    walk = Lookup(TARGET, ME, Seeds(random.sample(world, 3)), alpha=3, paths=count, first=3, wanted=2, union=6)
    flying = asked(walk.start())
    while flying:
        contact = flying.pop(random.randrange(len(flying)))
        closer = [c for c in exact if c.long_id < contact.long_id][:8]
        flying += asked(walk.reply(contact, closer or exact[:8]))
    assert walk.finished
    assert walk.answered(6) == exact[:6]
