"""When copies are made and dropped: the rules one by one, and what follows from them together."""

import random
from hashlib import sha256
from math import inf

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from tests.unit.village import POOL, describe
from titan_overlay.identity import names
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId, rank
from titan_overlay.identity.statements import Policy
from titan_overlay.pool.keeping.lifecycle import (
    Expire,
    Holder,
    Lookup,
    Pace,
    Probe,
    Recruit,
    Standing,
    StepDown,
    View,
    decide,
    neighbours,
    wake,
)
from titan_overlay.pool.keeping.probes import AskSoon, Conversation
from titan_overlay.pool.keeping.roster import Replica, Roster

THING = ObjectId(sha256(b"thing").digest())
PACE = Pace()
NOW = 10_000.0


def node(number: int) -> NodeId:
    return NodeId(sha256(b"node %d" % number).digest())


RANKED = sorted((node(number) for number in range(16)), key=lambda each: rank(THING, each))
"""Node ids, first rank first."""


def seen(*positions: int, at: float = NOW) -> tuple[Holder, ...]:
    return tuple(Holder(RANKED[each], Standing.PROVEN, at) for each in positions)


def view(me: int, holders: tuple[Holder, ...] = (), policy: Policy | None = None, **more: object) -> View:
    base = View(
        object_id=THING,
        kind="service",
        policy=policy or Policy(min_copies=3, max_copies=5),
        me=RANKED[me],
        holders=holders,
        looked_up=NOW,
    )
    return replace(base, **more)


def short(me: int, holders: tuple[Holder, ...], seconds: float, **more: object) -> View:
    return view(me, holders, below_since=NOW - seconds, short_since=NOW - seconds, **more)


# ---- mending -------------------------------------------------------------------------------------------------


def test_enough_copies_leave_nothing_to_do() -> None:
    assert decide(view(0, seen(1, 2)), NOW) == []


def test_the_first_rank_recruits_at_once_what_is_missing() -> None:
    (action,) = decide(short(0, seen(4), 0), NOW)
    assert action == Recruit(1, (RANKED[0], RANKED[4]))


def test_a_later_rank_waits_its_turn() -> None:
    waiting = short(4, seen(0), 9.9)
    assert decide(waiting, NOW) == []
    assert wake(waiting, NOW) == pytest.approx(NOW + 0.1)
    assert decide(short(4, seen(0), 10), NOW) == [Recruit(1, (RANKED[4], RANKED[0]))]


def test_a_repair_looks_in_the_directory_first() -> None:
    assert decide(short(0, seen(4), 0, looked_up=-inf), NOW) == [Lookup()]


def test_a_first_missed_probe_makes_the_first_rank_look_around() -> None:
    doubtful = (*seen(1), Holder(RANKED[2], Standing.PROVEN, NOW - 40, misses=1))
    assert decide(view(0, doubtful, looked_up=NOW - 100), NOW) == [Lookup()]
    assert decide(replace(view(0, doubtful, looked_up=NOW - 100), me=RANKED[9]), NOW) == []


def test_a_new_replica_first_lets_its_siblings_speak() -> None:
    fresh = short(0, (), 10, since=NOW - 10)
    assert decide(fresh, NOW) == []
    assert decide(fresh, NOW + 5) == [Recruit(2, (RANKED[0],))]


def test_those_on_their_way_are_not_recruited_again() -> None:
    arriving = Holder(RANKED[5], Standing.ARRIVING)
    assert decide(view(0, (*seen(1), arriving), below_since=NOW), NOW) == []
    assert decide(short(0, seen(1), 50, recruiting=1), NOW) == []


def test_mere_claims_hold_a_repair_back_only_for_a_while() -> None:
    claims = tuple(Holder(RANKED[each], Standing.CLAIMED) for each in (5, 6))
    asks = Probe((RANKED[5], RANKED[6]))
    assert decide(short(0, claims, 29), NOW) == [asks]
    assert decide(short(0, claims, 30), NOW) == [asks, Recruit(2, (RANKED[0], RANKED[5], RANKED[6]))]


