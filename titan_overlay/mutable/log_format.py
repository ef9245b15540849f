"""The bytes of the write-ahead log: batches in segments, and what a damaged one proves.

    segment = header | batch | batch | ... | zeros
    header  = "titanlog" | version u8 = 1 | node 32 | log identity 32 | number u64 | first sequence u64 | CRC u32
    batch   = "TBAT" | sequence u64 | length u32 | CRC u32 | payload (msgpack: a list of `Written`)

A batch is what one fsync made durable, and the next one is written only after that. So at most the very last batch
may be torn, by a crash before it was acknowledged: it is cut off. Where anything whole *follows* bytes that are not,
something durable was lost: that is `Damage`, and what is left cannot be trusted to be all that was promised. (Alagappan
et al., "Protocol-Aware Recovery for Consensus-Based Storage", FAST 2018, tells the two cases apart so. Rot in the very
last batch looks like a tear: only the other members of a group, asked on restart, can tell.)

The zeros are room for batches to come: a file that grows with each of them has its size made durable as well each time.

The CRC starts from the log's identity, which is secret, so that nobody's message can hold something like a batch.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final
from zlib import crc32

import msgspec

from titan_overlay.errors import StorageError

MAGIC: Final = b"titanlog\x01"
BATCH_MAGIC: Final = b"TBAT"
HEADER_BYTES: Final = len(MAGIC) + 32 + 32 + 8 + 8 + 4
BATCH_HEADER_BYTES: Final = 20
PAYLOAD_BYTES_MAX: Final = 1 << 30


class Damage(StorageError):
    """Something that was durable is gone or changed."""


class Act(IntEnum):
    """What a write does to a group's records."""

    APPEND = 0
    REPLACE = 1
    """Everything before is void: the records that follow say all. The first write of a group is one."""
    DROP = 2
    """The group is gone from this log."""
    BEGIN = 3
    """The first piece of all that the group needs; what it appends from here on comes after that."""
    PIECE = 4
    END = 5
    """With the last piece. From here on the pieces from `BEGIN` on are what a `REPLACE` there would have been."""


class Written(msgspec.Struct, frozen=True, array_like=True):
    """What one group wrote at once."""

    group: bytes
    act: Act
    records: list[bytes]


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """The file that makes a directory a log: whose it is, and which segments it must have."""

    node: bytes
    """32 bytes: id of the node."""
    log: bytes
    """32 random bytes, never told as such: a log that was lost and begun anew is another."""
    first: int
    last: int
    """The segment after it may be there too, if the node died while it was made."""


_payload: Final = msgspec.msgpack.Decoder(list[Written])
_identity: Final = msgspec.msgpack.Decoder(Identity)


def segment_name(number: int) -> str:
    """Of the file."""
    return f"{number:016}.log"


def encode_identity(identity: Identity) -> bytes:
    """The identity file."""
    body = msgspec.msgpack.encode(identity)
    return crc32(body).to_bytes(4) + body


def decode_identity(raw: bytes) -> Identity:
    """Raises Damage."""
    try:
        if crc32(raw[4:]).to_bytes(4) == raw[:4]:
            return _identity.decode(raw[4:])
    except (msgspec.MsgspecError, RecursionError):
        pass
    raise Damage("the identity file of the log is damaged")


def encode_header(identity: Identity, number: int, sequence: int) -> bytes:
    """How a segment begins whose first batch has that sequence number."""
    body = MAGIC + identity.node + identity.log + number.to_bytes(8) + sequence.to_bytes(8)
    return body + crc32(body).to_bytes(4)


def first_sequence(identity: Identity, number: int, raw: bytes) -> int:
    """Sequence number of a segment's first batch. Raises Damage: this is not how that segment of that log begins."""
    body, crc = raw[: HEADER_BYTES - 4], raw[HEADER_BYTES - 4 : HEADER_BYTES]
    if not body.startswith(MAGIC) or crc != crc32(body).to_bytes(4):
        raise Damage(f"the beginning of segment {segment_name(number)} is damaged")
    if body[:-8] != MAGIC + identity.node + identity.log + number.to_bytes(8):
        owner = body[len(MAGIC) : len(MAGIC) + 32].hex()
        raise Damage(f"segment {segment_name(number)} is from another log, or another place in it (node {owner})")
    return int.from_bytes(body[-8:])


def encode_batch(identity: Identity, sequence: int, writes: Sequence[Written]) -> bytes:
    """Raises StorageError: too large for one batch."""
    payload = msgspec.msgpack.encode(writes)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise StorageError(f"{len(payload)} bytes are too many for one write to the log ({PAYLOAD_BYTES_MAX} at most)")
    start = BATCH_MAGIC + sequence.to_bytes(8) + len(payload).to_bytes(4)
    return start + _crc(identity, start, payload).to_bytes(4) + payload


