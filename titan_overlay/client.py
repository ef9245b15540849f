"""What programs see: `Pool`.

async with titan.connect("host:port") as pool:
    reply = await pool.send("greeter", "hello")
"""

import asyncio
import functools
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import msgspec

from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    Forbidden,
    Gone,
    LinkError,
    NotFound,
    NotHere,
    TitanError,
    Unavailable,
)
from titan_overlay.identity import names, records
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.grants import Right
from titan_overlay.identity.ids import NodeId, ObjectId, fingerprint
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement, Content, Policy, Tombstone, tombstone_seconds
from titan_overlay.member import Member
from titan_overlay.pool.finding import census
from titan_overlay.pool.finding.places import Place, contact_of
from titan_overlay.pool.finding.reference import Reference
from titan_overlay.pool.hosting.bundles import Source
from titan_overlay.pool.hosting.data import ContentSource, DataRunner, open_source
from titan_overlay.pool.keeping import transfer
from titan_overlay.pool.keeping.publisher import Publisher
from titan_overlay.pool.keeping.publisher import Receipt as Receipt
from titan_overlay.pool.message import Message, decode_reply, encode_message
from titan_overlay.pool.orders import Bury, NodeInfo, StepDown
from titan_overlay.pool.pins import find_pin
from titan_overlay.pool.questions import Describe
from titan_overlay.storage.files import FileSink, MemorySink
from titan_overlay.storage.sealed import KeyFor, SealedSource, UnsealedFile, UnsealedMemory, key_of
from titan_overlay.wire import codec

R = TypeVar("R")
T = TypeVar("T")
Builtin = str | bytes | int | float | bool | list[Any] | dict[str, Any]
Outcome = Literal["deleted", "wrong token", "nothing to delete", "already gone"]
Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

