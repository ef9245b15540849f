"""What programs see: `Pool`.

async with titan.connect("host:port") as pool:
    reply = await pool.send("greeter", "hello")
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import msgspec

from titan_overlay.errors import BadMessage, Forbidden, NotFound, RemotableError, Unavailable
from titan_overlay.identity import grants, names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import NodeId, ObjectId, fingerprint
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Content, Descriptor, Policy, Tombstone
from titan_overlay.member import Member
from titan_overlay.pool import census, transfer
from titan_overlay.pool.bundles import Source
from titan_overlay.pool.data import ContentSource, DataRunner, open_source
from titan_overlay.pool.message import Message, decode_reply, encode_message
from titan_overlay.pool.object import service_type
from titan_overlay.pool.orders import Bury, NodeInfo, StepDown
from titan_overlay.pool.places import contact_of
from titan_overlay.pool.runner import Runner
from titan_overlay.storage.files import FileSink, MemorySink
from titan_overlay.wire import codec

R = TypeVar("R")
T = TypeVar("T")
Builtin = str | bytes | int | float | bool | list[Any] | dict[str, Any]
Outcome = Literal["deleted", "wrong token", "nothing to delete", "already gone"]
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

DEFAULT_TIMEOUT = 10.0
TOMBSTONE_SECONDS = 30 * 86400.0


class Receipt(msgspec.Struct, frozen=True):
    """What `publish` and `put` return once any `send` from anywhere finds the object."""

    name: str
    version: int
    holders: tuple[str, ...]
    """Ids of the nodes that hold a replica, in hexadecimal."""
    directory: int
    """Directory nodes that know of it."""
    token: str
    """Deletes this version; keep it secret. Empty for data that was there already under your pin."""


class Located(msgspec.Struct, frozen=True):
    """One holder of an object."""

    node: str
    address: str
    version: int
    passing: bool
    """A passing cache, not a counted copy."""


class Description(msgspec.Struct, frozen=True):
    """What an object is, as its publisher signed it."""

    name: str
    kind: str
    type: str
    version: int
    created: float
    owner: str
    """Fingerprint of the publisher's key."""
    policy: Policy
    size: int
    holders: int


