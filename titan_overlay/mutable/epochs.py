"""Epochs: the memberships of a group, each certified by a quorum of the one before it. No I/O.

    descriptor.genesis = hash of configuration 1
    configuration e + 1, final height and state of e   signed by Q members of e, with their voting keys of e

So whoever has the descriptor can check who the members are now, however often they changed, without trusting any of
them. Members have a voting key for each epoch (`voting_keys.py`): the one for the next is signed with the one of this.
"""

from collections.abc import Iterable
from hashlib import sha256

import msgspec

from titan_overlay.errors import BadMessage, Forbidden
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import verify_record
from titan_overlay.mutable.engine import Checkpoint, Configuration, Count
from titan_overlay.wire import codec

EPOCHS_MAX = 4096
MEMBERS_MAX = 64
EPOCHS_SKIPPED = 1 << 20
"""By which a recovery goes beyond any epoch that the lost quorum may have begun."""


class Start(msgspec.Struct, frozen=True, array_like=True):
    """What a quorum of one epoch says about the next."""

    object_id: bytes
    configuration: Configuration
    """Of the epoch that begins."""
    final: Count
    """Height of the stop sign: the last that the old epoch has executed."""
    root: bytes
    """Hash of the state there, sessions and all."""
    previous: bytes
    """Hash of the configuration that signs."""

    @property
    def checkpoint(self) -> Checkpoint:
        """From where the new epoch goes on."""
        return Checkpoint(self.final, 0, self.root)


class KeyOffer(msgspec.Struct, frozen=True, array_like=True):
    """With which key a member will vote in the next epoch."""

    member: bytes
    key: bytes
    signature: bytes
    """With its key of this epoch."""


class Turnover(msgspec.Struct, frozen=True, array_like=True):
    """The stop sign's content: who the members will be."""

    configuration: Configuration
    offers: tuple[KeyOffer, ...] = ()
    """Of the members that stay and have a new key."""


class Confirmation(msgspec.Struct, frozen=True, array_like=True):
    """One old member's signature under a start."""

    start: bytes
    member: bytes
    signature: bytes


class Certificate(msgspec.Struct, frozen=True, array_like=True):
    """A start, and the signatures of a quorum."""

    start: bytes
    signatures: tuple[tuple[bytes, bytes], ...]
    """Member and signature."""
    recovery: bytes = b""
    """Instead of theirs, the signature of the object's owner: the quorum was lost for good."""


class RecoveryOrder(msgspec.Struct, frozen=True, array_like=True):
    """What the owner says to the members that are left of a group that has lost its quorum for good."""

    object_id: bytes
    previous: bytes
    """Hash of the configuration that is given up."""
    configuration: Configuration
    """Of those that are left."""


class Legacy(msgspec.Struct, frozen=True, array_like=True):
    """From where a member would go on by itself."""

    start: bytes
    """A `Start`."""
    term: Count
    """Of its last entry: the later, the more is in its log."""


class Chain(msgspec.Struct, frozen=True, array_like=True):
    """The memberships of a group from its founding on."""

    genesis: Configuration
    certificates: tuple[Certificate, ...] = ()


def configuration_hash(configuration: Configuration) -> bytes:
    """What a descriptor, and the next epoch, name a configuration by. Learners do not count."""
    voters = msgspec.structs.replace(configuration, learners=())
    return sha256(b"titan/1/configuration\0" + codec.encode(voters)).digest()


def covered(pool: PoolId, start: bytes) -> bytes:
    """What a confirmation signs."""
    return b"titan/1/epoch\0" + pool + start


def covered_recovery(pool: PoolId, statement: bytes) -> bytes:
    """What an owner signs: an order, and then a start."""
    return b"titan/1/recovery\0" + pool + statement


def covered_key(pool: PoolId, object_id: bytes, epoch: int, key: bytes) -> bytes:
    """What an offer of a key for that epoch signs."""
    return b"titan/1/voting-key\0" + pool + object_id + codec.encode((epoch, key))


