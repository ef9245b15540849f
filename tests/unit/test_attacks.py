"""Attacks as plug-ins, and what a gang of liars knows together."""

import asyncio
import itertools
from pathlib import Path

import pytest

from titan_overlay.ambient import Random
from titan_overlay.errors import ConfigError
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId, PoolId, distance
from titan_overlay.identity.keys import SigningKey
from titan_simulations import attacks
from titan_simulations.attacks.eclipse import AROUND, Eclipse
from titan_simulations.attacks.gang import Gang
from titan_simulations.attacks.mixed import Mixed
from titan_simulations.attacks.sybil import Sybil
from titan_simulations.branches import branched
from titan_simulations.statistics import majority_binomial, majority_of_liars


def gang(honest: int = 50, targets: int = 1) -> Gang:
    draw = Random("gang")
    ids = [NodeId(draw.randbytes(32)) for _ in range(honest)]
    return Gang(draw, PoolId(bytes(32)), ids, [ObjectId(draw.randbytes(32)) for _ in range(targets)])


class Member:
    """As much of a liar as a gang looks at."""

    def __init__(self, number: int) -> None:
        key = SigningKey(number.to_bytes(32, "big"))
        self.contact = Contact(key.id, f"20.0.{number}.1", 4747)
        self.node = type("Node", (), {"key": key})()


# --- the registry -----------------------------------------------------------------------------------------------


def test_the_attacks_of_the_project_are_found_by_name() -> None:
    for name in ("drop", "misroute", "forge", "eclipse", "sybil", "equivocate", "flood", "all"):
        assert attacks.find(name).name == name
        assert name in attacks.names()


def test_an_unknown_attack_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no attack 'melt'; there are drop, misroute, .* all, and classes of yours"):
        attacks.find("melt")


def test_a_class_of_ones_own_is_an_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quiet_attack.py").write_text(
        "from titan_simulations.attacks import Attack\nclass Quiet(Attack):\n    name = 'quiet'\nNot = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert attacks.find("quiet_attack:Quiet").name == "quiet"
    for wrong, says in (("quiet_attack:Not", "no class"), ("quiet_attack:Loud", "Loud"), ("nowhere:X", "nowhere")):
        with pytest.raises(ConfigError, match=says):
            attacks.find(wrong)


def test_a_package_brings_attacks_through_its_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    class Entry:
        name = "sybil-too"

        def load(self) -> type:
            return Sybil

    monkeypatch.setattr(attacks, "entry_points", lambda **wanted: [Entry()])
    assert attacks.find("sybil-too") is Sybil
    assert "sybil-too" in attacks.names()


def test_each_liar_of_a_mixture_draws_a_part() -> None:
    draw = Random(3)
    drawn = {Mixed.draw(draw).name for _ in range(200)}
    assert drawn == {each.name for each in Mixed.parts}
    assert Sybil.draw(draw) is Sybil


# --- where liars sit --------------------------------------------------------------------------------------------


def test_sybils_sit_side_by_side() -> None:
    ips = [Sybil.place(gang(), turn).ip or "" for turn in range(600)]
    assert len(set(ips)) == 600
    subnets = {ip.rpartition(".")[0] for ip in ips}
    assert len(subnets) == 3 and all(1 <= int(ip.rpartition(".")[2]) <= 254 for ip in ips)


def test_ground_ids_are_closer_to_the_object_than_any_honest_node() -> None:
    liars = gang(honest=60, targets=3)
    places = [Eclipse.place(liars, turn) for turn in range(AROUND + 5)]
    first, second = liars.targets[:2]
    assert liars.aimed == [first, second]
    for turn, place in enumerate(places):
        target = first if turn < AROUND else second
        assert place.key is not None
        assert distance(place.key.id, target) < min(distance(node, target) for node in liars.honest)
    assert liars.counts["keys_ground"] == AROUND + 5
    assert liars.counts["keys_tried"] > 20 * liars.counts["keys_ground"]  # about one in 61 is that close


# --- what they know together ------------------------------------------------------------------------------------


@pytest.mark.loops("virtual")
async def test_colluders_name_fresh_ones_to_one_asker_nearest_first() -> None:
    liars = gang()
    for number in range(20):
        liars.joined(Member(number))  # type: ignore[arg-type]
    target = bytes(31) + b"\1"
    asker = Contact(NodeId(b"a" * 32), "20.9.9.9", 1)
    named = [liars.decoys(asker, target, 8) for _ in range(3)]
    assert [len(each) for each in named] == [8, 8, 4]
    everyone = list(itertools.chain(*named))
    assert everyone == sorted(everyone, key=lambda each: distance(each.id, target))
    assert liars.decoys(Contact(NodeId(b"b" * 32), "20.9.9.8", 1), target, 8) == named[0]
    assert liars.decoys(asker, target, 8) == named[0]  # all were named: from the beginning
    member = named[0][0]
    assert member not in liars.decoys(member, target, 20)
    await asyncio.sleep(11.0)
    assert liars.decoys(asker, target, 8) == named[0]  # a look-up of its own


@pytest.mark.loops("virtual")
async def test_who_has_left_is_not_named() -> None:
    liars = gang()
    members = [Member(number) for number in range(3)]
    for each in members:
        liars.joined(each)  # type: ignore[arg-type]
    liars.left(members[1])  # type: ignore[arg-type]
    named = liars.decoys(Contact(NodeId(b"a" * 32), "20.9.9.9", 1), bytes(32), 8)
    assert {each.id for each in named} == {members[0].contact.id, members[2].contact.id}


def test_the_wires_swallow_one_packet_for_each_answer_that_is_kept_back() -> None:
    liars = gang()
    assert not liars.swallows("1.1.1.1", "2.2.2.2")
    liars.hush("1.1.1.1", "2.2.2.2")
    assert not liars.swallows("2.2.2.2", "1.1.1.1")
    assert liars.swallows("1.1.1.1", "2.2.2.2")
    assert not liars.swallows("1.1.1.1", "2.2.2.2")


# --- branches -----------------------------------------------------------------------------------------------------


@pytest.mark.loops("virtual")
async def test_a_branch_goes_on_from_here_and_changes_nothing_here() -> None:
    seen = [1]

    async def work() -> list[int]:
        await asyncio.sleep(1.0)
        seen.append(2)
        return seen

    assert await branched(work, list[int]) == [1, 2]
    assert await branched(work, list[int]) == [1, 2]
    assert seen == [1]


async def test_a_branch_that_fails_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    async def work() -> list[int]:
        raise ValueError("too much")

    with pytest.raises(RuntimeError, match="branch"):
        await branched(work, list[int])
    assert "ValueError: too much" in capfd.readouterr().err


# --- majorities ---------------------------------------------------------------------------------------------------


def test_majorities_of_liars_are_counted_as_by_hand() -> None:
    assert majority_binomial(5, 0.2) == pytest.approx(0.05792)
    assert majority_binomial(7, 0.5) == pytest.approx(0.5)
    for hosts, liars, votes in ((9, 3, 5), (9, 5, 5), (8, 4, 7), (4, 3, 5)):
        asked = min(votes, hosts)
        draws = list(itertools.combinations(range(hosts), asked))
        most = sum(sum(each < liars for each in draw) > votes // 2 for draw in draws) / len(draws)
        assert majority_of_liars(hosts, liars, votes) == pytest.approx(most)
    assert majority_of_liars(7, 2, 5) == 0.0
