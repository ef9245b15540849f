"""The iterative lookup over disjoint paths. No I/O.

Theory of operation
-------------------

A lookup is a bundle of *paths* (S/Kademlia, Baumgart and Mies 2007, section 4.4). Each is a walk of its own in the
manner of Kademlia (Maymounkov and Mazieres 2002, section 2.3): it begins at contacts of this node's table and follows
only contacts that were heard of on that path, so that a liar misleads no path but its own. Nobody is asked twice,
over all paths together, and of one reply at most `ACCEPTED` contacts count.

**Paths begin in different places.** The first few begin at the contacts closest to their aim: the shortest way. Those
that begin because there is trouble begin in turn near their aim and anywhere in the table: liars may have filled the
part of it near the target.

**Every path has an aim.** The first walks to the target, each further one to a point of its own near the target, and
the contacts closest to that point are what it asks for. What is said about an object is kept by all nodes of its
region, so ids that were ground next to the object stand in the way of one path at most.

**Few paths first.** `first` of them begin. One more begins for every question that was asked *in vain* (a contact
does not prove its id by answering; or it lies where the object must be known, nearer than `expects`, and tells
nothing), and for every `PATIENCE` questions in any case. Where nothing goes wrong, nothing is spent; where all is
lies, the whole budget is, also when the union has asked everybody who seemed near.

**Who misleads loses his say.** Each contact remembers who named it. To ask a contact is a strike against those who
named it, until it answers and not in vain; there is a second one once its answer is late. Contacts whose names come
from those with the fewest strikes are asked first, whichever path they are on; nobody is asked on the word of someone
with `STRIKES`. So a liar that invents contacts costs a lookup few questions.

**The union.** When no path has anybody left to ask, or the budget comes to its end, the closest contacts that were
heard of on any path, and all that are nearer than `within`, are asked too.

At most `alpha` questions are in flight, and one more for each path beyond `alpha`. A question that is late no longer
counts as such: a slow or dead contact costs a spare question and never a round; its answer is still welcome.

    state of a contact      event                          next
    new                     its turn, on some path         asked
    asked                   no answer in the usual time    late
    asked, late             an answer, in its session      answered: it has proven its id
    asked, late             no answer at all               failed
    new                     its id was proven elsewhere    failed
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId
from titan_overlay.overlay.paths import (
    ANSWERED,
    ASKED,
    FAILED,
    LATE,
    NEW,
    STRIKES,
    Heard,
    Path,
    by_distance,
    fewest_strikes,
)

PATHS = 12
BUDGET = 40
"""Questions of one lookup, whatever is answered."""
ACCEPTED = 8
"""Contacts taken from one reply."""
STARTS = 8
"""Contacts of the own table that few paths begin from, dealt out among them; many paths begin from one each."""
PATIENCE = 8
UNION = 8
"""The closest contacts that have answered when a lookup ends, whichever path they were heard of on."""


class Question(NamedTuple):
    """Whom to ask, and for contacts close to what."""

    contact: Contact
    aim: bytes


class Lookup:
    """One lookup of `target`.

    Args:
        me: this node's id, never asked.
        seeds: (id, count) -> the closest contacts of this node's table, closest first.
        aim: draws the point that the next path walks to; None: all walk to the target.
        origin: draws the id near which each path beyond the first `alpha` begins; None: all begin near their aims.
        alpha: questions in flight.
        paths: at most so many. first: so many begin at once. every: one more for so many questions, in any case.
        wanted: how many contacts must have answered on each path; union: of the closest, whatever the path.
        expects, within: distances from the target, see above.
        budget: questions, at most. spare: of them, what is left for the asker once somebody has told something.
        avoided: ids that are asked late, for what is remembered of them.
        patient: waits for late answers when nothing else is left to ask (one of them may be the only one that knows).
    """

    __slots__ = (
        "_aim",
        "_alpha",
        "_avoided",
        "_budget",
        "_by_id",
        "_every",
        "_expects",
        "_first",
        "_flying",
        "_limit",
        "_long_target",
        "_me",
        "_nodes",
        "_origin",
        "_paths",
        "_patient",
        "_proven",
        "_seeds",
        "_sorted",
        "_spare",
        "_started",
        "_target",
        "_told",
        "_union",
        "_united",
        "_vain",
        "_wanted",
        "_within",
        "finished",
        "questions",
    )

    def __init__(
        self,
        target: bytes,
        me: bytes,
        seeds: Callable[[bytes, int], Sequence[Contact]],
        *,
        alpha: int,
        paths: int = PATHS,
        first: int = 1,
        every: int = PATIENCE,
        wanted: int = 3,
        union: int = UNION,
        aim: Callable[[], bytes] | None = None,
        origin: Callable[[], bytes] | None = None,
        expects: int = 0,
        within: int = 0,
        budget: int = BUDGET,
        spare: int = 0,
        patient: bool = False,
        avoided: Callable[[NodeId], bool] = lambda node: False,
    ) -> None:
        self._target = target
        self._long_target = int.from_bytes(target, "big")
        self._me = me
        self._seeds = seeds
        self._alpha = alpha
        self._limit = paths
        self._first = min(first, paths)
        self._every = every
        self._wanted = wanted
        self._union = union
        self._aim = aim
        self._origin = origin
        self._expects = expects
        self._within = within
        self._budget = budget
        self._spare = spare
        self._patient = patient
        self._avoided = avoided
        self._nodes: dict[Contact, Heard] = {}
        self._by_id: dict[bytes, list[Heard]] = {}
        """All addresses at which an id was heard of: the first to prove itself settles it for all."""
        self._sorted: list[Heard] = []
        """By distance, as of when the union last looked."""
        self._proven: dict[bytes, Contact] = {}
        """By id: who has answered, at the address where it did."""
        self._paths: list[Path] = []
        self._united = Path(target)
        """Of the union: what it hears goes to no path."""
        self._started: set[Contact] = set()
        self._flying = 0
        self._vain = 0
        self._told = False
        self.questions = 0
        self.finished = False

    @property
    def paths(self) -> int:
        """How many have begun."""
        return len(self._paths)

    # ---- events ----------------------------------------------------------------------------------------------

    def start(self) -> list[Question]:
        """Begins."""
        while len(self._paths) < self._first and self._begin():
            pass
        return self._next()

    def reply(
        self, asked: Contact, contacts: Iterable[Contact], *, told: bool = False, proven: Contact | None = None
    ) -> list[Question]:
        """It answered with these contacts.

        told: and with something of what is looked for.
        proven: where it is in truth, if not where it was said to be.
        """
        node = self._settle(asked, ANSWERED)
        if node is None or node.path is None:
            return self._next()
        self._proven[asked.id] = proven or asked
        for each in self._by_id[asked.id]:
            if each.state == NEW:
                each.become(FAILED)
        self._told |= told
        if node.distance < self._expects and not told:
            self._vain += 1
            node.blame(STRIKES - node.strikes)
        else:
            node.strike(-node.struck)
        for contact in list(contacts)[:ACCEPTED]:
            self._learn(node.path, contact, node)
        return self._next()

    def late(self, asked: Contact) -> list[Question]:
        """No answer within the usual time; it may still come."""
        if self._state(asked) == ASKED:
            self._vain += 1
            self._flying -= 1
            self._nodes[asked].become(LATE)
            self._nodes[asked].strike(1)
        return self._next()

    def failed(self, asked: Contact) -> list[Question]:
        """No answer at all."""
        if self._state(asked) == ASKED:
            self._vain += 1
            self._nodes[asked].strike(1)
        self._settle(asked, FAILED)
        return self._next()

    def finish(self) -> None:
        """What was looked for has been found."""
        self.finished = True

    def close(self) -> None:
        """Nobody is asked any more; what came of it stays.

        Paths and contacts refer to one another in circles, and would be in memory until the next full collection.
        """
        for node in self._nodes.values():
            node.let_go()

    # ---- what came of it -------------------------------------------------------------------------------------

    def answered(self, count: int) -> list[Contact]:
        """The closest contacts that have answered, closest first, whatever path they were heard of on."""
        return sorted(self._proven.values(), key=lambda contact: contact.long_id ^ self._long_target)[:count]

    def heard(self, within: int) -> list[Contact]:
        """All contacts nearer to the target than this that may be there, closest first: those that were asked and did
        not answer (yet) are left out.
        """
        near = {
            self._proven.get(node.contact.id, node.contact): node.distance
            for node in self._nodes.values()
            if node.distance < within and (node.state == NEW or node.state == ANSWERED)
        }
        return sorted(near, key=near.__getitem__)

    def depth(self, asked: Contact) -> int:
        """Requests, one after the other, on the way to this node: 1 for those it began from; 0: never heard of."""
        node = self._nodes.get(asked)
        return 0 if node is None else node.depth

    # ---- bookkeeping -----------------------------------------------------------------------------------------

    def _begin(self) -> bool:
        """One more path, from start contacts that no other has. False: there are none left, or paths enough."""
        if len(self._paths) >= self._limit:
            return False
        aim = self._target if self._aim is None or not self._paths else self._aim()
        share = max(1, STARTS // self._limit)
        number = len(self._paths)
        start = aim if self._origin is None or number < self._alpha or number % 2 == 0 else self._origin()
        near = self._seeds(start, share + STARTS + len(self._nodes))
        fresh = [c for c in near if c not in self._started and self._is_askable(c)]
        fresh.sort(key=lambda contact: self._avoided(contact.id))
        if not fresh:
            return False
        path = Path(aim)
        self._paths.append(path)
        self._started.update(fresh[:share])
        for contact in fresh[:share]:
            self._learn(path, contact, None)
        return True

    def _is_askable(self, contact: Contact) -> bool:
        return self._state(contact) == NEW and contact.id not in self._proven and contact.id != self._me

    def _state(self, contact: Contact) -> int:
        node = self._nodes.get(contact)
        return NEW if node is None else node.state

    def _learn(self, path: Path, contact: Contact, referrer: Heard | None) -> None:
        if contact.id == self._me:
            return
        node = self._nodes.get(contact)
        if node is None:
            depth = 1 if referrer is None else referrer.depth + 1
            node = self._nodes[contact] = Heard(
                contact, contact.long_id ^ self._long_target, depth, avoided=self._avoided(contact.id)
            )
            self._by_id.setdefault(contact.id, []).append(node)
            if contact.id in self._proven:
                node.state = FAILED
        if referrer is not None and node.state == NEW:
            node.referrers.append(referrer)
        path.learn(node, referrer)

    def _settle(self, asked: Contact, state: int) -> Heard | None:
        node = self._nodes.get(asked)
        if node is None or node.state not in (ASKED, LATE):
            return None
        if node.state == ASKED:
            self._flying -= 1
        node.become(state)
        return node

    # ---- whom to ask -----------------------------------------------------------------------------------------

    def _next(self) -> list[Question]:
        questions: list[Question] = []
        while not self.finished and self.questions < self._budget - (self._spare if self._told else 0):
            if self._flying >= max(self._alpha, len(self._paths)):
                break
            question = self._choose()
            if question is None:
                break
            questions.append(question)
        if not self._flying and not (self._patient and self._is_awaited()):
            self.finished = True
        return questions

    def _is_awaited(self) -> bool:
        return any(node.state == LATE for node in self._nodes.values())

    def _choose(self) -> Question | None:
        while len(self._paths) < self._first + self._vain + self.questions // self._every and self._begin():
            pass
        question = self._follow() if self.questions < self._budget - self._union else None
        if question is not None or (self._flying and not self._united.questions):
            return question  # none: what is on its way may lead on
        node = self._outstanding()
        if node is not None:
            return self._ask(node, self._united)
        return self._follow() if self._expects and not self._told else None

    def _follow(self) -> Question | None:
        """The next question on some path: where the fewest strikes are against it, on the path that has asked least."""
        while True:
            least = (STRIKES, 0)
            best: tuple[Heard, Path] | None = None
            for path in self._paths:
                offer = path.offer(self._wanted)
                if offer is not None and (offer[0], path.questions) < least:
                    least, best = (offer[0], path.questions), (offer[1], path)
            if best is not None:
                return self._ask(*best)
            if self._flying or self._told or not self._expects or not self._begin():
                return None

    def _ask(self, node: Heard, path: Path) -> Question:
        node.path = path
        node.become(ASKED)
        node.strike(1)
        path.questions += 1
        self.questions += 1
        self._flying += 1
        return Question(node.contact, path.aim)

    def _outstanding(self) -> Heard | None:
        """Of the closest, and of all within: one that was not asked; whose word has failed least comes first."""
        best: tuple[int, int] | None = None
        chosen = None
        closest = 0
        if len(self._sorted) < len(self._nodes):
            self._sorted = sorted(self._nodes.values(), key=by_distance)
        for node in self._sorted:
            if closest >= self._union and node.distance >= self._within:
                break
            if node.state == ANSWERED:
                closest += 1
            elif node.state == NEW:
                key = (fewest_strikes(node.referrers) + node.doubt, node.distance)
                if best is None or key < best:
                    best, chosen = key, node
        return chosen
