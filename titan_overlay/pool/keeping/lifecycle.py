"""When copies are made and dropped: a pure function from what a holder knows to what it does.

Every holder of an object decides alone, from its own view. Three rules make the sum of these decisions safe:

*Mending.* Counted holders are ranked by H(object, node). With fewer than `min_copies`, the holder at position r of
its own view recruits once it has been short for r x `recruit_delay`. A first rank that is dead, or that lies, so
delays the repair by one step and stalls nothing. Two views that differ at worst make a copy too many.

*Shedding.* A holder steps down only after `max_copies` others *that rank before it* have each answered a challenge
of its own within the last `confirm` seconds. No agreement is needed for that:

    Let y step down at t, and let no holder crash in [t - confirm, t]. Then at least `max_copies` counted holders
    that rank before y are left. Proof, by induction over the step-downs in order of time: if none of those on whom y
    relied has gone, they are left. Else let z be the last holder ranking before y to step down in
    that window; by induction `max_copies` holders ranking before z were left at that moment, and nobody who ranks
    before y went after it.

    (Of an object that is voted on, holders that were asked to hold it rank before those that only say that they do:
    `identity.lineage`. Otherwise liars, who would all say so, could drive out the honest.)

    (Of a public subnet other than one's own only the first such holder is relied on: whoever has a machine room has as
    many keys as he likes, of any rank, and could otherwise drive out the honest and then go. In the proof it does not
    matter whom among those before it y relied on.)

    So a step-down takes the object below `min_copies` only if more than `max_copies - min_copies` holders crash in
    the very seconds of its confirmation, and no protocol can tell that from their crashing a moment later.

*Counting.* A holder counts if it has answered a challenge over the content, does not miss probes, is no passing cache,
is not near the end of its time to live, and may hold the object (grants end). What others say about a holder is only
ever a reason to ask it.
"""

from collections.abc import Sequence
from enum import IntEnum
from math import inf

import msgspec

from titan_overlay.identity.ids import NodeId, ObjectId, rank
from titan_overlay.identity.statements import Kind, Policy

NEIGHBOURS = 2
"""Each holder watches this many that follow it in rank, and is watched by as many before it."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast everything goes. Seconds, where nothing else is said."""

    probe_interval: float = 30.0
    probe_misses: int = 2
    """Probes in a row without an answer after which a co-holder is gone."""
    probe_retry: float = 5.0
    """After a miss, ask again this soon."""
    recruit_delay: float = 10.0
    """The holder at position r waits r times this long before it recruits."""
    confirm: float = 5.0
    """Proofs that a step-down relies on are at most this old."""
    settle: float = 15.0
    """A new replica mends nothing for this long: those recruited together have yet to hear of each other. Nor does it
    step down: it may be here because another is about to leave (a move, a hand-over)."""
    claim_patience: float = 30.0
    """While short, holders that are merely said to exist hold back the repair at most this long."""
    lookup_fresh: float = 60.0
    """A repair looks in the directory first, unless that was done this recently."""
    review: float = 1800.0
    """The first rank looks in the directory this often, so that two halves of a healed partition meet."""
    retry_recruit: float = 15.0
    """After nobody could be recruited; doubles up to 16-fold."""
    arrival: float = 60.0
    """A recruit has this long to show that it holds the object, and more for big content."""
    ends_soon: float = 600.0
    """A replica does not count in the last `ends_soon` seconds of its life, at most a tenth of the policy's `ttl`."""


class Standing(IntEnum):
    """What is known about another holder."""

    CLAIMED = 0
    """Somebody says that it holds the object."""
    ARRIVING = 1
    """It has promised to hold the object and is fetching it."""
    PROVEN = 2
    """It has answered a challenge of ours, or challenged us with a valid proof."""


