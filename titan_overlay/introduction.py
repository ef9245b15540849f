"""What a member shows of itself to peers: for whom it speaks, and which of its grants are of use there."""

from collections.abc import Sequence

from titan_overlay.ambient import Ambient
from titan_overlay.identity import credentials, records
from titan_overlay.identity.credentials import DATAGRAM_BYTES, LINK_BYTES, Delegate
from titan_overlay.identity.grants import Right
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights

DELEGATION_SECONDS = 30 * 86400.0


class Introduction:
    """The credentials of one member, made anew by `renew`.

    Args:
        key: of the member. user: for whom it speaks, perhaps itself.
        held: the user's grants, as signed; looked at each time.
    """

    def __init__(
        self, key: SigningKey, user: SigningKey, rights: Rights, ambient: Ambient, held: Sequence[bytes]
    ) -> None:
        self._key = key
        self._user = user
        self._rights = rights
        self._ambient = ambient
        self._held = held
        self._delegation = b""
        self._fresh_until = 0.0
        self.in_handshake = b""
        """No more than the right to join, and that only where it is needed: what crosses UDP can be read on the way."""
        self.on_link = b""

    def renew(self) -> bool:
        """Leaves out what has ended, takes in what is new. Whether links that know the old ones should be replaced."""
        now, before = self._ambient.wall(), self.on_link
        if self._user is not self._key and now >= self._fresh_until:
            # Long before its end: peers look at that, whenever their link was opened.
            self._fresh_until = now + DELEGATION_SECONDS / 2
            delegate = Delegate(self._key.id, now + DELEGATION_SECONDS)
            self._delegation = records.sign(delegate, self._user, self._rights.pool).raw
        joining = self._rights.best(self._held, self._user.id, Right.JOIN, None, now)
        needed = self._rights.record.private or not self._rights.raw_record  # what is not known yet may be private
        self.in_handshake = credentials.pack(self._delegation, [joining], DATAGRAM_BYTES) if joining and needed else b""
        useful = [raw for raw in self._held if self._is_useful(raw, now)]
        self.on_link = credentials.pack(self._delegation, [joining, *useful], LINK_BYTES)
        return self.on_link != before

    def _is_useful(self, raw: bytes, now: float) -> bool:
        """Whether it says that this member may send to something, or hold it."""
        rights = (Right.CALL, Right.HOST)
        return any(self._rights.granted((raw,), self._user.id, right, None, now) for right in rights)
