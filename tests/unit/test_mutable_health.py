"""How a group is, out of what its members say."""

import io

from rich.console import Console, Group

from titan_overlay.cli.groups import shown
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.health import GroupHealth, judge
from titan_overlay.mutable.talk import MemberStatus

MEMBERS = tuple(bytes([number]) * 32 for number in (1, 2, 3))
CONFIGURATION = Configuration(4, MEMBERS)


def status(number: int, **changes: object) -> MemberStatus:
    known: dict[str, object] = {
        "member": MEMBERS[number].hex(),
        "role": "follower",
        "leader": MEMBERS[0].hex(),
        "epoch": 4,
        "term": 2,
        "members": tuple(each.hex() for each in MEMBERS),
        "learners": (),
        "first": 10,
        "last": 90,
        "committed": 90,
        "executed": 90,
        "snapshot": 9,
    }
    return MemberStatus(**(known | changes))  # type: ignore[arg-type]


def judged(*statuses: MemberStatus) -> GroupHealth:
    answered = {each.member for each in statuses}
    silent = {each.hex(): "no link" for each in MEMBERS if each.hex() not in answered}
    return judge(CONFIGURATION, 2, statuses, silent)


LEADER = status(0, role="leader")


def test_all_members_there() -> None:
    health = judged(LEADER, status(1), status(2, executed=70))
    assert (health.health, health.present, health.leader) == ("well", 3, MEMBERS[0].hex())
    assert [each.lag for each in health.members] == [0, 0, 20]
    assert "survives 1" in health.says


def test_a_silent_member_one_that_is_out_and_one_of_another_epoch_do_not_count() -> None:
    for second in ((), (status(1, trouble="its log cannot be written"),), (status(1, epoch=3),)):
        health = judged(LEADER, status(2), *second)
        assert (health.health, health.present) == ("degraded", 2)
        assert "survives 0 more" in health.says


def test_without_a_quorum_nothing_is_ordered() -> None:
    health = judged(LEADER)
    assert health.health == "unavailable"
    assert [each.role for each in health.members] == ["leader", "silent", "silent"]
    assert [each.trouble for each in health.members] == ["", "no link", "no link"]


def test_of_two_leaders_the_one_of_the_higher_term_counts_and_there_may_be_none() -> None:
    deposed = status(0, role="leader", term=1)
    assert judged(deposed, status(1, role="leader"), status(2)).leader == MEMBERS[1].hex()
    assert judged(deposed, status(1), status(2)).health == "settling"


def test_members_that_have_come_to_different_states_are_said_to_have() -> None:
    diverged = judged(status(0, role="leader", root="aa"), status(1, root="bb"), status(2, root="aa"))
    assert diverged.health == "diverged"
    assert f"at height 9: {MEMBERS[1].hex()[:12]} against {MEMBERS[0].hex()[:12]} and" in diverged.says
    of_other_heights = judged(LEADER, status(1, root="bb"), status(2, root="aa", snapshot=8))
    assert of_other_heights.health == judged(LEADER, status(1), status(2, root="aa")).health == "well"


def test_people_see_a_line_for_each_member() -> None:
    out = io.StringIO()
    health = judged(LEADER, status(1, learners=("ff" * 32,)))
    Console(file=out, width=200).print(Group(*shown(health)))
    lines = out.getvalue().splitlines()
    assert any("degraded: 2 of 3 members take part" in line for line in lines)
    assert any(MEMBERS[2].hex() in line and "silent" in line and "no link" in line for line in lines)
    assert any("10-90" in line for line in lines)
    assert any("ff" * 32 in line for line in lines)
