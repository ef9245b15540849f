"""How one member answers for a byzantine group: it brings its reply, and codes of others that came to the same.

    sender -> leader: request     leader -> all: block ...     each -> leader: codes for the replies of an entry
    leader -> sender: the reply, and 2t codes that only their members and the sender can make

Only the sender can tell which codes are right. Of 2t others t may lie, and t right ones are enough: with the leader's
own word that is one more than can lie. So no liar among the others makes a leader seem to be one.

So a request costs the other members a share of a block, and no message. What does not come this way (a leader that
says nothing, a member whose codes are wrong) is asked of all members, as ever.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from titan_overlay.errors import NotHere
from titan_overlay.mutable import authenticators, talk
from titan_overlay.mutable.authenticators import CODE_BYTES, SharedKeys
from titan_overlay.mutable.intake import fail
from titan_overlay.mutable.proofs import Proofs
from titan_overlay.mutable.requests import Reply, Request
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group

ENTRIES_MAX = 1024
"""For whose codes a leader waits; and as far ahead of it others may be."""


class Vouching:
    """See the module: both sides of it at one member.

    Args:
        proofs: knows what the senders of requests have signed.
    """

    def __init__(self, group: "Group", proofs: Proofs, keys: SharedKeys) -> None:
        self._group = group
        self._proofs = proofs
        self._keys = keys
        self._owed: dict[int, list[tuple[int, Reply, asyncio.Future[bytes]]]] = {}
        """By height of the entry: place in it, the reply, who waits for it and its codes."""
        self._codes: dict[int, dict[bytes, bytes]] = {}
        """By height, by member: one after the other."""

    def key_for(self, public: bytes) -> bytes:
        """What this member shares with that user."""
        return self._keys.of(public)

    # ---- a member that does not lead ---------------------------------------------------------------------------

    def vouch(self, height: int, requests: Sequence[Request], replies: Sequence[Reply]) -> None:
        """Tells the leader what an entry came to here."""
        leader = self._group.engine.leader
        if leader is None or leader == self._group.me or not self._group.is_member:
            return
        if any(authenticators.has_codes(each.proof) for each in requests):
            codes = b"".join(map(self._code, requests, replies))
            self._group.peers.post(leader, talk.VOUCH, codec.encode(talk.Vouchers(height, codes)))

    def _code(self, request: Request, reply: Reply) -> bytes:
        said = self._proofs.covered(request)
        return authenticators.reply_code(self._keys.of(request.sender), said, codec.encode(reply))

    # ---- the leader --------------------------------------------------------------------------------------------

    def owe(self, height: int, place: int, reply: Reply, waiting: "asyncio.Future[bytes]") -> None:
        """Somebody waits for the reply to the request at this place in an entry that was just executed."""
        self._owed.setdefault(height, []).append((place, reply, waiting))

    def executed(self, height: int) -> None:
        """All that is owed for this entry is known."""
        self._settle(height)
        while len(self._owed) > ENTRIES_MAX:
            self._fail(next(iter(self._owed)), NotHere("too few members say what it came to", maybe_executed=True))
        for each in [each for each in self._codes if each <= height and each not in self._owed]:
            del self._codes[each]

    def vouched(self, sender: bytes, vouchers: talk.Vouchers) -> None:
        """Codes of another member."""
        height = vouchers.height
        executed = self._group.machine.height
        if not self._group.leads or sender not in self._group.configuration.members:
            return
        if executed < height <= executed + ENTRIES_MAX or height in self._owed:
            self._codes.setdefault(height, {})[sender] = vouchers.codes
            self._settle(height)

    def _settle(self, height: int) -> None:
        owed, codes = self._owed.get(height), self._codes.get(height, {})
        faults = (len(self._group.configuration.members) - 1) // 3
        if owed is None or len(codes) < 2 * faults:  # of which t may be lies, and the others are enough
            return
        del self._owed[height]
        self._codes.pop(height, None)
        for place, reply, waiting in owed:
            if not waiting.done():
                theirs = slice(place * CODE_BYTES, (place + 1) * CODE_BYTES)
                vouching = tuple((member, each[theirs]) for member, each in codes.items())
                waiting.set_result(codec.encode(talk.Vouched(reply, vouching)))

    def _fail(self, height: int, why: NotHere) -> None:
        fail((waiting for *_, waiting in self._owed.pop(height)), why)
        self._codes.pop(height, None)

    def send_away(self, why: NotHere) -> None:
        """All who wait ask all members."""
        for height in list(self._owed):
            self._fail(height, why)
        self._codes.clear()
