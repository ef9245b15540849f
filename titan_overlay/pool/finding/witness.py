"""What finding has seen of holders, put into words for `identity/conduct.py`: first-hand and no more than that."""

import asyncio

from titan_overlay.errors import LinkError, NotHere, TitanError
from titan_overlay.identity.conduct import Conduct, Offence
from titan_overlay.identity.ids import NodeId
from titan_overlay.links.links import Links


class WrongBytes(NotHere):
    """A holder sent something else than what the name says. Never crosses the wire."""


class Witness:
    """Tells conduct how holders answered."""

    def __init__(self, conduct: Conduct, links: Links) -> None:
        self.conduct = conduct
        self._links = links
        self._loop = asyncio.get_running_loop()

    def avoids(self, holder: NodeId) -> bool:
        """Whether others are asked before this one."""
        return self.conduct.avoided(holder, self._loop.time())

    def burden(self, holder: NodeId) -> float:
        """What there is against it; see `Conduct.burden`."""
        return self.conduct.burden(holder, self._loop.time())

    def good(self, holder: NodeId) -> None:
        """It gave an answer that is right as far as can be checked."""
        self.conduct.praise(holder, self._loop.time())

    def failed(self, holder: NodeId, what: str, why: TitanError) -> None:
        """It gave no answer, for this reason. A dial that failed says nothing: others may have told a wrong address."""
        if isinstance(why, WrongBytes):
            self._blame(holder, Offence.WRONG, f"{what}: {why}")
        elif isinstance(why, NotHere):
            self._blame(holder, Offence.BROKEN, f"{what}: it is advertised there, and is not there")
        elif isinstance(why, LinkError) and why.maybe_executed:
            self._blame(holder, Offence.SILENCE, f"{what}: {why}")

    def unproven(self, holder: NodeId, what: str) -> None:
        """What it shows of what it advertises does not hold. It may only speak another version than we do."""
        self._blame(holder, Offence.BROKEN, what)

    def late(self, holder: NodeId, what: str) -> None:
        """It kept us waiting so long that another was asked as well. If it is dead, that is soon known and no fault."""
        if self._links.peer_of(holder) is not None:
            self._links.doubt(holder)
            self._blame(holder, Offence.SILENCE, f"{what}: no answer in time")

    def outvoted(self, holder: NodeId, what: str) -> None:
        """It voted otherwise than the majority."""
        self._blame(holder, Offence.DISSENT, what)

    def lied(self, holder: NodeId, what: str) -> None:
        """What it sent is proven to be false."""
        self._blame(holder, Offence.WRONG, what)

    def _blame(self, holder: NodeId, offence: Offence, why: str) -> None:
        self.conduct.blame(holder, offence, why, self._loop.time())
