"""What members of a Raft group say to each other, and what they write down.

All decoders are total: any bytes give a value or `BadMessage`.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from titan_overlay.mutable.decoding import Bytes, total
from titan_overlay.mutable.engine import Checkpoint, Count, Entry

# ---- messages ------------------------------------------------------------------------------------------------


class AppendEntries(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Leader to all: entries that follow `prev_index`, or none (a heartbeat)."""

    term: Count
    round: Count
    """The leader's latest question "do you still follow me?"; the reply answers it (thesis, section 6.4)."""
    prev_index: Count
    prev_term: Count
    commit: Count
    entries: list[Entry]


class AppendReply(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The log has what the leader's has up to `prev_index`; up to `match` it is durable too."""

    term: Count
    round: Count
    match: Count


class AppendRejected(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """There is nothing, or another entry, at `prev_index`."""

    term: Count
    round: Count
    prev_index: Count
    hint_index: Count
    """No entry above it can match; `hint_term` is the term there (a whole term is skipped at once, section 5.3)."""
    hint_term: Count


class InstallSnapshot(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """Leader to one that needs entries which are gone: fetch this state instead."""

    term: Count
    round: Count
    checkpoint: Checkpoint


class PreVote(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """Would you vote for me in this term, which I have not begun? (thesis, section 9.6)"""

    term: Count
    last_index: Count
    last_term: Count


class PreVoteReply(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """Granted: the term that was asked about. Otherwise the voter's own."""

    term: Count
    granted: bool


class RequestVote(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    """A candidate asks for a vote in the term that it has begun."""

    term: Count
    last_index: Count
    last_term: Count


class VoteReply(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """A vote, or none."""

    term: Count
    granted: bool


class TimeoutNow(msgspec.Struct, frozen=True, array_like=True, tag=9, gc=False):
    """Leader to its successor: stand for election at once (thesis, section 3.10)."""

    term: Count


class Sleep(msgspec.Struct, frozen=True, array_like=True, tag=10, gc=False):
    """Leader to all: everything up to `index`, the last, is committed; expect no heartbeats until there is news."""

    term: Count
    index: Count


class ReadIndex(msgspec.Struct, frozen=True, array_like=True, tag=11, gc=False):
    """Member to leader: at which index may I read?"""

    nonce: Count
    """Of the member's run, so that an answer to an earlier run cannot be taken for one to this."""
    ref: Count


class ReadIndexReply(msgspec.Struct, frozen=True, array_like=True, tag=12, gc=False):
    """The read may be executed once `index` has been, which is committed."""

    term: Count
    nonce: Count
    ref: Count
    index: Count


Message = (
    AppendEntries
    | AppendReply
    | AppendRejected
    | InstallSnapshot
    | PreVote
    | PreVoteReply
    | RequestVote
    | VoteReply
    | TimeoutNow
    | Sleep
    | ReadIndex
    | ReadIndexReply
)

# ---- records -------------------------------------------------------------------------------------------------


class HardState(msgspec.Struct, frozen=True, array_like=True, tag=20, gc=False):
    """`currentTerm` and `votedFor` of the paper's figure 2."""

    term: Count
    vote: bytes | None


class LogEntries(msgspec.Struct, frozen=True, array_like=True, tag=21, gc=False):
    """Entries that follow each other. What the log had at and above the first is gone."""

    entries: list[Entry]


class LogBase(msgspec.Struct, frozen=True, array_like=True, tag=22, gc=False):
    """The log begins after this entry. If the log has that entry, what follows it stays; else nothing does."""

    index: Count
    term: Count


Record = HardState | LogEntries | LogBase

decode_message: Final[Callable[[Bytes], Message]] = total(Message, "a message between members of a group")
"""Raises BadMessage: these bytes are no message of this engine."""
decode_record: Final[Callable[[Bytes], Record]] = total(Record, "a record of a Raft log")
"""Raises BadMessage: these bytes are no record of this engine."""