class Pool:
    """The objects of one pool, by name. Made by `titan.connect`, or by a node for its own handlers."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._router = member.router

    # ---- messages --------------------------------------------------------------------------------------------

    @overload
    async def send(self, name: str, message: Message[R], *, timeout: float = ...) -> R: ...
    @overload
    async def send(self, name: str, message: Builtin, *, timeout: float = ...) -> Any: ...
    async def send(self, name: str, message: Any, *, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """Sends a message to the object with this name and returns its reply.

        Args:
            timeout: seconds for everything: finding the object, trying holders, the answer.

        Raises:
            NotFound, Gone, Forbidden, BadMessage, Unavailable, DeadlineExceeded, Overloaded, RemoteError
        """
        type_name, body = encode_message(message)
        deadline = asyncio.get_running_loop().time() + timeout
        return decode_reply(message, await self._router.call(name, type_name, body, deadline=deadline))

    async def stream(self, name: str, message: Any, *, timeout: float = 60.0) -> AsyncIterator[Any]:
        """Sends a message and yields the replies of a handler that is an async generator, as fast as they are taken."""
        type_name, body = encode_message(message)
        deadline = asyncio.get_running_loop().time() + timeout
        async for item in self._router.stream(name, type_name, body, deadline=deadline):
            yield decode_reply(message, item)

    async def send_raw(self, name: str, type_name: str, body: bytes, *, timeout: float = DEFAULT_TIMEOUT) -> bytes:
        """As `send`, for faces that have a type name and an encoded body instead of a class."""
        deadline = asyncio.get_running_loop().time() + timeout
        return await self._router.call(name, type_name, body, deadline=deadline)

    async def stream_raw(
        self, name: str, type_name: str, body: bytes, *, timeout: float = 60.0
    ) -> AsyncIterator[bytes]:
        """As `stream`, likewise."""
        deadline = asyncio.get_running_loop().time() + timeout
        async for item in self._router.stream(name, type_name, body, deadline=deadline):
            yield item

    async def multicast(
        self, targets: Sequence[str], message: Any, *, timeout: float = DEFAULT_TIMEOUT
    ) -> dict[str, Any]:
        """Sends to every name; the value of a name that failed is its error."""
        answers = await asyncio.gather(
            *(self.send(name, message, timeout=timeout) for name in targets), return_exceptions=True
        )
        return dict(zip(targets, answers, strict=True))

    def ref(self, type: type[T], name: str) -> T:
        """The object as if it were here: `await pool.ref(Greeter, "greeter").hello("you")` sends `"you"` to it."""
        return _Reference(self, type, name)  # type: ignore[return-value]

    # ---- publishing ------------------------------------------------------------------------------------------

    async def publish(self, source: Any, name: str, *, policy: Policy | None = None, timeout: float = 30.0) -> Receipt:
        """Publishes a service under a name.

        Args:
            source: a service class, `"file.py:Class"`, or the name of an installed object type (`"echo"`).
            policy: overrides the class's own.

        Raises:
            Forbidden: this key may not publish that name; the text says which command grants it.
            Unavailable: too few nodes accept the object; the text says why they refused.
        """
        packed = Source.of(source, self._member.user, self._member.overlay.pool)
        packed.check_name(name)
        descriptor = self._descriptor(
            name,
            kind="service",
            type=packed.type,
            policy=policy or packed.policy,
            bundle=packed.digest,
            idempotent=packed.idempotent,
        )
        async with asyncio.timeout(timeout):
            return await self._publish(descriptor, packed.runner())

    async def put(
        self,
        source: bytes | str | Path,
        *,
        policy: Policy | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> str:
        """Stores data; the name that is returned is made of its content (`sha256:...`)."""
        receipt = await self.put_receipt(source, policy=policy, progress=progress, timeout=timeout)
        return receipt.name

    async def put_receipt(
        self,
        source: bytes | str | Path,
        *,
        policy: Policy | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """As `put`, returning who holds it and the token that deletes it."""
        opened = await open_source(source)
        return await self._put(opened, policy or Policy(), progress, timeout)

    async def _put(
        self, source: ContentSource, policy: Policy, progress: Progress | None, timeout: float | None
    ) -> Receipt:
        name = names.content_name(source.digest)
        descriptor = self._descriptor(name, kind="data", type="", policy=policy, content=source.content)
        runner = DataRunner(source, descriptor[0])
        if progress is not None:
            total = source.content.size * policy.min_copies
            runner.on_read = lambda done: progress(min(done, total), total)
        async with asyncio.timeout(timeout or 30.0 + source.content.size / (1 << 20)):
            return await self._publish(descriptor, runner)

    def _descriptor(
        self,
        name: str,
        *,
        kind: Literal["data", "service"],
        type: str,
        policy: Policy,
        bundle: bytes = b"",
        content: Content | None = None,
        idempotent: tuple[str, ...] = (),
    ) -> tuple[Signed[Descriptor], str]:
        """A signed descriptor and the token that deletes it.

        Raises:
            Forbidden: before anything is sent.
        """
        member = self._member
        full = names.check(names.resolve(name, member.user.public))
        now = member.ambient.wall()
        token = member.ambient.token_bytes(16)
        grant = self._grant_for(full, now)
        grants.may_publish(member.user.public, member.user.id, full, grant or None, member.overlay.pool, now)
        descriptor = Descriptor(
            name=full,
            kind=kind,
            type=type,
            version=int(now * 1000),
            created=now,
            policy=policy,
            token_hash=sha256(token).digest(),
            bundle=bundle,
            content=content,
            idempotent=idempotent,
            grant=grant,
        )
        return records.sign(descriptor, member.user, member.overlay.pool), token.hex()

    def _grant_for(self, name: str, now: float) -> bytes:
        member = self._member
        for raw in member.grants:
            if grants.allows(raw, member.overlay.pool, member.user.id, grants.Right.PUBLISH, name, now):
                return raw
        return b""

    async def _publish(self, made: tuple[Signed[Descriptor], str], runner: Runner) -> Receipt:
        """Offers the object from here, and recruits until `min_copies` nodes hold it."""
        descriptor, token = made
        member = self._member
        object_id = names.object_id(member.overlay.pool, descriptor.value.name)
        policy = descriptor.value.policy
        held_here = member.host.get(object_id) is not None
        if not held_here:
            member.host.add(descriptor, runner)
        try:
            present = await self._present_holders(object_id)
            # A newer version replaces the old one where it is; new holders make up what is missing.
            renewed = await self._renew(present, descriptor)
            missing = max(0, (1 if policy.bound else policy.min_copies) - len(renewed))
            recruited = await member.recruiter.recruit(
                descriptor,
                count=missing,
                exclude=[each.signer for each in present],
                holders=renewed,
            )
        finally:
            if not held_here:
                await member.host.remove(object_id)
        accepted = [*renewed, *recruited.accepted]
        if not accepted:
            raise _refused(descriptor.value.name, recruited.asked, recruited.explain())
        self._router.places.remember(descriptor, accepted)
        return Receipt(
            name=descriptor.value.name,
            version=descriptor.value.version,
            holders=tuple(each.signer.hex() for each in accepted),
            directory=max(recruited.directory, 1 if renewed else 0),
            token=token,
        )

    async def _present_holders(self, object_id: ObjectId) -> list[Signed[Advertisement]]:
        found = await self._member.overlay.find_holders(object_id, everything=True)
        return [each for each in found.advertisements if not each.value.withdrawn and not each.value.passing]

    async def _renew(
        self, present: Sequence[Signed[Advertisement]], descriptor: Signed[Descriptor]
    ) -> list[Signed[Advertisement]]:
        async def one(holder: Signed[Advertisement]) -> list[Signed[Advertisement]]:
            result = await self._member.recruiter.recruit(descriptor, count=1, holders=present, only=contact_of(holder))
            return result.accepted

        answers = await asyncio.gather(*(one(holder) for holder in present[: descriptor.value.policy.max_copies]))
        return [each for accepted in answers for each in accepted]

    # ---- data ------------------------------------------------------------------------------------------------

    async def get(
        self,
        name: str,
        to: str | Path | None = None,
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """The data with this name, verified; with `to`, written into that file (and b"" returned).

        An interrupted download into a file goes on where it stopped.
        """
        member = self._member
        loop = asyncio.get_running_loop()
        object_id = self._router.object_id(name)
        place = await self._router.places.find(
            object_id, name=name, deadline=loop.time() + (timeout or DEFAULT_TIMEOUT)
        )
        content = place.descriptor.value.content
        if content is None:
            raise BadMessage(f"{name!r} is a {place.descriptor.value.kind}, not data; use send")
        deadline = loop.time() + (timeout or 30.0 + content.size / (256 << 10))
        sink: transfer.Sink = FileSink(Path(to)) if to is not None else MemorySink()

        async def ask(contact: Contact, type_name: str, body: bytes, until: float) -> bytes:
            return await member.links.request(contact, object_id, type_name, body, deadline=until)

        sources = [contact_of(holder) for holder in place.holders]
        await transfer.fetch(object_id, content, sources, ask, sink, deadline=deadline, progress=progress)
        if self._router.any_holder.on_read is not None:
            self._router.any_holder.on_read(place)
        return sink.value() if isinstance(sink, MemorySink) else b""

    # ---- where, what, away -----------------------------------------------------------------------------------

    async def locate(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> list[Located]:
        """All holders that the directory knows of."""
        object_id = self._router.object_id(name)
        deadline = asyncio.get_running_loop().time() + timeout
        place = await self._router.places.find(object_id, name=name, deadline=deadline, fresh=True)
        return [
            Located(each.signer.hex(), f"{each.value.host}:{each.value.port}", each.value.version, each.value.passing)
            for each in sorted(place.holders, key=lambda each: each.signer)
        ]

    async def describe(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> Description | NodeInfo:
        """What the object is; for `node:<id>` what the node says of itself."""
        if names.space(name) is names.Space.NODE:
            return await census.ask(self._router, name, timeout)
        object_id = self._router.object_id(name)
        deadline = asyncio.get_running_loop().time() + timeout
        place = await self._router.places.find(object_id, name=name, deadline=deadline, fresh=True)
        value = place.descriptor.value
        return Description(
            name=value.name,
            kind=value.kind,
            type=value.type,
            version=value.version,
            created=value.created,
            owner=fingerprint(place.descriptor.public),
            policy=value.policy,
            size=value.content.size if value.content else 0,
            holders=len(place.holders),
        )

    async def delete(self, name: str, token: str = "", *, timeout: float = DEFAULT_TIMEOUT) -> Outcome:
        """Deletes an object: with the token of its version, or with no token by the key that published it.

        Of data, it removes one's own pin; the data stays while others pin it.
        """
        member = self._member
        object_id = self._router.object_id(name)
        loop = asyncio.get_running_loop()
        try:
            place = await self._router.places.find(object_id, name=name, deadline=loop.time() + timeout, fresh=True)
        except NotFound:
            return "nothing to delete"
        except RemotableError as why:
            if why.code == "gone":
                return "already gone"
            raise
        try:
            proof = bytes.fromhex(token)
        except ValueError:
            return "wrong token"
        descriptor = place.descriptor
        lifetime = max(descriptor.value.policy.ttl, TOMBSTONE_SECONDS)
        tombstone = records.sign(
            Tombstone(descriptor.raw, descriptor.value.version, member.ambient.wall() + lifetime, proof),
            member.user,
            member.overlay.pool,
        )
        outcomes = await asyncio.gather(
            *(self._bury(contact_of(holder), tombstone, loop.time() + timeout) for holder in place.holders)
        )
        self._router.places.forget(object_id)
        if "deleted" in outcomes:
            if descriptor.value.kind != "data":
                await member.overlay.announce(object_id, [tombstone.raw])
            return "deleted"
        for outcome in ("wrong token", "already gone", "nothing to delete"):
            if outcome in outcomes:
                return outcome
        raise Unavailable(f"no holder of {name!r} answered; nothing was deleted, try again")

    async def _bury(self, holder: Contact, tombstone: Signed[Tombstone], deadline: float) -> str:
        try:
            body = await self._member.links.request(
                holder, holder.id, "titan.Bury", codec.encode(Bury(tombstone.raw)), deadline=deadline
            )
            return codec.decode(body, str)
        except Exception as why:
            return f"no answer: {why}"

    async def move(self, name: str, node: str, *, timeout: float = 30.0) -> Receipt:
        """Moves one replica to a node (`node:<id>` or its hexadecimal id). Messages meanwhile are answered.

        Only who published the object may move it.
        """
        member = self._member
        deadline = asyncio.get_running_loop().time() + timeout
        object_id = self._router.object_id(name)
        place = await self._router.places.find(object_id, name=name, deadline=deadline, fresh=True)
        if place.descriptor.public != member.user.public:
            raise Forbidden(f"only key {fingerprint(place.descriptor.public)}, which published {name!r}, may move it")
        target = NodeId(bytes.fromhex(node.removeprefix("node:")))
        near = await member.overlay.find_nodes(target, 4)
        contact = next((each for each in near if each.id == target), None)
        if contact is None:
            raise NotFound(f"node:{target.hex()} is not in this pool now; see: titan census")
        counted = [each for each in place.holders if not each.value.passing]
        if all(each.signer != target for each in counted):
            recruited = await member.recruiter.recruit(place.descriptor, count=1, holders=counted, only=contact)
            if not recruited.accepted:
                raise Unavailable(f"node {target.hex()[:12]} refused {name!r}: {recruited.explain()}")
            leaving = contact_of(counted[-1])
            order = codec.encode(StepDown(object_id))
            await member.links.request(leaving, leaving.id, "titan.StepDown", order, deadline=deadline)
            counted = [*recruited.accepted, *counted[:-1]]
        self._router.places.remember(place.descriptor, counted)
        return Receipt(name, place.descriptor.value.version, tuple(each.signer.hex() for each in counted), 0, "")

    # ---- nodes -----------------------------------------------------------------------------------------------

    async def census(self, where: Sequence[str] = (), *, timeout: float = DEFAULT_TIMEOUT) -> list[NodeInfo]:
        """What the nodes of the pool say of themselves; `where` as in `["cores>=4", "region=eu"]`."""
        return await census.take(self._member.overlay, self._member.links, where, timeout)

    @property
    def id(self) -> str:
        """This key's fingerprint, as in `~fingerprint/name`."""
        return fingerprint(self._member.user.public)


class _Reference:
    """Method-call sugar over `send`."""

    def __init__(self, pool: Pool, type: type[Any], name: str) -> None:
        self._pool = pool
        self._type = type
        self._name = name

    def __getattr__(self, method: str) -> Any:
        handler = next((each for each in service_type(self._type).handlers.values() if each.method == method), None)
        if handler is None:
            raise AttributeError(f"{self._type.__name__} has no handler {method!r}")
        accepted = handler.type

        async def call(message: Any, *, timeout: float = DEFAULT_TIMEOUT) -> Any:
            if encode_message(message)[0] != accepted:
                raise BadMessage(f"{self._type.__name__}.{method} takes a {accepted}, not {message!r}")
            return await self._pool.send(self._name, message, timeout=timeout)

        return call


def _refused(name: str, asked: int, why: str) -> Unavailable:
    return Unavailable(f"0 of {asked} nodes accept {name!r}; {why}")