@pytest.mark.parametrize(
    "holder",
    [
        Holder(RANKED[2], Standing.PROVEN, NOW, misses=2),
        Holder(RANKED[2], Standing.PROVEN, NOW, ends_soon=True),
        Holder(RANKED[2], Standing.PROVEN, NOW, passing=True),
    ],
    ids=["silent", "near the end of its ttl", "passing cache"],
)
def test_a_holder_that_does_not_count_is_replaced(holder: Holder) -> None:
    assert decide(short(0, (*seen(1), holder), 0), NOW) == [Recruit(1, (RANKED[0], RANKED[1], RANKED[2]))]


@pytest.mark.parametrize(
    "more",
    [
        {"policy": Policy(min_copies=3, reduplicate=False)},
        {"policy": Policy(min_copies=3, bound=True)},
        {"passing": True},
        {"kind": "mutable"},
        {"policy": Policy(min_copies=3, ttl=1000.0), "expires": NOW + 100},
        {"counts_until": NOW},
        {"recruit_after": NOW + 1},
    ],
    ids=[
        "reduplicate off",
        "bound",
        "a passing cache",
        "mutable",
        "near its own end",
        "its grant has ended",
        "nobody accepted just now",
    ],
)
def test_who_does_not_recruit(more: dict[str, object]) -> None:
    assert decide(short(0, (), 1000, **more), NOW) == []


def test_a_replica_found_on_disk_asks_its_region_first() -> None:
    assert decide(short(0, (), 1000, settled=False), NOW) == [Lookup()]


def test_the_first_rank_looks_for_strangers_now_and_then() -> None:
    assert decide(view(0, seen(1, 2), looked_up=NOW - PACE.review - 1), NOW) == [Lookup()]
    assert decide(view(1, seen(0, 2), looked_up=NOW - PACE.review - 1), NOW) == []


# ---- shedding ------------------------------------------------------------------------------------------------


def test_surplus_asks_those_before_it_and_then_steps_down() -> None:
    stale = view(7, seen(0, 1, 2, 3, 4, at=NOW - 20))
    assert decide(stale, NOW) == [Probe(tuple(RANKED[:5]))]
    assert decide(view(7, seen(0, 1, 2, 3, 4)), NOW) == [StepDown()]


def test_the_first_ranks_stay_however_many_there_are() -> None:
    everyone = set(range(12))
    for me in range(5):
        assert StepDown() not in decide(view(me, seen(*sorted(everyone - {me}))), NOW)


@pytest.mark.parametrize("more", [{"pinned": True}, {"policy": Policy(max_copies=5, deduplicate=False)}])
def test_who_stays_although_it_is_surplus(more: dict[str, object]) -> None:
    assert decide(view(7, seen(0, 1, 2, 3, 4), **more), NOW) == []


def test_a_foreign_subnet_counts_once_however_many_keys_it_has_and_the_own_one_in_full() -> None:
    crowd = tuple(replace(each, subnet="51.7.7.0/24") for each in seen(0, 1, 2, 3, 4))
    assert decide(view(7, crowd), NOW) == []
    assert decide(view(7, crowd, subnet="80.1.1.0/24"), NOW) == []
    assert decide(view(7, crowd, subnet="51.7.7.0/24"), NOW) == [StepDown()]
    apart = tuple(replace(each, subnet=f"80.{number}.1.0/24") for number, each in enumerate(seen(5, 6, 8, 9)))
    assert decide(view(12, (*crowd, *apart), subnet="90.1.1.0/24"), NOW) == [StepDown()]
    stale = tuple(replace(each, proven=NOW - 20) for each in (*crowd, *apart))
    assert decide(view(12, stale), NOW) == [Probe(tuple(RANKED[each] for each in (0, 5, 6, 8, 9)))]


def test_of_two_singletons_the_second_rank_goes() -> None:
    single = Policy(min_copies=1, max_copies=1)
    assert decide(view(0, seen(1), single), NOW) == []
    assert decide(view(1, seen(0), single), NOW) == [StepDown()]


