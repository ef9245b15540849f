"""Evidence: the verified statements about one object, united from many answers. No I/O."""

from collections.abc import Collection, Iterable, Mapping

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity import names, records
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Advertisement, Tombstone, outranks, sweeps
from titan_overlay.identity.subnets import public_subnet
from titan_overlay.overlay.bodies import NAMED_BY
from titan_overlay.overlay.directory import proven

MAX_HOLDERS = 256
MAX_DELETIONS = 16
"""Of an object: of data, each publisher may take its pin away."""


class Evidence:
    """What does not verify does not exist.

    Args:
        now: unix seconds; what has expired by then is no evidence. avoid: holders that are known to be no good.
        Anybody can truthfully sign "I hold this" and then answer rubbish: what
            these say is kept, but proves nothing.
    """

    def __init__(self, object_id: ObjectId, rights: Rights, now: float, avoid: Collection[NodeId] = ()) -> None:
        self.rejected = 0
        self._deletions: dict[NodeId, Signed[Tombstone]] = {}
        """The latest by the publisher of what is deleted."""
        self._object_id = object_id
        self._rights = rights
        self._now = now
        self._avoid = avoid
        self._latest: dict[NodeId, Signed[Advertisement]] = {}
        self._seen: dict[tuple[bytes, bool], bool] = {}
        """Advertisements as received, and whether from a public address; whether each is worth something: valid, live,
        of a holder that may be good."""
        self._deleted = False

    @property
    def conclusive(self) -> bool:
        """A live holder is known, or the object is known to be deleted (of data only pins are deleted)."""
        return self._deleted or any(self._is_good(each) for each in self._latest.values())

    @property
    def size(self) -> int:
        """How many holders are known, good or not."""
        return len(self._latest)

    def first_unknown(self, named: Mapping[int, bytes]) -> int | None:
        """The place of the first holder, named by the beginning of its id, of whom nothing is known."""
        known = {holder[:NAMED_BY] for holder in self._latest}
        return next((place for place, each in named.items() if each not in known), None)

    @property
    def tombstones(self) -> tuple[Signed[Tombstone], ...]:
        """Proofs that the object was deleted, or of data that a pin was; the highest version first."""
        return tuple(sorted(self._deletions.values(), key=lambda each: -each.value.version))

    def advertisements(self) -> tuple[Signed[Advertisement], ...]:
        """Live ones, the latest of each holder, counted holders first."""
        live = [each for each in self._latest.values() if not each.value.withdrawn]
        return tuple(sorted(live, key=lambda each: each.value.passing))

    def add(self, advertisements: Iterable[bytes], tombstones: Iterable[bytes], by: str = "") -> bool:
        """Statements as received; what is false, expired or of another object is left out.

        Args:
            by: address of the peer that told them; empty: this node itself.

        Returns:
            Whether there was something of worth among them, heard before or not.
        """
        told, from_outside = False, bool(public_subnet(by))
        for raw in tombstones:
            told |= self._bury(raw)
        for raw in advertisements:
            key = raw, from_outside
            if key not in self._seen and len(self._seen) < 4 * MAX_HOLDERS:
                self._seen[key] = self._take(raw, by)
            told |= self._seen.get(key, False)
        return told

    def _take(self, raw: bytes, by: str) -> bool:
        try:
            signed = records.check(raw, Advertisement, self._rights.pool)
        except BadMessage:
            self.rejected += 1
            return False
        value = signed.value
        stands = value.object_id == self._object_id and value.expires > self._now and value.may_be_told(by)
        if not stands or not self._rights.may_serve(signed.signer) or len(self._latest) >= MAX_HOLDERS:
            self.rejected += 1
            return False
        known = self._latest.get(signed.signer)
        if known is None or outranks(value.sequence, raw, known.value.sequence, known.raw):
            self._latest[signed.signer] = signed
        return self._is_good(signed)

    def _is_good(self, signed: Signed[Advertisement]) -> bool:
        return not signed.value.withdrawn and signed.signer not in self._avoid

    def _bury(self, raw: bytes) -> bool:
        try:
            signed = records.check(raw, Tombstone, self._rights.pool)
            buried = proven(signed, self._rights, self._now)
            if (
                names.object_id(self._rights.pool, buried.value.name) != self._object_id
                or signed.value.expires <= self._now
            ):
                raise BadMessage("of another object, or expired")
        except (BadMessage, Forbidden):
            self.rejected += 1
            return False
        known = self._deletions.get(buried.signer)
        if known is None and len(self._deletions) >= MAX_DELETIONS:
            self.rejected += 1
            return False
        if known is None or known.value.version < signed.value.version:
            self._deletions[buried.signer] = signed
        self._deleted = self._deleted or sweeps(signed, self._rights, self._now)
        return True
