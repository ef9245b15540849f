"""The object that is kept consistent here: numbers by key, with client sessions, so that nothing is done twice."""

from enum import IntEnum
from hashlib import blake2b
from typing import Self

import msgspec

from titan_simulations.checkers import Step


class Action(IntEnum):
    """What a client may want of a key."""

    READ = 0
    WRITE = 1
    ADD = 2
    """Its result is the sum: one that was done twice shows."""


class Request(msgspec.Struct, frozen=True, array_like=True):
    """One operation of a client. `sequence` counts a client's requests; a repetition has the same."""

    client: int
    sequence: int
    action: Action
    key: int
    value: int
    proof: bytes = b""
    """The client's signature, for members that do not believe each other."""

    def proven(self) -> "Request":
        """As its client signs it, and nobody else."""
        said = b"%d %d %d %d %d" % (self.client, self.sequence, self.action, self.key, self.value)
        return msgspec.structs.replace(self, proof=blake2b(said, key=b"key of client", digest_size=16).digest())


def apply(state: int, what: tuple[Action, int]) -> tuple[int, int | None]:
    """What one machine alone would do with one key: the model that histories are checked against."""
    action, value = what
    match action:
        case Action.WRITE:
            return value, None
        case Action.ADD:
            return state + value, state + value
        case _:
            return state, state


MODEL: Step = apply


class Store(msgspec.Struct, array_like=True):
    """State of one replica. All of it is in every snapshot."""

    values: dict[int, int] = {}
    sessions: dict[int, tuple[int, int | None]] = {}
    """For each client the sequence of its last request, and the reply."""
    done: list[tuple[int, int]] = []
    """(client, sequence) of all that was really done, in order: no part of the object, but what it is judged by."""

    def execute(self, request: Request) -> int | None:
        """Does it, or, if it was done before, gives the reply that was given then."""
        last, reply = self.sessions.get(request.client, (-1, None))
        if request.sequence <= last:
            return reply
        self.values[request.key], reply = apply(self.values.get(request.key, 0), (request.action, request.value))
        self.sessions[request.client] = (request.sequence, reply)
        if request.action is not Action.READ:
            self.done.append((request.client, request.sequence))
        return reply

    def read(self, key: int) -> int:
        """Without an entry in the order."""
        return self.values.get(key, 0)

    def encode(self) -> bytes:
        """For a snapshot."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """From a snapshot."""
        return msgspec.msgpack.decode(raw, type=cls)