def test_the_end_of_the_time_to_live() -> None:
    assert decide(view(0, seen(1, 2), expires=NOW), NOW) == [Expire()]
    assert wake(view(0, seen(1, 2), expires=NOW + 5), NOW) == NOW + 5


# ---- the ring ------------------------------------------------------------------------------------------------


@given(st.integers(2, 16))
def test_watching_is_mutual(holders: int) -> None:
    ring = RANKED[:holders]
    watch = {me: neighbours(THING, me, [each for each in ring if each != me]) for me in ring}
    for me in ring:
        assert len(watch[me]) == min(4, holders - 1)
        assert all(me in watch[other] for other in watch[me])


# ---- safety: no step-down takes the object below its minimum, whatever everyone believes ---------------------


class StaleViews(RuleBasedStateMachine):
    """Holders learn, forget, crash, join and decide in any order; nobody sees more than some proofs, of some age."""

    @initialize(
        least=st.integers(1, 3),
        more=st.integers(0, 2),
        holders=st.sets(st.integers(0, 9), min_size=1),
        subnets=st.lists(st.sampled_from(["", "a", "b"]), min_size=10, max_size=10),
    )
    def begin(self, least: int, more: int, holders: set[int], subnets: list[str]) -> None:
        self.subnets = subnets
        self.policy = Policy(min_copies=least, max_copies=least + more)
        self.now = NOW
        self.holders = set(holders)
        self.crashes: list[float] = []
        self.proofs: dict[tuple[int, int], float] = {}
        self.left: tuple[int, int] | None = None

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(who=st.integers(0, 9), whom=st.sets(st.integers(0, 9), min_size=1))
    def sees_proofs(self, who: int, whom: set[int]) -> None:
        for each in whom & self.holders - {who}:
            self.proofs[who, each] = self.now

    @rule(who=st.integers(0, 9))
    def joins(self, who: int) -> None:
        self.holders.add(who)

    @precondition(lambda self: len(self.holders) > 1)
    @rule(pick=st.integers(0, 9))
    def crashes_now(self, pick: int) -> None:
        self.holders.discard(sorted(self.holders)[pick % len(self.holders)])
        self.crashes.append(self.now)

    @rule(order=st.permutations(range(10)))
    def all_decide(self, order: list[int]) -> None:
        for who in order:
            if who not in self.holders:
                continue
            known = tuple(
                Holder(RANKED[whom], Standing.PROVEN, at, subnet=self.subnets[whom])
                for (seer, whom), at in self.proofs.items()
                if seer == who
            )
            if StepDown() in decide(view(who, known, self.policy, subnet=self.subnets[who]), self.now):
                self.holders.discard(who)
                self.left = (who, sum(at >= self.now - PACE.confirm for at in self.crashes))
                self.check()

    def check(self) -> None:
        assert self.left is not None
        who, crashed = self.left
        before = sum(each < who for each in self.holders)
        assert before >= self.policy.max_copies - crashed
        assert crashed or len(self.holders) >= self.policy.min_copies

    @invariant()
    def something_is_left(self) -> None:
        if getattr(self, "left", None) is not None and not self.crashes:
            assert len(self.holders) >= self.policy.min_copies


TestStaleViews = StaleViews.TestCase
TestStaleViews.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# ---- convergence: from any holders and any kills to between min and max, without a coordinator -------------------


def contact(of: NodeId) -> Contact:
    return Contact(of, "10.0.0.1", 4747)


