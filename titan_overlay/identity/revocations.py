"""Revocations: what a grantor takes back before its end. Numbered lists, signed by whoever signed the grants.

A list names single grants, or whole keys: "nothing that I signed before then serves this key any more". It reaches
down the chain: what was passed on from a revoked grant is void with it, and so is what a revoked key got from those
to whom the grantor gave. An entry is forgotten once all that it takes back would have ended by itself, and of a right
to publish a year after that: what was published by it would outlive it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b, sha256
from typing import Annotated, ClassVar

import msgspec

from titan_overlay.identity.grants import CLOCK_TOLERANCE, LONGEST_SECONDS, Chain, Grant, Right
from titan_overlay.identity.ids import NodeId, fingerprint
from titan_overlay.identity.records import Count, Record, Seconds, Signed

MARK_BYTES = 16
MAX_ENTRIES = 1000
MAX_LISTS = 128
"""Of grantors that one node keeps."""

Mark = Annotated[bytes, msgspec.Meta(min_length=MARK_BYTES, max_length=MARK_BYTES)]


def mark_of_grant(raw: bytes) -> bytes:
    """What names a grant, as signed, in a list."""
    return sha256(raw).digest()[:MARK_BYTES]


def mark_of_key(key: NodeId) -> bytes:
    """What names a key in a list: its fingerprint, as bytes."""
    return key[:MARK_BYTES]


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One thing that is taken back."""

    what: Mark
    until: Seconds
    """When all that it takes back has ended by itself."""
    before: Seconds = 0
    """0: `what` is a grant. Else it is a key, and what the grantor signed up to then is void for it."""


class RevocationList(Record, frozen=True, array_like=True):
    """All that one grantor takes back now. The higher number replaces the lower."""

    LABEL: ClassVar[bytes] = b"revocations"
    LIMIT: ClassVar[int] = 32_768
    """Lists travel over links."""

    number: Count
    entries: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=MAX_ENTRIES)]
    grant: bytes = b""
    """The grantor's own grant, which it may pass on; empty for the pool's key."""


def grant_entry(raw: bytes, grant: Grant) -> Entry:
    """Takes one grant back, and what was made from it."""
    longer = LONGEST_SECONDS if grant.rights & Right.PUBLISH else 0.0
    return Entry(mark_of_grant(raw), int(grant.expires + longer + CLOCK_TOLERANCE))


def key_entry(key: NodeId, now: float) -> Entry:
    """Takes back all that the grantor has given to this key so far, directly or through others."""
    return Entry(mark_of_key(key), int(now + 2 * LONGEST_SECONDS + CLOCK_TOLERANCE), int(now))


def amended(before: RevocationList | None, entries: Iterable[Entry], now: float, grant: bytes = b"") -> RevocationList:
    """The next list of a grantor: what still counts of the last one, and these entries.

    Raises:
        ValueError: there are more than `MAX_ENTRIES`.
    """
    kept = [each for each in (before.entries if before else ()) if each.until > now]
    added = list(entries)
    again = {(each.what, each.before > 0) for each in added}
    total = (*(each for each in kept if (each.what, each.before > 0) not in again), *added)
    if len(total) > MAX_ENTRIES:
        raise ValueError(f"{len(total)} revocations; a list has at most {MAX_ENTRIES}")
    return RevocationList(max(int(now * 1000), before.number + 1 if before else 0), total, grant)


class _Known:
    """One grantor's list, ready to be asked."""

    __slots__ = ("depth", "grants", "keys", "root", "signed")

    def __init__(self, signed: Signed[RevocationList], depth: int, root: bytes) -> None:
        self.signed = signed
        self.depth = depth
        """Links between the pool's key and the grantor."""
        self.root = root
        """The first key on that way."""
        self.grants = {each.what for each in signed.value.entries if not each.before}
        self.keys = {each.what: each.before for each in signed.value.entries if each.before}


class Revocations:
    """The newest list of each grantor, as far as this node has heard. The caller has checked who signed them."""

    def __init__(self) -> None:
        self._lists: dict[bytes, _Known] = {}
        """By public key of the grantor."""

    def __len__(self) -> int:
        return len(self._lists)

    def add(self, signed: Signed[RevocationList], depth: int, root: bytes = b"") -> bool:
        """Keeps a list that is newer than the one known. Whether it is kept.

        Where there are too many, those farthest from the pool's key go first, and of those the latest of whoever has
        most: a grantee cannot crowd others out with keys to which it passes its grant on.

        Args:
            depth: links between the pool's key and the grantor. root: the first key on that way.
        """
        known = self._lists.get(signed.public)
        if known is not None and known.signed.value.number >= signed.value.number:
            return False
        if known is None and len(self._lists) >= MAX_LISTS:
            crowds = Counter(each.root for each in self._lists.values())
            farthest = max(reversed(self._lists.values()), key=lambda each: (each.depth, crowds[each.root]))
            if (farthest.depth, crowds[farthest.root]) <= (depth, crowds[root] + 1):
                return False
            del self._lists[farthest.signed.public]
        self._lists[signed.public] = _Known(signed, depth, root)
        return True

    def drop(self, grantor: bytes) -> None:
        """Forgets the list of a grantor (its public key) who is none any more."""
        self._lists.pop(grantor, None)

    def __iter__(self) -> Iterator[Signed[RevocationList]]:
        return (known.signed for known in self._lists.values())

    def of(self, grantor: bytes) -> RevocationList | None:
        """The newest list known of a grantor (its public key)."""
        known = self._lists.get(grantor)
        return known.signed.value if known else None

    def void(self, links: Chain) -> bool:
        """Whether somebody who signed a link of this chain has taken it back, or a later link, or its grantee's key."""
        for number, link in enumerate(links):
            known = self._lists.get(link.public)
            if known is None:
                continue
            for later in links[number:]:
                if mark_of_grant(later.raw) in known.grants:
                    return True
                if known.keys.get(mark_of_key(NodeId(later.value.grantee)), -1) >= link.value.issued:
                    return True
        return False

    def numbers(self) -> dict[str, int]:
        """The number of each list, by the grantor's fingerprint."""
        return {fingerprint(known.signed.public): known.signed.value.number for known in self._lists.values()}

    def newer_than(self, numbers: dict[str, int]) -> list[bytes]:
        """The lists, as signed, that somebody with these numbers lacks."""
        return [
            known.signed.raw
            for known in self._lists.values()
            if known.signed.value.number > numbers.get(fingerprint(known.signed.public), -1)
        ]

    def summary(self) -> bytes:
        """8 bytes that are equal for who has the same lists."""
        told = "".join(f"{grantor} {number}\n" for grantor, number in sorted(self.numbers().items()))
        return blake2b(told.encode(), digest_size=8).digest()
