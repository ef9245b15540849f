"""What a group is given by the node that it lives on."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from titan_overlay.mutable.engine import Checkpoint, Configuration, Engine
from titan_overlay.mutable.intake import Intake

if TYPE_CHECKING:
    from titan_overlay.mutable.front import Front
    from titan_overlay.mutable.group import Group


class Peers(Protocol):
    """The way to the other members."""

    def post(self, member: bytes, type: str, body: bytes) -> None:
        """Sends and forgets: what is lost is lost."""

    async def ask(self, member: bytes, type: str, body: bytes, timeout: float) -> bytes:
        """Raises LinkError or RemotableError: no answer."""
        ...

    def where(self, member: bytes) -> bytes:
        """The addresses at which a member can be reached, packed; empty: they are not known here."""
        ...


class EpochLog(Protocol):
    """One epoch of this group in the node's write-ahead log."""

    records: list[bytes]
    """What was found of it when the log was opened."""

    @property
    def crowded(self) -> bool:
        """The disk does not keep up: no more should come to it until it does."""
        ...

    def append(self, records: list[Any]) -> "asyncio.Future[None]":
        """Done when they, and all before them, are durable. StorageError: the disk is full or broken."""
        ...

    def compact(self, image: Iterable[Any]) -> bool:
        """These records are worth all that were appended before. False: the disk does not keep up as it is, and all
        stays as it is.
        """
        ...

    def drop(self) -> None:
        """The epoch is over for good."""


class Logs(Protocol):
    """The epochs of this group in the node's log."""

    def open(self, epoch: int) -> EpochLog: ...


class Maker(Protocol):
    """Makes the engine of an epoch, knows its messages, and brings the intake that goes with it."""

    def intake(self, group: "Group", front: "Front") -> Intake: ...

    def engine(self, configuration: Configuration, checkpoint: Checkpoint, records: Iterable[bytes]) -> Engine: ...

    def decode(self, raw: msgspec.Raw) -> Any:
        """A message of the engine. BadMessage: it is none."""
