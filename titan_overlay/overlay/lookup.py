"""The iterative lookup (Maymounkov and Mazieres, Kademlia, section 2.3), asynchronous. No I/O.

Events in: `start`, `reply`, `late`, `failed`. Each returns the contacts to ask next. At most `alpha` questions are in
flight; one that is late no longer counts as such, so that a slow or dead contact costs a spare question and never a
round; its answer is still welcome. The lookup is over when the `wanted` closest contacts that are not dead have
answered, or when somebody calls `finish` (holders were found).

A seam for disjoint paths: several `Lookup`s that share one `taken` set never ask the same contact (S/Kademlia, 4.4).
"""

from bisect import insort
from collections.abc import Iterable

from titan_overlay.identity.contacts import Contact

_NEW, _ASKED, _LATE, _ANSWERED, _FAILED = range(5)

MAX_QUESTIONS = 128
"""However many contacts liars invent, a lookup asks no more than this."""


class _Candidate:
    __slots__ = ("contact", "depth", "distance", "state")

    def __init__(self, contact: Contact, distance: int, depth: int) -> None:
        self.contact = contact
        self.distance = distance
        self.depth = depth
        self.state = _NEW

    def __lt__(self, other: "_Candidate") -> bool:
        return self.distance < other.distance


class Lookup:
    """One walk towards `target`.

    Args:
        me: this node's id, never asked.
        alpha: questions in flight.
        wanted: how many of the closest must have answered.
        patient: waits for late answers when nothing else is left to ask (one of them may be the only one that knows).
        taken: ids that other paths of the same lookup have asked.
    """

    __slots__ = (
        "_alpha",
        "_candidates",
        "_flying",
        "_known",
        "_me",
        "_patient",
        "_target",
        "_wanted",
        "finished",
        "questions",
        "taken",
    )

    def __init__(
        self,
        target: bytes,
        me: bytes,
        *,
        alpha: int,
        wanted: int,
        patient: bool = False,
        taken: set[bytes] | None = None,
    ) -> None:
        self._target = int.from_bytes(target, "big")
        self._me = me
        self._alpha = alpha
        self._wanted = wanted
        self._patient = patient
        self._candidates: list[_Candidate] = []
        """Closest first; the failed ones are removed."""
        self._known: dict[bytes, _Candidate] = {}
        self._flying = 0
        self.questions = 0
        self.finished = False
        self.taken: set[bytes] = set() if taken is None else taken

    def start(self, contacts: Iterable[Contact]) -> list[Contact]:
        """Begins from these."""
        self._learn(contacts, 1)
        return self._next()

    def reply(self, node: bytes, contacts: Iterable[Contact]) -> list[Contact]:
        """It answered with these contacts."""
        self._settle(node, _ANSWERED)
        self._learn(contacts, self.depth(node) + 1)
        return self._next()

    def late(self, node: bytes) -> list[Contact]:
        """No answer within the usual time; it may still come."""
        candidate = self._known.get(node)
        if candidate is not None and candidate.state == _ASKED:
            candidate.state = _LATE
            self._flying -= 1
        return self._next()

    def failed(self, node: bytes) -> list[Contact]:
        """No answer at all."""
        candidate = self._settle(node, _FAILED)
        if candidate is not None:
            self._candidates.remove(candidate)
        return self._next()

    def finish(self) -> None:
        """What was looked for has been found."""
        self.finished = True

    def answered(self, count: int) -> list[Contact]:
        """The closest contacts that have answered, closest first."""
        return [c.contact for c in self._candidates if c.state == _ANSWERED][:count]

    def known(self, count: int) -> list[Contact]:
        """The closest contacts heard of, closest first, but those that failed or are late."""
        return [c.contact for c in self._candidates if c.state in (_ANSWERED, _NEW)][:count]

    def depth(self, node: bytes) -> int:
        """Requests, one after the other, on the way to this node: 1 for those it began from; 0: never heard of."""
        candidate = self._known.get(node)
        return 0 if candidate is None else candidate.depth

    def _settle(self, node: bytes, state: int) -> _Candidate | None:
        candidate = self._known.get(node)
        if candidate is None or candidate.state in (_ANSWERED, _FAILED):
            return None
        if candidate.state == _ASKED:
            self._flying -= 1
        candidate.state = state
        return candidate

    def _learn(self, contacts: Iterable[Contact], depth: int) -> None:
        for contact in contacts:
            if contact.id in self._known or contact.id == self._me:
                continue
            candidate = _Candidate(contact, contact.long_id ^ self._target, depth)
            self._known[contact.id] = candidate
            insort(self._candidates, candidate)

    def _next(self) -> list[Contact]:
        if self.finished:
            return []
        chosen: list[Contact] = []
        waiting = late = False
        seen = 0
        for candidate in self._candidates:
            if seen == self._wanted:
                break
            if candidate.state == _LATE:
                late = True  # the one behind it is asked in its place
                continue
            seen += 1
            if candidate.state == _NEW:
                if self._flying >= self._alpha:
                    waiting = True
                    break
                if candidate.contact.id in self.taken or self.questions >= MAX_QUESTIONS:
                    continue
                self.taken.add(candidate.contact.id)
                candidate.state = _ASKED
                self._flying += 1
                self.questions += 1
                chosen.append(candidate.contact)
                waiting = True
            elif candidate.state == _ASKED:
                waiting = True
        self.finished = not waiting and not (late and self._patient)
        return chosen
