"""How a group is: what its members say of it, side by side, and what that means. Each member speaks for itself."""

from collections.abc import Sequence

import msgspec

from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.talk import GIVEN_UP, MemberStatus


class MemberHealth(msgspec.Struct, frozen=True):
    """One member; heights are 0 where it does not answer."""

    node: str
    """Id, hexadecimal."""
    role: str
    """`leader`, `follower`, `candidate`; `silent`: it does not answer; `out`: it takes no part any more; `given up`: it
    has stopped because the owner recovers the object."""
    epoch: int = 0
    term: int = 0
    first: int = 0
    """Lowest height in its log."""
    last: int = 0
    executed: int = 0
    snapshot: int = 0
    """Height of its last snapshot."""
    lag: int = 0
    """Heights that others have committed and it has not executed."""
    trouble: str = ""
    """Why it takes no part, or does not answer."""


class GroupHealth(msgspec.Struct, frozen=True):
    """A group as those who answer see it."""

    health: str
    """`well`; `degraded`: it works, and survives fewer failures than it should; `unavailable`: no quorum answers;
    `settling`: there is a quorum, and nobody leads just now; `diverged`: members have come to different states, which
    no handler that does the same everywhere brings about."""
    says: str
    """The same in a sentence."""
    epoch: int
    term: int
    """Or view: the highest that any member names."""
    leader: str
    """Id, hexadecimal; empty: nobody leads."""
    quorum: int
    """Members that must agree."""
    present: int
    """Members that take part."""
    committed: int
    """Height up to which the order is agreed."""
    members: tuple[MemberHealth, ...]
    learners: tuple[str, ...]


def judge(
    configuration: Configuration, quorum: int, statuses: Sequence[MemberStatus], silent: dict[str, str]
) -> GroupHealth:
    """What the members say, put together.

    Args:
        quorum: of this configuration.
        statuses: of the members that answered.
        silent: why each of the others did not.
    """
    known = {each.member: each for each in statuses}
    here = [each for each in statuses if each.epoch == configuration.epoch and not each.trouble]
    committed = max((each.committed for each in here), default=0)
    term = max((each.term for each in here), default=0)
    leaders = [each.member for each in here if each.role == "leader" and each.term == term]
    leader = leaders[0] if leaders else ""
    count = len(configuration.members)
    health, says = _diverged(here) or _verdict(len(here), count, quorum, bool(leader))
    return GroupHealth(
        health=health,
        says=says,
        epoch=configuration.epoch,
        term=term,
        leader=leader,
        quorum=quorum,
        present=len(here),
        committed=committed,
        members=tuple(_member(each.hex(), known.get(each.hex()), committed, silent) for each in configuration.members),
        learners=tuple(sorted({learner for each in here for learner in each.learners})),
    )


def _diverged(here: Sequence[MemberStatus]) -> tuple[str, str] | None:
    """Members whose last snapshots are of the same height, and are not the same."""
    for height in sorted({each.snapshot for each in here}):
        roots: dict[str, list[str]] = {}
        for each in here:
            if each.snapshot == height and each.root:
                roots.setdefault(each.root, []).append(each.member[:12])
        if len(roots) > 1:
            camps = " against ".join(" and ".join(camp) for camp in sorted(roots.values(), key=len))
            return "diverged", f"members had different states at height {height}: {camps}; its handlers do not agree"
    return None


def _verdict(present: int, count: int, quorum: int, led: bool) -> tuple[str, str]:
    if present < quorum:
        return "unavailable", f"{present} of {count} members take part, {quorum} must: nothing is ordered or read"
    if not led:
        return "settling", f"{present} of {count} members take part; nobody leads just now"
    spare = present - quorum
    if present < count:
        return "degraded", f"{present} of {count} members take part: it survives {spare} more that fail"
    return "well", f"all {count} members take part: it survives {spare} that fail"


def _member(node: str, status: MemberStatus | None, committed: int, silent: dict[str, str]) -> MemberHealth:
    if status is None:
        return MemberHealth(node, "silent", trouble=silent.get(node, "it does not answer"))
    return MemberHealth(
        node=node,
        role="out" if status.trouble and status.role != GIVEN_UP else status.role,
        epoch=status.epoch,
        term=status.term,
        first=status.first,
        last=status.last,
        executed=status.executed,
        snapshot=status.snapshot,
        lag=max(0, committed - status.executed),
        trouble=status.trouble,
    )
