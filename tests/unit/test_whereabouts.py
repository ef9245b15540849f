"""At which address a node believes to be, when peers say that they see it elsewhere."""

import pytest

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId
from titan_overlay.overlay.whereabouts import WITNESSES, WITNESSES_PER_SUBNET, Sightings

OLD, NEW, OWN = "5.1.0.1", "5.2.0.1", "192.168.0.2"


def peer(number: int, house: int) -> Contact:
    return Contact(NodeId(number.to_bytes(32, "big")), f"5.9.{house}.{number % 250}", 4747)


def heard(*words: tuple[int, str]) -> Sightings:
    """Peers of these houses, each another, have said so, one after the other."""
    sightings = Sightings()
    for number, (house, ip) in enumerate(words):
        sightings.heard(peer(number, house), ip)
    return sightings


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ([(1, OLD), (2, NEW)], OLD),
        ([(1, NEW), (2, OLD)], OLD),
        ([(1, OLD), (2, OLD), (3, NEW)], OLD),
        ([(1, OLD), (2, NEW), (3, NEW)], NEW),
        ([(1, OLD), (2, OLD), (3, NEW), (4, NEW)], OLD),
        ([(1, OLD), (2, NEW), (2, NEW), (2, NEW)], OLD),
        ([(1, OLD), (1, OLD), (1, NEW)], OLD),
        ([(1, "5.6.6.6"), (2, NEW)], OLD),
        ([], OLD),
    ],
    ids=[
        "one against one", "order is nothing", "one liar", "two subnets", "a draw", "many keys of one subnet",
        "neighbours of a liar", "all disagree", "nobody",
    ],
)  # fmt: skip
def test_an_address_changes_when_more_subnets_say_so(words: list[tuple[int, str]], verdict: str) -> None:
    assert heard(*words).verdict(OLD, OWN, []) == verdict


def test_one_peer_is_believed_where_nobody_else_could_say_anything() -> None:
    sightings = heard((1, NEW))
    assert sightings.verdict(OLD, OWN, []) == NEW
    assert sightings.verdict(OLD, OWN, ["5.9.1.0/24"]) == NEW
    assert sightings.verdict(OLD, OWN, ["5.9.1.0/24", "5.9.2.0/24"]) == OLD


def test_the_machines_own_view_is_a_voice() -> None:
    assert heard((1, OWN), (2, OLD)).verdict(OLD, OWN, []) == OWN
    assert heard((1, NEW), (2, OWN)).verdict(OWN, OWN, []) == OWN


def test_peers_on_the_same_machine_count_where_there_are_no_others() -> None:
    lan, here = "192.168.0.2", "127.0.0.1"
    sightings = Sightings()
    for number in range(1, 4):
        sightings.heard(Contact(NodeId(number.to_bytes(32, "big")), here, 4000 + number), here)
    assert sightings.verdict(lan, lan, []) == here, "that is how they can dial it"
    sightings.heard(Contact(NodeId(bytes(32)), "192.168.0.9", 4747), lan)
    assert sightings.verdict(here, lan, []) == lan


def test_the_last_word_of_a_peer_counts_and_what_is_news() -> None:
    sightings = Sightings()
    assert sightings.heard(peer(1, 1), OLD) and not sightings.heard(peer(1, 1), OLD)
    sightings.heard(peer(2, 2), OLD)
    assert sightings.heard(peer(1, 1), NEW) and sightings.verdict(OLD, OWN, []) == OLD
    assert [each.id[-1] for each in sightings.otherwise(NEW, [peer(3, 3), peer(1, 1)])] == [2, 3]
    assert sightings.heard(peer(2, 2), NEW) and sightings.verdict(OLD, OWN, []) == NEW


def test_who_does_not_answer_any_more_says_nothing() -> None:
    sightings = heard((1, OLD), (2, NEW))
    assert not sightings.forget(peer(0, 9)), "another has named it where it is not"
    assert sightings.forget(peer(0, 1)) and not sightings.forget(peer(0, 1))
    assert sightings.verdict(OLD, OWN, []) == NEW


def test_few_words_are_kept_and_few_of_one_subnet() -> None:
    sightings = heard(*((1, NEW) for _ in range(50)), (2, OLD))
    assert len(sightings.otherwise("", [])) == WITNESSES_PER_SUBNET + 1
    assert len(heard(*((house, NEW) for house in range(50))).otherwise("", [])) == WITNESSES
