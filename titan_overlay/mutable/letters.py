"""What proves that a message stands in the outbox of a mutable object. No I/O.

    members sign what is in the outbox, each with its voting key
    signatures of t + 1 of them, the chain of epochs, the descriptor = a seal, which comes with the message

More have signed than can lie, so one of them found the message where the order has put it. A seal is checked against
the rules of the pool alone, without a look-up and without memory of what came before: where the members of its target
may lie, each checks for itself before it votes, and all find the same. Keys of an epoch that is over are erased
(`voting_keys.py`), so whoever takes an old member's disk seals nothing.

A letter is a request in no session, whose sender is an object's id and whose sequence is its number in the outbox.
"""

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import TypeVar

import msgspec

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity.ids import ObjectId, PoolId
from titan_overlay.identity.keys import verify_record
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import check_descriptor
from titan_overlay.mutable.engine import Configuration
from titan_overlay.mutable.epochs import MEMBERS_MAX, Chain, Charter, key_of
from titan_overlay.mutable.founding import charter_of
from titan_overlay.mutable.requests import DELIVERED, Request
from titan_overlay.wire import codec

T = TypeVar("T")

CHAINS_MAX = 1024
"""Whose proof is remembered, so that it is followed once and not for each letter."""


class Seal(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """See the module."""

    descriptor: bytes
    """Signed, of the object that sends."""
    chain: bytes
    """An encoded `Chain`: up to the epoch in which it was signed."""
    signatures: tuple[tuple[bytes, bytes], ...]
    """Member and signature."""


def letter(origin: bytes, number: int, type: str, body: bytes, seal: bytes = b"") -> Request:
    """A message of an outbox, as its target orders it."""
    return Request(origin, 0, number, 0, f"outbox/{number}", type, body, seal)


def arrival(member: bytes, number: int, signature: bytes = b"") -> Request:
    """What a member has ordered once it knows that a letter has arrived."""
    return Request(member, 0, 0, 0, f"arrived/{number}", DELIVERED, codec.encode(number), signature)


def covered(pool: PoolId, epoch: int, letter: Request, target: bytes) -> bytes:
    """What a member signs: I have found this in the outbox, for that object."""
    digest = sha256(letter.body).digest()
    return (
        b"titan/1/letter\0" + pool + codec.encode((letter.sender, epoch, letter.sequence, target, letter.type, digest))
    )


def covered_arrival(pool: PoolId, object_id: bytes, epoch: int, number: int) -> bytes:
    """What a member signs: this may leave the outbox, I know that it has arrived."""
    return b"titan/1/arrival\0" + pool + codec.encode((object_id, epoch, number))


def signers(configuration: Configuration, signatures: Mapping[bytes, bytes], statement: bytes) -> dict[bytes, bytes]:
    """Those of the signatures that are a member's."""
    return {
        member: signature
        for member, signature in signatures.items()
        if member in configuration.members and verify_record(key_of(configuration, member), signature, statement)
    }


def check_arrival(request: Request, charter: Charter, configuration: Configuration) -> None:
    """Raises Forbidden: it is nothing that a member has signed. BadMessage: it makes no sense."""
    number = codec.decode(request.body, int)
    if request != arrival(request.sender, number, request.proof):
        raise BadMessage("this is not how a member says that a letter has arrived")
    said = covered_arrival(charter.pool, charter.object_id, configuration.epoch, number)
    if not signers(configuration, {request.sender: request.proof}, said):
        raise Forbidden("only members say what may leave the outbox")


class Letters:
    """What a node knows of the seals that come to it."""

    def __init__(self, rights: Rights) -> None:
        self._rights = rights
        self._chains: OrderedDict[bytes, Configuration] = OrderedDict()
        """What each proves, by its hash and that of the descriptor."""
        self._latest: OrderedDict[bytes, int] = OrderedDict()
        """The last epoch that was seen, by genesis."""

    def check(self, letter: Request, target: bytes) -> None:
        """Whether it comes from the object that it names, for this target.

        Raises:
            Forbidden: it does not, as far as its seal shows.
        """
        self._opened(letter, target)

    def receive(self, letter: Request, target: bytes) -> None:
        """As `check`, for one that has just come: nothing is taken from an earlier epoch than one seen before."""
        genesis, epoch = self._opened(letter, target)
        if epoch < self._latest.get(genesis, 0):
            raise Forbidden(f"epoch {epoch} of the object that sends this is over")
        _remember(self._latest, genesis, epoch)

    def _opened(self, letter: Request, target: bytes) -> tuple[bytes, int]:
        """Genesis and epoch of who has sealed it."""
        try:
            seal = codec.decode(letter.proof, Seal)
            descriptor = check_descriptor(seal.descriptor, ObjectId(letter.sender), self._rights)
            charter = charter_of(descriptor, ObjectId(letter.sender), self._rights.pool)
            configuration = self._proven(charter, seal)
        except BadMessage as why:
            raise Forbidden(f"nothing shows that this comes out of an outbox: {why}") from None
        said = covered(self._rights.pool, configuration.epoch, letter, target)
        given = dict(seal.signatures[:MEMBERS_MAX])
        if len(signers(configuration, given, said)) <= charter.liars(configuration):
            raise Forbidden("too few members of the object that is said to send this have signed it")
        return charter.genesis, configuration.epoch

    def _proven(self, charter: Charter, seal: Seal) -> Configuration:
        """Who the members are. BadMessage: the chain does not hold."""
        key = sha256(seal.descriptor).digest() + sha256(seal.chain).digest()
        known = self._chains.get(key)
        if known is None:
            known = charter.current(codec.decode(seal.chain, Chain))
        _remember(self._chains, key, known)
        return known


def _remember(table: "OrderedDict[bytes, T]", key: bytes, value: T) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > CHAINS_MAX:
        table.popitem(last=False)
