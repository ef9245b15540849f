"""The paths of a lookup: contacts heard of, who named them, and who is to be asked next on each walk. No I/O."""

from titan_overlay.identity.contacts import Contact

NEW, ASKED, LATE, ANSWERED, FAILED = range(5)
"""States of a contact, see `lookup.py`."""
STRIKES = 3
"""Nobody is asked on the word of a contact with so many."""


class Heard:
    """A contact heard of. The same id at another address is another one, until one of them has proven itself."""

    __slots__ = ("contact", "depth", "distance", "doubt", "leads", "path", "referrers", "state", "strikes", "struck")

    def __init__(self, contact: Contact, distance: int, depth: int, *, avoided: bool = False) -> None:
        self.contact = contact
        self.distance = distance
        self.depth = depth
        self.doubt = STRIKES - 1 if avoided else 0
        """As if so many strikes were against whoever named it: it is asked late, not never."""
        self.path: Path | None = None
        """On which it was asked."""
        self.leads: list[Path] = []
        """On which it was heard of."""
        self.referrers: list[Heard] = []
        """Who named it before it was asked; nobody: this node's own table."""
        self.strikes = 0
        self.struck = 0
        """Strikes that each of `referrers` has for it."""
        self.state = NEW

    def become(self, state: int) -> None:
        """Changes its state."""
        self.state = state
        for path in self.leads:
            path.changed = True

    def strike(self, strikes: int) -> None:
        """Against all who named it; below 0: takes them back."""
        self.struck += strikes
        for referrer in self.referrers:
            referrer.blame(strikes)

    def blame(self, strikes: int) -> None:
        """So many strikes more (or fewer) against it."""
        self.strikes += strikes
        if self.path is not None:  # those whom it named were heard of there alone
            self.path.changed = True

    def let_go(self) -> None:
        """Of the paths and contacts that in turn refer to it: the lookup is over."""
        self.path = None
        self.leads.clear()
        self.referrers.clear()


def fewest_strikes(referrers: list[Heard]) -> int:
    """Of those who named a contact; 0: nobody did."""
    if not referrers or not referrers[0].strikes:  # nearly always
        return 0
    return min([each.strikes for each in referrers])


def by_distance(node: Heard) -> int:
    """Key to sort by."""
    return node.distance


class Path:
    """One walk towards `aim`.

    `changed`: what it offers may be another contact than before. It is asked far more often than that is so.
    """

    __slots__ = ("_leads", "_long_aim", "_offered", "aim", "changed", "questions")

    def __init__(self, aim: bytes) -> None:
        self.aim = aim
        self.questions = 0
        self.changed = True
        self._offered: tuple[int, Heard] | None = None
        self._long_aim = int.from_bytes(aim, "big")
        self._leads: dict[Contact, tuple[int, Heard, list[Heard]]] = {}
        """Distance from the aim, the contact, and who named it on this path."""

    def learn(self, node: Heard, referrer: Heard | None) -> None:
        """Somebody on this path named this contact; None: it begins here."""
        self.changed = True
        lead = self._leads.get(node.contact)
        if lead is None:
            lead = self._leads[node.contact] = (node.contact.long_id ^ self._long_aim, node, [])
            node.leads.append(self)
        if referrer is not None:
            lead[2].append(referrer)

    def offer(self, wanted: int) -> tuple[int, Heard] | None:
        """Whom to ask next, and the strikes against that. None: its `wanted` closest have been asked, or there are no
        more.
        """
        if self.changed:
            self._offered = self._find(wanted)
            self.changed = False
        return self._offered

    def _find(self, wanted: int) -> tuple[int, Heard] | None:
        best: Heard | None = None
        first = (STRIKES, 0)
        before: list[tuple[int, int]] = []
        for distance, node, named_by in self._leads.values():
            if node.state == NEW:
                place = (fewest_strikes(named_by) + node.doubt, distance)
                if place < first:
                    first, best = place, node
            elif node.path is self and (node.state == ASKED or node.state == ANSWERED):
                before.append((fewest_strikes(named_by), distance))
        if best is None or sum(place < first for place in before) >= wanted:
            return None
        return first[0], best
