"""What a group of each kind is made of: its engine, the decoders of its messages and records, its intake."""

from collections.abc import Iterable
from typing import Any

import msgspec

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage
from titan_overlay.identity.keys import verify
from titan_overlay.mutable.absences import Absences
from titan_overlay.mutable.authenticators import SharedKeys
from titan_overlay.mutable.bft import Bft
from titan_overlay.mutable.bft_committee import Committee
from titan_overlay.mutable.bft_messages import decode_message as decode_bft_message
from titan_overlay.mutable.bft_messages import decode_record as decode_bft_record
from titan_overlay.mutable.engine import Checkpoint, Configuration, Engine, EntryKind
from titan_overlay.mutable.epochs import Charter, Turnover
from titan_overlay.mutable.expected import Expected
from titan_overlay.mutable.front import Front
from titan_overlay.mutable.group import Group
from titan_overlay.mutable.intake import Intake
from titan_overlay.mutable.letters import Letters
from titan_overlay.mutable.proofs import Proofs
from titan_overlay.mutable.raft import Raft
from titan_overlay.mutable.raft_messages import decode_message, decode_record
from titan_overlay.mutable.repair import SUSPECT_SECONDS
from titan_overlay.mutable.voting_keys import GroupKeys
from titan_overlay.mutable.vouching import Vouching
from titan_overlay.mutable.waiting import Waiting
from titan_overlay.wire import codec


class RaftMaker:
    """Makes Raft engines."""

    def __init__(self, me: bytes, ambient: Ambient) -> None:
        self._me = me
        self._ambient = ambient

    def engine(self, configuration: Configuration, checkpoint: Checkpoint, records: Iterable[bytes]) -> Engine:
        decoded = [decode_record(raw) for raw in records]
        return Raft(self._me, configuration, checkpoint, decoded, self._ambient.random)

    def intake(self, group: Group, front: Front) -> Intake:
        return Waiting(group, front)

    def decode(self, raw: msgspec.Raw) -> Any:
        return decode_message(memoryview(raw))


class BftMaker:
    """Makes byzantine engines."""

    def __init__(
        self, me: bytes, keys: GroupKeys, charter: Charter, ambient: Ambient, absences: Absences, letters: Letters
    ) -> None:
        self._absences = absences
        self._configuration: Configuration
        self._me = me
        self._keys = keys
        self._charter = charter
        self._ambient = ambient
        self._shared = SharedKeys(ambient.token_bytes(32))
        self._proofs = Proofs(charter, self._shared, letters)

    def engine(self, configuration: Configuration, checkpoint: Checkpoint, records: Iterable[bytes]) -> Engine:
        keys = dict(zip(configuration.members, configuration.keys, strict=True))

        def verify_member(member: bytes, signature: bytes, statement: bytes) -> bool:
            return member in keys and verify(keys[member], signature, statement)

        committee = Committee(
            self._me, configuration, self._charter.pool, self._charter.object_id, self._keys.sign, verify_member
        )
        decoded = [decode_bft_record(raw) for raw in records]
        self._configuration = configuration
        self._proofs.sit(self._me, configuration)
        return Bft(committee, checkpoint, decoded, self._valid)

    def intake(self, group: Group, front: Front) -> Intake:
        return Expected(group, front, self._proofs, Vouching(group, self._proofs, self._shared))

    def _valid(self, kind: EntryKind, data: bytes) -> bool:
        """What this member votes for: requests of their senders, and successors of members that it misses itself."""
        if kind is EntryKind.COMMANDS:
            return self._proofs.holds(data, self._ambient.wall())
        try:
            turnover = codec.decode(data, Turnover)
            self._charter.check_turnover(turnover, self._configuration)
        except BadMessage:
            return False
        gone = set(self._configuration.members) - set(turnover.configuration.members)
        return all(self._absences.silent_for(each) >= SUSPECT_SECONDS / 2 for each in gone)

    def decode(self, raw: msgspec.Raw) -> Any:
        return decode_bft_message(memoryview(raw))