class Holder(msgspec.Struct, frozen=True):
    """Another holder, as this one sees it. Those that are gone are not in the view."""

    id: NodeId
    standing: Standing
    proven: float = -inf
    """When it last answered a challenge."""
    misses: int = 0
    """Probes in a row that it has not answered."""
    ends_soon: bool = False
    passing: bool = False
    asked: bool = False
    """It shows by whom it was asked to hold the object."""
    subnet: str = ""
    """Of its address, where that is a public one."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What one holder knows about one object. All times are on the caller's monotonic clock."""

    object_id: ObjectId
    kind: Kind
    policy: Policy
    me: NodeId
    holders: Sequence[Holder] = ()
    """The others, in any order; ids are distinct and never `me`."""
    subnet: str = ""
    """Of the address of this node, where that is a public one."""
    since: float = -inf
    """When this replica was made."""
    expires: float = inf
    counts_until: float = inf
    """When the right to hold it ends: from then on others have to do it."""
    passing: bool = False
    asked: bool = False
    """This node can show by whom it was asked to hold it."""
    pinned: bool = False
    """Someone at this node asked to keep it: it never steps down."""
    settled: bool = True
    """False until a replica found on disk has asked its region."""
    below_since: float | None = None
    """Since when fewer than `min_copies` counted. None: there are enough."""
    short_since: float | None = None
    """Since when even those expected would be too few (see `needed`). None: there are enough."""
    recruiting: int = 0
    """Copies that are being asked for at this moment."""
    recruit_after: float = -inf
    """Not before this time, because nobody could be recruited lately."""
    looked_up: float = -inf
    """When the directory was last asked."""
    pace: Pace = Pace()


class Recruit(msgspec.Struct, frozen=True):
    """Ask `count` nodes that are not in `exclude` to hold the object."""

    count: int
    exclude: tuple[NodeId, ...]


class StepDown(msgspec.Struct, frozen=True):
    """Drop this replica: there are enough without it."""


class Expire(msgspec.Struct, frozen=True):
    """Drop this replica: its time to live is over."""


class Probe(msgspec.Struct, frozen=True):
    """Ask these holders soon."""

    targets: tuple[NodeId, ...]


class Lookup(msgspec.Struct, frozen=True):
    """Ask the directory who else holds the object."""


Action = Recruit | StepDown | Expire | Probe | Lookup


def decide(view: View, now: float) -> list[Action]:
    """What this holder should do now. Deciding again without news gives the same again."""
    if now >= view.expires:
        return [Expire()]
    if view.passing or view.policy.bound or view.kind == "mutable":
        return []  # a cache just ends; a bound object is never copied; a group looks after itself
    if not view.settled:
        return [Lookup()]
    claimed = tuple(h.id for h in view.holders if h.standing is Standing.CLAIMED)
    actions: list[Action] = [Probe(claimed)] if claimed else []
    if not counts_itself(view, now):
        return actions
    actions += _shed(view, now) or _mend(view, now)
    return actions


def _shed(view: View, now: float) -> list[Action]:
    if not view.policy.deduplicate or view.pinned or now < view.since + view.pace.settle:
        return []
    enough = view.policy.max_copies

    def place(node: NodeId, asked: bool) -> tuple[bool, bytes]:
        return not asked, rank(view.object_id, node)

    mine = place(view.me, view.asked)
    ranked = sorted(_counted_others(view), key=lambda h: place(h.id, h.asked))
    before = _apart([h for h in ranked if place(h.id, h.asked) < mine], view.subnet)
    if len(before) < enough:
        return []
    if sum(now - h.proven <= view.pace.confirm for h in before) >= enough:
        return [StepDown()]
    # The first ranks are those that stay; the others may be stepping down as well. All are asked in one go: a proof
    # that is fresh now would be stale when the others have answered.
    return [Probe(tuple(h.id for h in before[:enough] if now - h.proven > view.pace.confirm / 5))]


def _apart(holders: Sequence[Holder], own: str) -> list[Holder]:
    """The first of each public subnet, and all of one's own, which may be all that there is."""
    seen: set[str] = set()
    found = []
    for each in holders:
        if each.subnet in ("", own) or each.subnet not in seen:
            found.append(each)
        seen.add(each.subnet)
    return found


def _mend(view: View, now: float) -> list[Action]:
    if not view.policy.reduplicate:
        return []
    at = _turn(view)
    missing = needed(view, now)
    if missing > 0 and now >= at:
        if now - view.looked_up > view.pace.lookup_fresh:
            return [Lookup()]
        return [Recruit(missing, (view.me, *(h.id for h in view.holders)))]
    if missing <= 0 and _would_be_short(view, now) and position(view) == 0:
        # A co-holder has missed one probe: look around while it is asked again.
        return [Lookup()] if now - view.looked_up > view.pace.lookup_fresh else []
    return [Lookup()] if position(view) == 0 and now >= _review(view) else []


