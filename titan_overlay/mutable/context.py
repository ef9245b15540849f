"""What a handler of a mutable object is given: agreed time, agreed chance, and effects that wait for its end."""

from hashlib import sha256
from typing import Any

import msgspec

from titan_overlay.ambient import Random
from titan_overlay.errors import BadMessage, Overloaded
from titan_overlay.identity import names
from titan_overlay.mutable.in_order import in_order, may_have_sets
from titan_overlay.mutable.requests import LETTER_BYTES_MAX, Part
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.message import encode_message


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One call of a handler at its place in the order, with what was agreed for it: enough to execute it again."""

    sender: bytes
    """Public key."""
    parts: tuple[Part, ...]
    """The messages: one, or of a batch as many as its handler takes at once."""
    now: float
    seed: bytes
    height: int
    place: int
    """In the entry, from 1: timers that were due, then requests."""
    outbox_room: int = 0
    timers_room: int = 0
    """How many messages and timers it may order: a handler may notice that there is no room, and go on."""


class Effects:
    """What a handler orders while it runs; kept only if it ends well.

    Args:
        numbers: of messages and timers that have been ordered before.
    """

    __slots__ = ("later", "numbers", "timers")

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers
        self.later: list[tuple[int, str, str, bytes]] = []
        """Number, name, type and body of each message for the outbox."""
        self.timers: list[tuple[float, int, str, bytes]] = []
        """Agreed time, number, type and body of each message to itself."""


class OrderedContext(Context):
    """The context of a handler that all members run.

    Args:
        effects: where what it orders is kept; None: it is declared to change nothing.
    """

    __slots__ = ("_effects", "_random", "_turn")

    def __init__(self, sender: Sender, name: str, object_id: bytes, turn: Turn, effects: Effects | None) -> None:
        super().__init__(sender, name, object_id, 0.0, 0.0, _NOWHERE)
        self._turn = turn
        self._effects = effects
        self._random: Random | None = None

    @property
    def now(self) -> float:
        return self._turn.now

    @property
    def random(self) -> Random:
        if self._random is None:
            turn = self._turn
            place = turn.height.to_bytes(8, "big") + turn.place.to_bytes(4, "big")
            self._random = Random(int.from_bytes(sha256(turn.seed + place).digest(), "big"))
        return self._random

    def send_later(self, name: str, message: Any) -> None:
        names.check(name)
        if name.startswith("~me/"):
            raise BadMessage(f"{name!r} depends on who asks, and {self.name!r} is nobody's program: give the full name")
        effects = self._ordering()
        if len(effects.later) >= self._turn.outbox_room:
            raise Overloaded(f"the outbox of {self.name!r} is full: what is in it has not arrived yet")
        type_name, body = encode_message(_in_order(message))
        if len(type_name) + len(body) > LETTER_BYTES_MAX:
            raise BadMessage(
                f"a message to be sent later has {LETTER_BYTES_MAX} bytes at most, not {len(body)}: put it as data"
            )
        effects.numbers += 1
        effects.later.append((effects.numbers, name, type_name, body))

    def schedule(self, seconds: float, message: Any) -> None:
        if not 0 <= seconds < float("inf"):
            raise BadMessage(f"a message can be scheduled in 0 seconds or more, not {seconds}")
        effects = self._ordering()
        if len(effects.timers) >= self._turn.timers_room:
            raise Overloaded(f"{self.name!r} has as many messages scheduled as can be kept")
        type_name, body = encode_message(_in_order(message))
        effects.numbers += 1
        effects.timers.append((self._turn.now + seconds, effects.numbers, type_name, body))

    def _ordering(self) -> Effects:
        if self._effects is None:
            raise BadMessage(f"a handler of {self.name!r} that is declared @titan.readonly orders no messages")
        return self._effects


def _in_order(message: Any) -> Any:
    kind: Any = type(message)
    return in_order(message) if may_have_sets(kind) else message


class _Nowhere:
    """A handler that all members run waits for nobody: there is no way out but `send_later`."""

    async def send(self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /) -> bytes:
        raise TypeError("a handler of a mutable object cannot wait for others; use ctx.send_later")

    def stream(self, name: str, type: str, body: bytes, deadline: float, chain: tuple[bytes, ...], /) -> Any:
        raise TypeError("a handler of a mutable object cannot wait for others; use ctx.send_later")


_NOWHERE = _Nowhere()
