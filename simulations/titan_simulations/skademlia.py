"""S/Kademlia's question, as a check of the simulator: do look-ups for a node succeed although others misroute them?

Baumgart and Mies (S/Kademlia, ICPADS 2007) send look-ups along d disjoint paths among 10,000 nodes with buckets of
k = 16, of which a share m answers with colluders only. A path of h nodes is clean with probability (1 - m)^h, and one
clean path is enough: 1 - (1 - (1 - m)^h)^d, over the distribution of h. Here the same is asked of the node's own
`Lookup`, on a bare event heap: nodes are rows of ideal tables, which hold k random nodes of every subtree, and nobody
comes or goes.
"""

import heapq
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import ID_BITS, ID_BYTES, NodeId
from titan_overlay.overlay.finder import WALKED_MIN
from titan_overlay.overlay.lookup import BUDGET, PATHS, UNION, Lookup, Question
from titan_overlay.overlay.regions import Region
from titan_simulations.measure import cpu_seconds
from titan_simulations.results import Result, common
from titan_simulations.statistics import mean, median

ALPHA = 3
WANTED = 1
"""A path of the model ends at the closest node that it was told of: whoever meets a liar is led astray."""
REPLY = 8
"""Contacts in an answer."""
DECOYS = 128
"""Liars that are named to one asker before the first are named again."""
LATENCY_SECONDS = (0.02, 0.2)
FOR_EVER = 1 << 30
"""Questions: no limit."""

Report = Callable[[str, float], None]


class SKademliaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a run."""

    nodes: int = 10_000
    k: int = 16
    paths: tuple[int, ...] = (1, 2, 4, 8)
    malicious: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    lookups: int = 300
    """For each number of paths and share of liars."""
    seed: int = 1


class Tables:
    """Ideal routing tables: of each subtree beside a node's own, k of its nodes at random (or all, if there are fewer).

    Attributes:
        liars: of the nodes that misroute, the places in `contacts`.
    """

    def __init__(self, nodes: int, k: int, random: Random) -> None:
        ids = sorted({NodeId(random.randbytes(ID_BYTES)) for _ in range(nodes)})
        self.contacts = [Contact(each, "192.0.2.1", 1) for each in ids]
        self._long = [each.long_id for each in self.contacts]
        self._index = {each.id: number for number, each in enumerate(self.contacts)}
        self._k = k
        self._random = random
        self._tables: dict[int, list[Contact]] = {}
        self._near: dict[bytes, list[Contact]] = {}
        self.liars: frozenset[int] = frozenset()

    def corrupt(self, share: float) -> None:
        """From now on this share of the nodes lies, drawn anew; they know each other."""
        self.liars = frozenset(self._random.sample(range(len(self.contacts)), round(share * len(self.contacts))))
        self._near.clear()

    def honest(self) -> Contact:
        """One of the others, at random."""
        while True:
            number = self._random.randrange(len(self.contacts))
            if number not in self.liars:
                return self.contacts[number]

    def closest(self, node: Contact, target: bytes, count: int) -> list[Contact]:
        """The closest in this node's own table."""
        return _closest(self._table(self._index[node.id]), target, count)

    def answer(self, node: Contact, target: bytes, decoys: "Decoys") -> list[Contact]:
        """What it says when it is asked."""
        if self._index[node.id] in self.liars:
            return decoys.next(target)
        return self.closest(node, target, REPLY)

    def nearest_liars(self, target: bytes) -> list[Contact]:
        """The closest of all liars, closest first."""
        near = self._near.get(target)
        if near is None:
            near = self._near[target] = _closest([self.contacts[each] for each in self.liars], target, DECOYS)
        return near

    def _table(self, number: int) -> list[Contact]:
        known = self._tables.get(number)
        if known is None:
            known = self._tables[number] = [self.contacts[each] for each in self._drawn(self._long[number])]
        return known

    def _drawn(self, me: int) -> list[int]:
        drawn: list[int] = []
        for bit in range(ID_BITS - 1, -1, -1):
            low = (me ^ 1 << bit) >> bit << bit
            first, last = bisect_left(self._long, low), bisect_left(self._long, low + (1 << bit))
            drawn += self._random.sample(range(first, last), min(self._k, last - first))
            own = me >> bit << bit
            if bisect_left(self._long, own + (1 << bit)) - bisect_left(self._long, own) == 1:
                break  # nobody else is that near
        return drawn


def _closest(contacts: Sequence[Contact], target: bytes, count: int) -> list[Contact]:
    wanted = int.from_bytes(target, "big")
    return heapq.nsmallest(count, contacts, key=lambda each: each.long_id ^ wanted)