def check_confirmation(confirmation: Confirmation, old: Configuration, pool: PoolId) -> Start:
    """The start that a member of `old` confirms.

    Raises:
        BadMessage: it is no member, it signed something else, or what it signed does not follow.
    """
    start = codec.decode(confirmation.start, Start)
    if start.previous != configuration_hash(old):
        raise BadMessage(f"this does not follow epoch {old.epoch}")
    check_follows(start.configuration, old)
    if confirmation.member not in old.members:
        raise BadMessage("the signer is no member of the epoch that ends")
    if not verify_record(key_of(old, confirmation.member), confirmation.signature, covered(pool, confirmation.start)):
        raise BadMessage("the signature under the next epoch is false")
    return start


def check_follows(new: Configuration, old: Configuration) -> None:
    """Raises BadMessage: that cannot be the next configuration."""
    if new.epoch != old.epoch + 1:
        raise BadMessage(f"this is not what follows epoch {old.epoch}")
    check_configuration(new)
    grown = len(new.members) - len(old.members)
    # Nor none: a leader that lies could end epochs for nothing until there may be no more of them.
    if grown not in (0, 1) or len(set(new.members) - set(old.members)) != 1:
        raise BadMessage("an epoch has one new member, in another's place or beside the others")


def check_configuration(configuration: Configuration) -> None:
    """Raises BadMessage: no group looks like this."""
    members = configuration.members
    if (
        not 1 <= len(members) <= MEMBERS_MAX
        or list(members) != sorted(set(members))
        or len(configuration.keys) != len(members)
        or any(len(each) != 32 for each in (*members, *configuration.keys))
        or configuration.epoch < 1
    ):
        raise BadMessage("no configuration of a group looks like this")


class Charter(msgspec.Struct, frozen=True):
    """What a descriptor fixes for good: all that a chain of epochs is checked against."""

    object_id: bytes
    pool: PoolId
    genesis: bytes
    """Hash of the first configuration."""
    byzantine: bool
    owner: bytes
    """Public key of the publisher, who alone may give up a quorum that is lost."""
    size: int
    """Members that the policy asks for: fewer only after a recovery."""

    def current(self, chain: Chain) -> Configuration:
        """The latest configuration that the chain proves.

        Raises:
            BadMessage: a link of it does not hold.
        """
        check_configuration(chain.genesis)
        if configuration_hash(chain.genesis) != self.genesis or chain.genesis.epoch != 1:
            raise BadMessage("these are not the members that the descriptor names")
        if len(chain.certificates) > EPOCHS_MAX:
            raise BadMessage(f"more than {EPOCHS_MAX} epochs")
        configuration = chain.genesis
        for certificate in chain.certificates:
            configuration = self.follows(certificate, configuration).configuration
        return configuration

    def follows(self, certificate: Certificate, old: Configuration) -> Start:
        """What follows `old`, proven by a quorum of it, or ordered by the owner. BadMessage: it is not."""
        if certificate.recovery:
            return self._recovered(certificate, old)
        signers = set()
        start: Start | None = None
        for member, signature in certificate.signatures[:MEMBERS_MAX]:
            start = check_confirmation(Confirmation(certificate.start, member, signature), old, self.pool)
            signers.add(member)
        if start is None or start.object_id != self.object_id or len(signers) < self.quorum(old):
            raise BadMessage(f"no quorum of epoch {old.epoch} has signed this")
        self._check_number(start.configuration, old)
        return start

    def _check_number(self, new: Configuration, old: Configuration) -> None:
        """Raises BadMessage: a byzantine group grows only after a recovery, and to its policy's number."""
        if self.byzantine and len(new.members) > max(self.size, len(old.members)):
            raise BadMessage("how many members may lie follows from their number, which the policy fixes")

    def _recovered(self, certificate: Certificate, old: Configuration) -> Start:
        if not verify_record(self.owner, certificate.recovery, covered_recovery(self.pool, certificate.start)):
            raise BadMessage("the owner has not signed this recovery")
        start = codec.decode(certificate.start, Start)
        self._check_left(start.object_id, start.previous, start.configuration, old)
        return start

    def check_order(self, order: RecoveryOrder, signature: bytes, old: Configuration) -> None:
        """Raises Forbidden: it is not the owner's. BadMessage: it is about another group, or members that are none."""
        if not verify_record(self.owner, signature, covered_recovery(self.pool, codec.encode(order))):
            raise Forbidden("only the key that published an object may recover it")
        self._check_left(order.object_id, order.previous, order.configuration, old)

    def _check_left(self, object_id: bytes, previous: bytes, left: Configuration, old: Configuration) -> None:
        check_configuration(left)
        named = dict(zip(old.members, old.keys, strict=True))
        if (
            object_id != self.object_id
            or previous != configuration_hash(old)
            or left.epoch != old.epoch + EPOCHS_SKIPPED
            or any(named.get(member) != key_of(left, member) for member in left.members)
        ):
            raise BadMessage(f"this is no recovery of epoch {old.epoch} by members that are left of it")

    def check_offer(self, offer: KeyOffer, old: Configuration) -> None:
        """Raises BadMessage: the member has not said that this will be its key."""
        said = covered_key(self.pool, self.object_id, old.epoch + 1, offer.key)
        if offer.member not in old.members or not verify_record(key_of(old, offer.member), offer.signature, said):
            raise BadMessage("this is no offer of a key by a member")

    def check_turnover(self, turnover: Turnover, old: Configuration) -> None:
        """Raises BadMessage: this cannot be how the epoch ends."""
        new = turnover.configuration
        check_follows(new, old)
        self._check_number(new, old)
        offered = {each.member: each for each in turnover.offers[:MEMBERS_MAX]}
        for member in set(new.members) & set(old.members):
            if key_of(new, member) == key_of(old, member):
                continue
            offer = offered.get(member)
            if offer is None or offer.key != key_of(new, member):
                raise BadMessage("a member that stays has another key, and has not said so")
            self.check_offer(offer, old)

    def quorum(self, configuration: Configuration) -> int:
        """Any two have an honest member in common: a majority, and where members may lie 2t + 1 of 3t + 1."""
        return (len(configuration.members) + self.liars(configuration)) // 2 + 1

    def liars(self, configuration: Configuration) -> int:
        """So many members may lie."""
        return (len(configuration.members) - 1) // 3 if self.byzantine else 0

    @property
    def most_liars(self) -> int:
        """The same, of as many members as the policy asks for."""
        return (self.size - 1) // 3 if self.byzantine else 0