def _turn(view: View) -> float:
    """When it is this holder's turn to mend."""
    if view.short_since is None:
        return inf
    turn = view.short_since + position(view) * view.pace.recruit_delay
    return max(turn, view.since + view.pace.settle, view.recruit_after)


def _review(view: View) -> float:
    """When the first rank looks in the directory again: soon after it was made, then rarely."""
    return view.since + view.pace.settle if view.looked_up == -inf else view.looked_up + view.pace.review


def wake(view: View, now: float) -> float:
    """When `decide` may give something new although nothing was heard. Later than `now`, or `inf`.

    Each time here is compared in `decide` in the very form in which it is computed here: with another rounding it
    would be slept through.
    """
    times = [view.expires, view.counts_until]
    if view.policy.ttl > 0:
        times.append(view.expires - _ends_soon_seconds(view))
    if view.settled and not view.passing and not view.policy.bound and view.kind != "mutable":
        times += [_turn(view), view.since + view.pace.settle]
        if view.below_since is not None:
            times.append(view.below_since + view.pace.claim_patience)
        if position(view) == 0:
            times.append(_review(view))
    return min((t for t in times if t > now), default=inf)


def counts_itself(view: View, now: float) -> bool:
    """Whether this replica is one of those that count."""
    return not view.passing and not ends_soon(view, now)


def ends_soon(view: View, now: float) -> bool:
    """Whether this replica no longer counts: near the end of its time to live, or without the right to be held."""
    return now >= view.counts_until or (view.policy.ttl > 0 and now >= view.expires - _ends_soon_seconds(view))


def _ends_soon_seconds(view: View) -> float:
    return min(view.pace.ends_soon, view.policy.ttl / 10)


def is_counted(holder: Holder, pace: Pace) -> bool:
    """Whether another holder is one of those that count."""
    alive = holder.standing is Standing.PROVEN and holder.misses < pace.probe_misses
    return alive and not holder.passing and not holder.ends_soon


def _counted_others(view: View) -> list[Holder]:
    return [h for h in view.holders if is_counted(h, view.pace)]


def counted(view: View, now: float) -> int:
    """How many copies count, this one included."""
    return len(_counted_others(view)) + counts_itself(view, now)


def needed(view: View, now: float) -> int:
    """How many copies are missing, beyond those that are on their way. Zero or less: none."""
    patient = view.below_since is None or now < view.below_since + view.pace.claim_patience
    expected = view.recruiting
    for h in view.holders:
        if h.standing is Standing.ARRIVING or (h.standing is Standing.CLAIMED and not h.misses and patient):
            expected += 1
    return view.policy.min_copies - counted(view, now) - expected


def _would_be_short(view: View, now: float) -> bool:
    doubtful = sum(h.misses > 0 for h in _counted_others(view))
    return doubtful > 0 and needed(view, now) + doubtful > 0


def must_hand_over(view: View, now: float) -> bool:
    """Whether copies would be missing if this node left now."""
    if view.policy.bound or not view.policy.reduplicate or view.kind == "mutable" or not counts_itself(view, now):
        return False
    return len(_counted_others(view)) < view.policy.min_copies


def position(view: View) -> int:
    """Of this holder among those that count, 0 first."""
    mine = rank(view.object_id, view.me)
    return sum(rank(view.object_id, h.id) < mine for h in _counted_others(view))


def neighbours(object_id: ObjectId, me: NodeId, others: Sequence[NodeId]) -> list[NodeId]:
    """Those that watch this holder, and that it watches: the two before and the two after it on the ring of ranks."""
    if len(others) <= 2 * NEIGHBOURS:
        return list(others)
    ring = sorted((*others, me), key=lambda node: rank(object_id, node))
    here = ring.index(me)
    offsets = (*range(-NEIGHBOURS, 0), *range(1, NEIGHBOURS + 1))
    return [ring[(here + offset) % len(ring)] for offset in offsets]
