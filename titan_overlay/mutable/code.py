"""The code that a group runs: part of its state, because members must change it at the same height."""

from collections.abc import Callable
from hashlib import sha256

import msgspec

from titan_overlay.mutable.declare import MutableType


class NewCode(msgspec.Struct, frozen=True, array_like=True):
    """A class that takes the place of the one before."""

    type: str
    """Its name in the bundle."""
    owner: bytes
    """Public key that has signed the bundle: that of the object's publisher."""
    bundle: bytes

    @property
    def digest(self) -> bytes:
        """What it is known by."""
        return sha256(self.type.encode() + b"\0" + self.owner + self.bundle).digest()


class LacksCode(Exception):
    """This member cannot run what the others run; the text says why."""


def lacking(why: LacksCode) -> str:
    """Why a member takes no part."""
    return f"it cannot run the object's present code: {why}"


Load = Callable[[NewCode], MutableType]
"""Raises LacksCode."""


def no_code(new: NewCode) -> MutableType:
    """For machines that never get any."""
    raise LacksCode("no new code is taken here")