class Model:
    """Holders with their real rosters and conversations; probes get lost, the directory is stale."""

    STEP = 5.0

    def __init__(self, seed: int, policy: Policy, holders: int, loss: float) -> None:
        self.chance = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.descriptor = describe("thing", policy, 0.0)
        self.thing = names.object_id(POOL, "thing")
        self.policy = policy
        self.nodes: dict[NodeId, tuple[Conversation, Replica]] = {}
        self.directory: list[NodeId] = []
        self.free = [node(number) for number in range(100, 160)]
        self.asked: dict[tuple[NodeId, NodeId], float] = {}
        self.crashes: list[float] = []
        for _ in range(holders):
            self.join([each for each in self.nodes if self.chance.random() < 0.5])

    def join(self, known: list[NodeId]) -> NodeId:
        me = self.free.pop(self.chance.randrange(len(self.free)))
        roster = Roster(me, PACE)
        replica = Replica(self.thing, self.descriptor, me, PACE, self.now)
        roster.add(replica)
        self.nodes[me] = (Conversation(roster), replica)
        for each in known:
            roster.claim(replica, contact(each))
        return me

    def kill(self, count: int) -> None:
        for _ in range(min(count, len(self.nodes) - 1)):
            del self.nodes[self.chance.choice(sorted(self.nodes))]
            self.crashes.append(self.now)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += self.STEP
            if self.now % 20 < self.STEP:
                self.directory = sorted(self.nodes)
            for me in self.chance.sample(sorted(self.nodes), len(self.nodes)):
                if me in self.nodes:
                    self.turn(me)

    def turn(self, me: NodeId) -> None:
        talk, replica = self.nodes[me]
        for other, partner in list(replica.partners.items()):
            patience = PACE.probe_retry if partner.peer.misses else PACE.probe_interval
            if self.now - self.asked.get((me, other), -inf) >= patience:
                self.probe(me, other)
        effects, talk.effects = talk.effects, []
        for effect in effects:
            if isinstance(effect, AskSoon):
                self.probe(me, effect.node)
        for action in decide(replica.refresh(self.now), self.now):
            match action:
                case StepDown():
                    del self.nodes[me]
                    # Who has just proven itself and crashed since then is counted; nobody can know better.
                    unnoticed = sum(at >= self.now - PACE.confirm - self.STEP for at in self.crashes)
                    assert len(self.nodes) + unnoticed >= self.policy.min_copies, "it stepped down below min_copies"
                    return
                case Probe(targets):
                    for each in targets:
                        self.probe(me, each)
                case Lookup():
                    replica.looked_up = self.now
                    for each in self.directory:
                        talk.roster.claim(replica, contact(each))
                case Recruit(count, _):
                    for _ in range(count):
                        new = self.join([me, *replica.partners])
                        talk.roster.expect(replica, contact(new), self.now + PACE.arrival)

    def probe(self, me: NodeId, other: NodeId) -> None:
        talk, replica = self.nodes[me]
        self.asked[me, other] = self.now
        partner = replica.partners.get(other)
        if partner is None:
            return
        asked = talk.ask(partner.peer, [replica], self.chance.randbytes(8), 0, self.now)
        if other in self.nodes and self.chance.random() >= self.loss:
            partner.peer.misses = 0
            body = self.nodes[other][0].answer(contact(me), asked.body, 0, self.now)
            talk.absorb(contact(other), asked, body, self.now)
            return
        partner.peer.misses += 1
        if partner.peer.misses >= PACE.probe_misses:
            talk.roster.lose(replica, other, self.now)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32),
    least=st.integers(1, 5),
    more=st.integers(0, 4),
    holders=st.integers(1, 20),
    kills=st.lists(st.tuples(st.integers(0, 12), st.integers(5, 200)), max_size=4),
    loss=st.sampled_from([0.0, 0.05, 0.2]),
)
def test_any_holders_and_any_kills_converge_to_between_min_and_max(
    seed: int, least: int, more: int, holders: int, kills: list[tuple[int, int]], loss: float
) -> None:
    model = Model(seed, Policy(min_copies=least, max_copies=least + more), holders, loss)
    for count, seconds in kills:
        model.kill(count)
        model.run(seconds)
    if not model.nodes:  # the last one counted a holder that crashed just then: the object is lost
        return
    # Long enough for those who know nobody to look in the directory, and without further loss.
    model.loss = 0.0
    model.run(PACE.review + 400)
    assert least <= len(model.nodes) <= least + more
    before = set(model.nodes)
    model.run(300)
    assert set(model.nodes) == before, "it has settled"
