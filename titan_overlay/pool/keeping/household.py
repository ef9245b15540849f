"""What the keeper needs of the rest of the node, as protocols: tests play them."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from titan_overlay.identity.conduct import Conduct
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Descriptor, Tombstone
from titan_overlay.pool.keeping.advertiser import Announcing
from titan_overlay.pool.keeping.roster import Replica
from titan_overlay.pool.orders import Accepted, Recruit


class Found(Protocol):
    """What the directory knows about an object."""

    @property
    def advertisements(self) -> Sequence[Signed[Advertisement]]: ...
    @property
    def tombstones(self) -> Sequence[Signed[Tombstone]]: ...
    @property
    def asked(self) -> int: ...


class Network(Announcing, Protocol):
    """What the keeper needs of the overlay."""

    @property
    def contact(self) -> Contact:
        """Where this node can be reached."""
        ...

    @property
    def conduct(self) -> Conduct:
        """What is remembered of peers that misbehave."""
        ...

    async def find_holders(self, object_id: ObjectId, *, everything: bool = False) -> Found:
        """Asks the region of the object."""
        ...

    async def call(self, contact: Contact, method: str, body: bytes, *, purpose: int) -> bytes:
        """One request in a session, booked as `purpose`. Raises LinkError when no answer came."""
        ...

    def serve(self, method: str, handler: Callable[[Contact, bytes], bytes]) -> None:
        """Answers requests of that method."""
        ...


class Recruited(Protocol):
    """Who accepted."""

    @property
    def accepted(self) -> Sequence[Signed[Advertisement]]: ...


class Recruiting(Protocol):
    """Finds nodes that take a replica."""

    async def recruit(
        self,
        descriptor: Signed[Descriptor],
        *,
        count: int,
        exclude: Sequence[NodeId] = (),
        holders: Sequence[Signed[Advertisement]] = (),
    ) -> Recruited:
        """Up to `count` new holders. `holders`: the present ones."""
        ...


class Household(Protocol):
    """What the engine leaves to the keeper."""

    def own_advertisement(self, object_id: ObjectId) -> Signed[Advertisement] | None:
        """What this node advertises about a replica."""
        ...

    def offered(self, replica: Replica) -> Signed[Descriptor]:
        """What others are shown who are asked to hold it too."""
        ...

    async def drop(self, replica: Replica) -> None:
        """Lets go of a replica."""
        ...

    async def learn_tombstone(self, replica: Replica, raw: bytes) -> None:
        """Somebody says that it was deleted: checks and obeys."""
        ...

    async def upgrade(self, replica: Replica, contact: Contact) -> None:
        """`contact` holds a newer version."""
        ...


class Admitting(Protocol):
    """Takes replicas in and lets go of them."""

    def host_grant(self, name: str) -> bytes:
        """This node's grant to host the object with that name, or empty."""
        ...

    async def recruit(self, order: Recruit, sender: Contact, taken: Any) -> Accepted:
        """Takes a replica in. Raises RemotableError saying why not."""
        ...

    async def release(self, object_id: ObjectId) -> None:
        """Drops everything that was kept for a replica."""
        ...

    def pins(self, object_id: ObjectId) -> list[Signed[Descriptor]]:
        """Who wants this data kept."""
        ...

    async def bury(self, raw: bytes) -> tuple[str, Signed[Tombstone] | None]:
        """Checks a tombstone and notes it: "deleted" and the tombstone, where a replica here has to go."""
        ...