DEFAULT_TIMEOUT = 10.0
STREAM_TIMEOUT = 60.0
MULTICAST_AT_ONCE = 64
SLOWEST_BYTES_PER_SECOND = 256 << 10
"""A download may be this slow before it is given up, where the caller names no timeout."""


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
        self._publisher = Publisher(
            member.user,
            member.grants,
            member.ambient,
            overlay=member.overlay,
            host=member.host,
            recruiter=member.recruiter,
            places=member.router.places,
        )

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

    @overload
    def stream(self, name: str, message: Message[R], *, timeout: float = ...) -> AsyncGenerator[R, None]: ...
    @overload
    def stream(self, name: str, message: Builtin, *, timeout: float = ...) -> AsyncGenerator[Any, None]: ...
    async def stream(self, name: str, message: Any, *, timeout: float = STREAM_TIMEOUT) -> AsyncGenerator[Any, None]:
        """Sends a message and yields the replies of a handler that is an async generator, as fast as they are taken."""
        type_name, body = encode_message(message)
        async with aclosing(self.stream_raw(name, type_name, body, timeout=timeout)) as items:
            async for item in items:
                yield decode_reply(message, item)

    async def send_raw(self, name: str, type_name: str, body: bytes, *, timeout: float = DEFAULT_TIMEOUT) -> bytes:
        """As `send`, for faces that have a type name and an encoded body instead of a class.

        Raises:
            BadMessage: the body is not one msgpack value; and as `send`.
        """
        codec.decode(body, Any)  # what is none would end the link, and all that is under way on it
        deadline = asyncio.get_running_loop().time() + timeout
        return await self._router.call(name, type_name, body, deadline=deadline)

    async def stream_raw(
        self, name: str, type_name: str, body: bytes, *, timeout: float = STREAM_TIMEOUT
    ) -> AsyncGenerator[bytes, None]:
        """As `stream`, likewise."""
        codec.decode(body, Any)
        deadline = asyncio.get_running_loop().time() + timeout
        async for item in self._router.stream(name, type_name, body, deadline=deadline):
            yield item

    async def multicast(
        self, targets: Sequence[str | NodeInfo], message: Any, *, timeout: float = DEFAULT_TIMEOUT
    ) -> dict[str, Any]:
        """Sends to every name, and gives the replies by name; the value of a name that failed is its error.

        Args:
            targets: names, or nodes as `census` finds them:
                `await pool.multicast(await pool.census(["region=eu"]), titan.Ping())`.
        """
        few = asyncio.Semaphore(MULTICAST_AT_ONCE)

        async def one(name: str) -> Any:
            async with few:
                try:
                    return await self.send(name, message, timeout=timeout)
                except TitanError as why:
                    return why

        asked = [f"node:{each.id}" if isinstance(each, NodeInfo) else each for each in targets]
        return dict(zip(asked, await asyncio.gather(*map(one, asked)), strict=True))

    def ref(self, type: type[T], name: str) -> T:
        """The object as if it were here: `await pool.ref(Greeter, "greeter").hello("you")` sends `"you"` to it."""
        return Reference(self, type, name)  # type: ignore[return-value]

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
        described = self._publisher.describe(
            name,
            "service",
            policy or packed.policy,
            type=packed.type,
            bundle=packed.digest,
            idempotent=packed.idempotent,
        )
        async with _within(timeout, f"publishing {name!r}"):
            return await self._publisher.publish(*described, packed.runner())

    async def put(
        self,
        source: bytes | str | Path,
        *,
        policy: Policy | None = None,
        encrypt: bool = False,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> str:
        """Stores data; the name that is returned is made of its content (`sha256:...`).

        Args:
            source: bytes, or the path of a file.
            encrypt: holders and readers see only sealed bytes; `get(name, decrypt=True)` opens them with your key.

        Raises:
            StorageError: the file cannot be read.
            Unavailable: no node takes it. DeadlineExceeded: `timeout` seconds (by default enough for 1 MiB/s) passed.
        """
        receipt = await self.put_receipt(source, policy=policy, encrypt=encrypt, progress=progress, timeout=timeout)
        return receipt.name

    async def put_receipt(
        self,
        source: bytes | str | Path,
        *,
        policy: Policy | None = None,
        encrypt: bool = False,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """As `put`, returning who holds it, the token that deletes it, and where it is encrypted, its key."""
        plain = await open_source(source)
        if not encrypt:
            return await self._put(plain, policy or Policy(), progress, timeout)
        sealed = await SealedSource.seal(plain, self._member.user)
        return await self._put(sealed, policy or Policy(), progress, timeout, sealed.key.hex())

    async def _put(
        self, source: ContentSource, policy: Policy, progress: Progress | None, timeout: float | None, key: str = ""
    ) -> Receipt:
        name = names.content_name(source.digest)
        size = source.content.size
        descriptor, token = self._publisher.describe(name, "data", policy, content=source.content)
        runner = DataRunner(source, descriptor)
        if progress is not None:
            total = size * policy.min_copies
            runner.on_read = lambda done: progress(min(done, total), total)
        if timeout is None:
            timeout = 30.0 + size / (1 << 20)
        async with _within(timeout, f"putting {size} bytes"):
            return await self._publisher.publish(descriptor, token, runner, key)

    # ---- data ------------------------------------------------------------------------------------------------

    async def get(
        self,
        name: str,
        to: str | Path | None = None,
        *,
        decrypt: bool | str = False,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """The data with this name, verified; with `to`, written into that file (and b"" returned).

        An interrupted download into a file goes on where it stopped.

        Args:
            decrypt: opens what was put encrypted: True with your own key, or with the key in the receipt.

        Raises:
            NotFound, Gone, Unavailable, DeadlineExceeded; StorageError: the file cannot be written.
            BadMessage: it is not data. Forbidden: the key does not open it; nothing is written.
        """
        key = self._key_for(decrypt)
        if to is None:
            memory = UnsealedMemory(key) if key else MemorySink()
            await self._fetch(name, memory, progress, timeout)
            return memory.value()
        await self._fetch(name, UnsealedFile(Path(to), key) if key else FileSink(Path(to)), progress, timeout)
        return b""

    def _key_for(self, decrypt: bool | str) -> KeyFor | None:
        """What gives the key for a salt: this user's, or one that was given; None: nothing is to be opened."""
        if not isinstance(decrypt, str):
            return functools.partial(key_of, self._member.user) if decrypt else None
        if not re.fullmatch(r"[0-9a-fA-F]{64}", decrypt):
            raise BadMessage("a key has 64 hexadecimal digits, as in the receipt of put_receipt(..., encrypt=True)")
        return lambda salt: bytes.fromhex(decrypt)

    async def _fetch(self, name: str, sink: transfer.Sink, progress: Progress | None, timeout: float | None) -> None:
        """Fetches data into a sink; looks up anew where all holders known have gone."""
        started = asyncio.get_running_loop().time()

        async def attempt(fresh: bool) -> Place:
            place = await self._find(name, DEFAULT_TIMEOUT if timeout is None else timeout, fresh=fresh)
            content = place.descriptor.value.content
            if content is None:
                raise BadMessage(f"{name!r} is a {place.descriptor.value.kind}, not data; use send")
            patience = 30.0 + content.size / SLOWEST_BYTES_PER_SECOND if timeout is None else timeout
            await self._fetch_from(place, content, sink, started + patience, progress)
            return place

        try:
            place = await attempt(fresh=False)
        except Unavailable:
            place = await attempt(fresh=True)
        if self._router.any_holder.on_read is not None:
            self._router.any_holder.on_read(place)

    async def _fetch_from(
        self, place: Place, content: Content, sink: transfer.Sink, deadline: float, progress: Progress | None
    ) -> None:
        name = place.descriptor.value.name
        object_id = self._router.object_id(name)

        async def ask(contact: Contact, type_name: str, body: bytes, until: float) -> bytes:
            if contact.id == self._member.key.id:
                return await self._member.send(name, type_name, body, until, ())
            return await self._member.links.request(contact, object_id, type_name, body, deadline=until)

        sources = [contact_of(holder) for holder in place.holders]
        await transfer.fetch(object_id, content, sources, ask, sink, deadline=deadline, progress=progress)

    # ---- where, what, away -----------------------------------------------------------------------------------

    async def _find(self, name: str, timeout: float, *, fresh: bool = True) -> Place:
        """Where the object lives. Raises DeadlineExceeded beside what the look-up raises."""
        async with _within(timeout, f"looking up {name!r}") as deadline:
            return await self._router.places.find(
                self._router.object_id(name), name=name, deadline=deadline, fresh=fresh
            )

    async def locate(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> list[Located]:
        """All holders that the directory knows of."""
        place = await self._find(name, timeout)
        return [
            Located(each.signer.hex(), f"{each.value.host}:{each.value.port}", each.value.version, each.value.passing)
            for each in sorted(place.holders, key=lambda each: each.signer)
        ]

    async def describe(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> Description | NodeInfo:
        """What the object is; for `node:<id>` what the node says of itself."""
        if names.space(name) is names.Space.NODE:
            return await census.ask(self._router, name, timeout)
        place = await self._find(name, timeout)
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
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            place = await self._find(name, timeout)
        except NotFound:
            return "nothing to delete"
        except Gone:
            return "already gone"
        try:
            proof = bytes.fromhex(token)
        except ValueError:
            return "wrong token"
        descriptor = place.descriptor
        if descriptor.value.kind == "data":
            holders = [contact_of(each) for each in place.holders]
            who, token_hash = (b"", sha256(proof).digest()) if proof else (member.user.public, b"")
            descriptor = (
                await find_pin(
                    member.links, member.overlay.pool, holders, object_id, publisher=who, token_hash=token_hash
                )
                or descriptor
            )
        if proof and sha256(proof).digest() != descriptor.value.token_hash:
            return "wrong token"
        expires = member.ambient.wall() + tombstone_seconds(descriptor.value.policy)
        grant = b"" if proof else member.grant_for(Right.DELETE, descriptor.value.name)
        tombstone = records.sign(
            Tombstone(descriptor.raw, descriptor.value.version, expires, proof, grant), member.user, member.overlay.pool
        )
        outcomes = await asyncio.gather(
            *(self._bury(contact_of(holder), tombstone, deadline) for holder in place.holders)
        )
        self._router.places.forget(object_id)
        if "deleted" in outcomes:
            if descriptor.value.kind != "data":
                await member.overlay.announce(object_id, [tombstone.raw])
            return "deleted"
        answers: tuple[Outcome, ...] = ("wrong token", "already gone", "nothing to delete")
        for outcome in answers:
            if outcome in outcomes:
                return outcome
        raise Unavailable(f"no holder of {name!r} answered; nothing was deleted, try again")

    async def _bury(self, holder: Contact, tombstone: Signed[Tombstone], deadline: float) -> str:
        try:
            body = await self._member.links.request(
                holder, holder.id, "titan.Bury", codec.encode(Bury(tombstone.raw)), deadline=deadline
            )
            return codec.decode(body, str)
        except TitanError as why:
            return f"no answer: {why}"

    async def move(self, name: str, node: str, *, timeout: float = 30.0) -> Receipt:
        """Moves one replica to a node (`node:<id>` or its hexadecimal id). Messages meanwhile are answered.

        Who published the object may move it, and who has a grant to administer its name.
        """
        target = NodeId(self._router.object_id(f"node:{node.removeprefix('node:')}"))
        async with _within(timeout, f"moving {name!r}") as deadline:
            return await self._move(name, target, deadline)

    async def _move(self, name: str, target: NodeId, deadline: float) -> Receipt:
        member = self._member
        object_id = self._router.object_id(name)
        place = await self._router.places.find(object_id, name=name, deadline=deadline, fresh=True)
        grant = member.grant_for(Right.ADMINISTER, place.descriptor.value.name)
        if place.descriptor.public != member.user.public and not grant:
            raise Forbidden(
                f"only key {fingerprint(place.descriptor.public)}, which published {name!r}, may move it, "
                "or who has a grant to administer the name"
            )
        near = await member.overlay.find_nodes(target, 4)
        contact = next((each for each in near if each.id == target), None)
        if contact is None:
            raise NotFound(f"node:{target.hex()} is not in this pool now; see: titan census")
        counted = [each for each in place.holders if not each.value.passing]
        if not await self._holds(contact, object_id, deadline):
            # Where it lived a moment ago it may still be advertised.
            counted = [each for each in counted if each.signer != target]
            recruited = await member.recruiter.recruit(place.descriptor, count=1, holders=counted, only=contact)
            if not recruited.accepted:
                raise Unavailable(f"node {target.hex()[:12]} refused {name!r}: {recruited.explain()}")
            counted = [*recruited.accepted, *await self._without_one(counted, StepDown(object_id, grant), deadline)]
        self._router.places.remember(place.descriptor, counted)
        return Receipt(
            place.descriptor.value.name,
            place.descriptor.value.version,
            tuple(each.signer.hex() for each in counted),
            0,
            "",
        )

    async def _holds(self, contact: Contact, object_id: ObjectId, deadline: float) -> bool:
        """Whether that node holds the object now, by its own word."""
        try:
            body = codec.encode(Describe())
            await self._member.links.request(contact, object_id, Describe.wire_type, body, deadline=deadline)
        except NotHere:
            return False
        except LinkError as why:
            raise Unavailable(f"node {contact.id.hex()[:12]} does not answer: {why}") from None
        return True

    async def _without_one(
        self, holders: list[Signed[Advertisement]], order: StepDown, deadline: float
    ) -> list[Signed[Advertisement]]:
        """The holders that are left when one of them has given up its replica. Who held none any more is left out."""
        body = codec.encode(order)
        left = list(holders)
        while left:
            leaving = contact_of(left.pop())
            try:
                answer = await self._member.links.request(
                    leaving, leaving.id, "titan.StepDown", body, deadline=deadline
                )
            except LinkError:
                continue
            if codec.decode(answer, bool):
                break
        return left

    # ---- nodes -----------------------------------------------------------------------------------------------

    async def census(self, where: Sequence[str] = (), *, timeout: float = DEFAULT_TIMEOUT) -> list[NodeInfo]:
        """What the nodes of the pool say of themselves; `where` as in `["cores>=4", "region=eu"]`."""
        return await census.take(self._member.overlay, self._member.links, where, timeout)

    async def nearest(self, name: str, count: int = 1) -> list[str]:
        """The live nodes nearest to the id of a name, nearest first, each as a name (`node:<id>`)."""
        found = await self._member.overlay.find_nodes(self._router.object_id(name), count)
        return [names.node_name(each.id) for each in found]

    @property
    def id(self) -> str:
        """This key's fingerprint, as in `~fingerprint/name`."""
        return fingerprint(self._member.user.public)


@asynccontextmanager
async def _within(seconds: float, what: str) -> AsyncIterator[float]:
    """Bounds what is done inside; gives the deadline (loop time)."""
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        async with asyncio.timeout_at(deadline):
            yield deadline
    except TimeoutError:
        raise DeadlineExceeded(
            f"{what} took longer than {seconds:g} s; pass a longer timeout", maybe_executed=True
        ) from None
