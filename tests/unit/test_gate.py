"""Who may come in when many want to: whoever connects in crowds pushes out its own crowd."""

from titan_overlay.links.gate import Gate
from titan_overlay.links.shared import Counters, Limits


class Caller:
    """An inbound link that does nothing by itself."""

    def __init__(self, gate: Gate, subnet: str, used: float = 0.0) -> None:
        self.subnet, self.used = subnet, used
        self.quiet = True
        self.ended = ""
        self._gate = gate

    def fail(self, reason: str, *, abort: bool = False) -> None:
        self.ended = reason
        self._gate.gone(self)


def gate(**limits: float) -> Gate:
    return Gate(Limits(**limits), Counters())


def arrive(gate: Gate, subnet: str, now: float = 0.0, *, used: float = 0.0, admitted: bool = False) -> Caller:
    caller = Caller(gate, subnet, used)
    refusal = gate.arrived(caller, now)
    if refusal:
        caller.fail(refusal)
    elif admitted:
        gate.admitted(caller)
    return caller


def test_half_open_links_of_a_crowd_push_out_their_own() -> None:
    door = gate(half_open=4)
    honest = arrive(door, "honest")
    crowd = [arrive(door, "crowd") for _ in range(20)]
    assert not honest.ended
    assert [each.ended for each in crowd].count("") == 3
    assert door.half_open == 4


def test_links_of_a_crowd_push_out_their_own_even_those_used_last() -> None:
    door = gate(inbound_links=4)
    honest = arrive(door, "honest", used=1.0, admitted=True)
    crowd = [arrive(door, "crowd", used=100.0 + number, admitted=True) for number in range(10)]
    assert not honest.ended
    assert [each.ended for each in crowd].count("") == 3
    assert arrive(door, "newcomer", admitted=True).ended == ""
    assert not honest.ended


def test_a_crowd_that_is_busy_is_not_let_grow_at_the_cost_of_others() -> None:
    door = gate(inbound_links=4)
    honest = arrive(door, "honest", admitted=True)
    for _ in range(3):
        arrive(door, "crowd", admitted=True).quiet = False
    assert arrive(door, "crowd").ended == "too many links"
    assert not honest.ended


def test_a_crowd_that_is_busy_gives_places_to_newcomers_before_an_idle_link_does() -> None:
    door = gate(inbound_links=8)
    honest = arrive(door, "honest", admitted=True)
    crowd = [arrive(door, "crowd", used=float(number), admitted=True) for number in range(7)]
    for each in crowd:
        each.quiet = False
    newcomers = [arrive(door, f"net {number}", used=100.0, admitted=True) for number in range(3)]
    assert not honest.ended and not any(each.ended for each in newcomers)
    assert [bool(each.ended) for each in crowd] == [True] * 3 + [False] * 4, "the longest unused went"


def test_where_there_are_no_crowds_idle_links_go_and_requests_are_not_broken() -> None:
    door = gate(inbound_links=4)
    idle = arrive(door, "idle", used=5.0, admitted=True)
    for name in ("pair", "pair", "single"):
        arrive(door, name, admitted=True).quiet = False
    assert not arrive(door, "newcomer", admitted=True).ended
    assert idle.ended, "though it was used last"


def test_where_all_have_as_many_and_are_busy_one_more_is_refused() -> None:
    door = gate(inbound_links=4)
    everybody = [arrive(door, name, admitted=True) for name in ("one", "one", "two", "two")]
    for each in everybody:
        each.quiet = False
    newcomer = arrive(door, "three", admitted=True)
    assert not newcomer.ended and everybody[0].ended, "until it has as many as they"
    newcomer.quiet = False
    assert arrive(door, "three").ended == "too many links"


def test_half_open_links_of_a_crowd_keep_no_places_either() -> None:
    door = gate(inbound_links=8)
    crowd = [arrive(door, "crowd") for _ in range(8)]
    assert not arrive(door, "newcomer").ended
    assert [bool(each.ended) for each in crowd].count(True) == 1


def test_connections_of_one_subnet_come_only_so_fast() -> None:
    door = gate(arrivals_at_once=3, arrivals_per_second=1.0)
    assert [bool(arrive(door, "crowd").ended) for _ in range(5)] == [False, False, False, True, True]
    assert not arrive(door, "other").ended
    assert not arrive(door, "crowd", now=1.0).ended
    assert door.inside == 5


def test_what_has_gone_frees_its_place() -> None:
    door = gate()
    callers = [arrive(door, f"net {number}", admitted=bool(number % 2)) for number in range(10)]
    for each in callers:
        each.fail("gone")
        each.fail("gone twice")
    assert (door.inside, door.half_open) == (0, 0)