class Handover:
    """The end of an epoch at one member: its own confirmation, and those of others, until there is a certificate."""

    def __init__(self, charter: Charter, old: Configuration) -> None:
        self.old = old
        self._pool = charter.pool
        self._needed = charter.quorum(old)
        self._signatures: dict[bytes, dict[bytes, bytes]] = {}
        """By start (members that lie may sign several), by member."""

    def add(self, confirmation: Confirmation) -> Certificate | None:
        """One more; the certificate, once there are enough under the same start.

        Raises:
            BadMessage: it does not hold.
        """
        check_confirmation(confirmation, self.old, self._pool)
        for start, signatures in self._signatures.items():
            if start != confirmation.start and confirmation.member in signatures:
                raise BadMessage("a member has signed two starts of one epoch")
        signatures = self._signatures.setdefault(confirmation.start, {})
        signatures[confirmation.member] = confirmation.signature
        if len(signatures) < self._needed:
            return None
        return Certificate(confirmation.start, tuple(sorted(signatures.items())))


def replaced(old: Configuration, gone: bytes, newcomer: bytes, key: bytes, offers: tuple[KeyOffer, ...]) -> Turnover:
    """The next configuration: `gone` less (b"": nobody), one more, and new keys for those that have offered one."""
    keys = dict(zip(old.members, old.keys, strict=True)) | {each.member: each.key for each in offers}
    keys.pop(gone, None)
    return Turnover(configured(old.epoch + 1, [*keys.items(), (newcomer, key)]), offers)


def key_of(configuration: Configuration, member: bytes) -> bytes:
    """With which a member votes."""
    return configuration.keys[configuration.members.index(member)]


def configured(epoch: int, pairs: Iterable[tuple[bytes, bytes]]) -> Configuration:
    """A configuration of members and their voting keys, in its one order."""
    ordered = sorted(pairs)
    return Configuration(epoch, tuple(m for m, _ in ordered), keys=tuple(k for _, k in ordered))
