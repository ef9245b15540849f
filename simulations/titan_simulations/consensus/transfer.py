"""A state goes from one machine to another, in pieces, pulled by the one that needs it."""

from typing import TYPE_CHECKING

from titan_simulations.consensus.bodies import AskState, Saved, StatePiece

if TYPE_CHECKING:
    from titan_simulations.consensus.machine import Machine

PIECE_BYTES = 400
PATIENCE_SECONDS = 0.2
TRIES = 10


class Transfer:
    """One machine's part: what it gives, and what it is fetching."""

    def __init__(self, machine: "Machine") -> None:
        self.machine = machine
        self._source: bytes | None = None
        self._index = 0
        self._total = 0
        self._data = b""
        self._tries = 0

    def begin(self, source: bytes) -> None:
        """Fetches the newest state of a machine, unless a state is on its way already."""
        if self._source is None:
            self._source, self._index, self._data, self._tries = source, 0, b"", 0
            self._ask()
            self._watch(len(self._data))

    def give(self, target: bytes, asked: AskState) -> None:
        """A piece of the newest snapshot; of the one that was begun with, if that is still it."""
        raw = self.machine.disk.snapshot
        if raw is not None:
            index = Saved.decode(raw).checkpoint.index
            offset = asked.offset if asked.index == index else 0
            piece = StatePiece(index, offset, len(raw), raw[offset : offset + PIECE_BYTES])
            self.machine.transmit(target, piece)

    def take(self, source: bytes, piece: StatePiece) -> None:
        """A piece has come."""
        if source != self._source:
            return
        if piece.index != self._index:
            self._index, self._data = piece.index, b""
        if piece.offset != len(self._data):
            return
        self._data += piece.data
        if len(self._data) < piece.total:
            self._ask()
            return
        self._source = None
        saved = Saved.decode(self._data)
        machine = self.machine
        if not machine.world.truth.certifies(saved):
            return  # from a liar
        if saved.checkpoint.index > machine.executed or saved.configuration.epoch > machine.epoch:
            machine.save(saved, lambda: machine.install(saved))

    def _ask(self) -> None:
        assert self._source is not None
        self.machine.transmit(self._source, AskState(self._index, len(self._data)))

    def _watch(self, before: int) -> None:
        """Asks again where a piece was lost, and gives up where nothing comes."""

        def look() -> None:
            if self._source is None:
                return
            if len(self._data) == before:
                self._tries += 1
                if self._tries > TRIES:
                    self._source = None
                    return
                self._ask()
            self._watch(len(self._data))

        self.machine.after(PATIENCE_SECONDS, look)