def _crc(identity: Identity, start: bytes | memoryview, payload: bytes | memoryview) -> int:
    return crc32(payload, crc32(start, crc32(identity.log)))


class Scan:
    """What is whole in a segment.

    `batches`: in order. `sequence`: the number that the next one will have. `end`: the offset where they end. `torn`:
    bytes follow that are neither a batch nor room for one.

    Raises:
        Damage: the beginning is not that of this segment, or something whole follows what is not.
    """

    def __init__(self, identity: Identity, number: int, raw: bytes) -> None:
        self.batches: list[list[Written]] = []
        self.first = self.sequence = first_sequence(identity, number, raw)
        self.end = HEADER_BYTES
        while (found := _batch_at(identity, raw, self.end, self.sequence)) is not None:
            writes, self.end = found
            self.batches.append(writes)
            self.sequence += 1
        self.torn = raw.count(0, self.end) < len(raw) - self.end
        if self.torn and _any_batch(identity, raw, self.end):
            raise Damage(f"segment {segment_name(number)} is damaged at byte {self.end}, but intact behind it")


def _batch_at(
    identity: Identity, raw: bytes, offset: int, sequence: int | None = None
) -> tuple[list[Written], int] | None:
    """The batch at an offset and where it ends, if there is one, with that sequence number or with any."""
    head = raw[offset : offset + BATCH_HEADER_BYTES]
    if len(head) < BATCH_HEADER_BYTES or not head.startswith(BATCH_MAGIC):
        return None
    if sequence is not None and head[4:12] != sequence.to_bytes(8):
        return None
    end = offset + BATCH_HEADER_BYTES + int.from_bytes(head[12:16])
    if end > len(raw):
        return None
    payload = memoryview(raw)[offset + BATCH_HEADER_BYTES : end]
    if head[16:] != _crc(identity, head[:16], payload).to_bytes(4):
        return None
    try:
        return _payload.decode(payload), end
    except (msgspec.MsgspecError, RecursionError):
        raise Damage("a batch of the log is whole, but was written by another version of this program") from None


def _any_batch(identity: Identity, raw: bytes, offset: int) -> bool:
    """Whether a whole batch begins anywhere behind an offset."""
    place = raw.find(BATCH_MAGIC, offset + 1)
    while place >= 0:
        if _batch_at(identity, raw, place) is not None:
            return True
        place = raw.find(BATCH_MAGIC, place + 1)
    return False


class Contents:
    """What the groups have written: their records in order, and the segment from which on they are needed."""

    def __init__(self) -> None:
        self.records: dict[bytes, list[bytes]] = {}
        self.since: dict[bytes, int] = {}
        self._anew: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
        """Of groups that have not said everything anew yet: the pieces so far, and what was appended since."""
        self._begun: dict[bytes, int] = {}
        """The segment in which they began with that."""
        self._headless: set[bytes] = set()
        """Groups whose first write is gone: in order only if they said everything anew later on."""

    def take(self, segment: int, batch: Sequence[Written]) -> None:
        """A batch that was read from a segment."""
        for write in batch:
            self._read(write)
        self.note(segment, batch)

    def _read(self, write: Written) -> None:
        group, records = write.group, write.records
        pieces, since = self._anew.get(group, (None, []))
        if write.act is Act.APPEND:
            since += records
            if group in self.records:
                self.records[group] += records
            else:
                self._headless.add(group)
            return
        if write.act is Act.BEGIN:
            self._anew[group] = (list(records), [])
            return
        if write.act in (Act.PIECE, Act.END):
            if pieces is None:
                self._headless.add(group)
                return
            pieces += records
            if write.act is Act.PIECE:
                return
            records = pieces + since
        self._anew.pop(group, None)
        self._headless.discard(group)
        if write.act is Act.DROP:
            self.records.pop(group, None)
        else:
            self.records[group] = list(records)

    def check(self) -> None:
        """After the last batch. Raises Damage: what a group began with is missing."""
        self._anew.clear()  # what was not said to its end does not count
        if self._headless:
            names = ", ".join(sorted(group.hex()[:8] for group in self._headless))
            raise Damage(f"the log lost the beginning of {len(self._headless)} groups ({names})")

    def note(self, segment: int, batch: Sequence[Written]) -> None:
        """A batch that is durable in a segment."""
        for write in batch:
            group = write.group
            if write.act is Act.BEGIN:
                self._begun[group] = segment
            elif write.act is Act.END:
                self.since[group] = self._begun.pop(group, segment)
            elif write.act in (Act.REPLACE, Act.DROP):
                self._begun.pop(group, None)
                self.since.pop(group, None)
                if write.act is Act.REPLACE:
                    self.since[group] = segment

    def first_needed(self, current: int) -> int:
        """The oldest segment that any group still needs; `current` if none does."""
        return min(self.since.values(), default=current)