class Decoys:
    """What colluders tell one asker in one look-up: each the closest of them that no other has named yet."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._named: Counter[bytes] = Counter()

    def next(self, target: bytes) -> list[Contact]:
        """The next ones for this aim."""
        near, first = self._tables.nearest_liars(target), self._named[target]
        self._named[target] = (first + REPLY) % max(1, len(near))
        return near[first : first + REPLY]


class Walked(msgspec.Struct, frozen=True):
    """What came of one look-up."""

    found: bool
    questions: int
    hops: int
    """Nodes, one after the other, that led to the target, or 0."""


def walk(tables: Tables, lookup: Lookup, target: Contact, random: Random) -> Walked:
    """One look-up for a node, from the first question to the node's own answer."""
    now, serial, decoys = 0.0, 0, Decoys(tables)
    heap: list[tuple[float, int, Question]] = []

    def ask(questions: Sequence[Question]) -> None:
        nonlocal serial
        for each in questions:
            serial += 1
            heapq.heappush(heap, (now + random.uniform(*LATENCY_SECONDS), serial, each))

    ask(lookup.start())
    while heap:
        now, _, question = heapq.heappop(heap)
        if question.contact.id == target.id:
            return Walked(True, lookup.questions, lookup.depth(question.contact) - 1)
        ask(lookup.reply(question.contact, tables.answer(question.contact, question.aim, decoys)))
    return Walked(False, lookup.questions, 0)


def theirs(tables: Tables, asker: Contact, target: Contact, paths: int) -> Lookup:
    """The model: d disjoint paths, each one node after the other, and nothing else."""
    return Lookup(
        target.id,
        asker.id,
        lambda aim, count: tables.closest(asker, aim, count),
        alpha=1,
        paths=paths,
        first=paths,
        wanted=WANTED,
        union=0,
        budget=FOR_EVER,
    )


def ours(tables: Tables, asker: Contact, target: Contact, random: Random) -> Lookup:
    """As a node looks nodes up by default: adaptive paths with aims of their own, the union, and the budget."""
    bits = max(0, (len(tables.contacts) // (2 * UNION)).bit_length() - 1)
    region = Region.around(target.id, bits)
    return Lookup(
        target.id,
        asker.id,
        lambda aim, count: tables.closest(asker, aim, count),
        alpha=ALPHA,
        first=ALPHA,
        wanted=WALKED_MIN,
        aim=lambda: region.point(random.random()),
        budget=BUDGET,
        paths=PATHS,
    )


def run(config: SKademliaConfig, report: Report, command: str) -> Result:
    """All shares of liars, all numbers of paths."""
    random = Random(f"titan/skademlia/{config.seed}")
    tables = Tables(config.nodes, config.k, random)
    hops = _hops(tables, config, random)
    points: list[dict[str, Any]] = []
    for turn, share in enumerate(config.malicious):
        tables.corrupt(share)
        report(f"{share:.0%} liars", turn)
        pairs = [(tables.honest(), tables.honest()) for _ in range(config.lookups)]
        for paths in config.paths:
            walked = [
                walk(tables, theirs(tables, asker, target, paths), target, random)
                for asker, target in pairs
                if asker is not target
            ]
            points.append(_point("s/kademlia", share, paths, walked, expected(hops, share, paths)))
        walked = [
            walk(tables, ours(tables, asker, target, random), target, random)
            for asker, target in pairs
            if asker is not target
        ]
        points.append(_point("ours", share, PATHS, walked, None))
    return {
        **common("skademlia", config=config, command=command, seed=config.seed, trace_hash="", simulated=0.0),
        "nodes": config.nodes,
        "hops": dict(sorted(hops.items())),
        "points": points,
        "cpu_seconds": cpu_seconds(),
    }


def _hops(tables: Tables, config: SKademliaConfig, random: Random) -> Counter[int]:
    """How many nodes lie on a path to the target where nobody lies."""
    counts: Counter[int] = Counter()
    for _ in range(config.lookups):
        asker, target = tables.honest(), tables.honest()
        if asker is not target:
            counts[walk(tables, theirs(tables, asker, target, 1), target, random).hops] += 1
    return counts


def expected(hops: Counter[int], share: float, paths: int) -> float:
    """1 - (1 - (1 - m)^h)^d over the distribution of h: a path is clean if all its nodes are."""
    clean = [(count / hops.total(), (1 - share) ** length) for length, count in hops.items()]
    return sum(weight * (1 - (1 - each) ** paths) for weight, each in clean)


def _point(kind: str, share: float, paths: int, walked: Sequence[Walked], closed_form: float | None) -> dict[str, Any]:
    questions = [each.questions for each in walked]
    return {
        "kind": kind,
        "share_malicious": share,
        "paths": paths,
        "lookups": len(walked),
        "lookups_right": sum(each.found for each in walked),
        "expected": closed_form,
        "rpcs_per_lookup_median": median(questions),
        "rpcs_per_lookup_mean": mean(questions),
    }
