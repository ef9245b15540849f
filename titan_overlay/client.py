"""What programs see: `Pool`.

async with titan.connect("host:port") as pool:
    reply = await pool.send("greeter", "hello")
"""

import asyncio
import functools
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import msgspec

from titan_overlay import deleting, moving, publishing
from titan_overlay.deleting import Outcome
from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    NotHere,
    RemotableError,
    TitanError,
    WireError,
    from_wire,
)
from titan_overlay.identity import names
from titan_overlay.identity.contacts import Contact, format_address
from titan_overlay.identity.grants import Right
from titan_overlay.identity.ids import ObjectId, fingerprint
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.statements import Policy
from titan_overlay.member import Member
from titan_overlay.mutable import talk
from titan_overlay.mutable.health import GroupHealth
from titan_overlay.mutable.requests import BATCH, PARTS_MAX, Part, Reply
from titan_overlay.mutable.talk import Change
from titan_overlay.overlay.density import Crowd, crowd
from titan_overlay.patience import DEFAULT_TIMEOUT, find
from titan_overlay.pool.finding import census
from titan_overlay.pool.finding.any_holder import Freshness, Request
from titan_overlay.pool.finding.places import Place, contact_of
from titan_overlay.pool.finding.reference import Reference
from titan_overlay.pool.hosting.data import open_source
from titan_overlay.pool.hosting.packing import pack, sign, unpack
from titan_overlay.pool.keeping.publisher import Publisher
from titan_overlay.pool.keeping.publisher import Receipt as Receipt
from titan_overlay.pool.message import Message, decode_reply, encode_message
from titan_overlay.pool.orders import NodeInfo
from titan_overlay.pool.questions import Ping
from titan_overlay.reading import Progress, Reader
from titan_overlay.storage.files import FileSink, MemorySink
from titan_overlay.storage.sealed import KeyFor, SealedSource, UnsealedFile, UnsealedMemory, key_of
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.recovery import RecoveryPlan

R = TypeVar("R")
T = TypeVar("T")
V = TypeVar("V")
Builtin = str | bytes | bytearray | memoryview | int | float | bool | list[Any] | tuple[Any, ...] | dict[str, Any]

STREAM_TIMEOUT = 60.0
ANSWER_SECONDS = 2.0
"""What `locate` waits for holders to answer."""
WATCH_SECONDS = 3600.0
MULTICAST_AT_ONCE = 64


class Located(msgspec.Struct, frozen=True):
    """One holder of an object."""

    node: str
    address: str
    version: int
    passing: bool
    """A passing cache, not a counted copy."""
    answers: bool
    """Whether it answered for the object just now; one that has gone is advertised for a while yet."""


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


class Answer(msgspec.Struct, Generic[V], frozen=True):
    """A reply, and how it came about. Of what is not voted on, one holder was asked."""

    value: V
    asked: int = 1
    """Holders that were asked, those in place of silent ones included."""
    answered: int = 1
    """Votes that had come when the answer stood."""
    agreed: int = 1
    """Of them, how many count as equal to the answer, itself included."""
    needed: int = 1
    """The majority: more than half of `Policy.votes`, and of all who were asked."""


class _Closed:
    """In place of all that a pool goes through, once it was left."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("this pool is closed: the `async with titan.connect()` that it came from has ended")


class Pool:
    """The objects of one pool, by name. Made by `titan.connect`, or by a node for its own handlers."""

    def __init__(self, member: Member) -> None:
        self._id = fingerprint(member.user.public)
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
        self._reader = Reader(member)

    def _leave(self) -> None:
        """It has left the pool: further calls raise RuntimeError."""
        closed: Any = _Closed()
        self._member = self._router = self._publisher = self._reader = closed

    # ---- messages --------------------------------------------------------------------------------------------

    @overload
    async def send(self, name: str, message: Message[R], *, timeout: float = ..., once: str = ...) -> R: ...
    @overload
    async def send(self, name: str, message: Builtin, *, timeout: float = ..., once: str = ...) -> Any: ...
    async def send(self, name: str, message: Any, *, timeout: float = DEFAULT_TIMEOUT, once: str = "") -> Any:
        """Sends a message to the object with this name and returns its reply.

        Args:
            timeout: seconds for everything: finding the object, trying holders, the answer.
            once: a key of your own for it (`"rent-11"`): a mutable object executes it at most once a day, even if
                this program is started anew and sends it again; another message under the same key is a Conflict.

        Raises:
            NotFound, Gone, Forbidden, BadMessage, Unavailable, DeadlineExceeded, Overloaded, RemoteError
        """
        type_name, body = encode_message(message)
        deadline = asyncio.get_running_loop().time() + timeout
        return decode_reply(message, await self._router.call(name, type_name, body, deadline=deadline, once=once))

    async def send_batch(
        self, name: str, messages: Sequence[Any], *, timeout: float = DEFAULT_TIMEOUT, once: str = ""
    ) -> list[Any]:
        """Sends many messages to a mutable object as one: they have one place in the order, and nothing comes between.

        Args:
            messages: 4096 at most.
            once: as in `send`, for all of them together.

        Returns:
            The reply of each message, in their order; in place of one that failed, its error.

        Raises:
            BadMessage: the object is not mutable, or there are too many; and as `send`.
        """
        if len(messages) > PARTS_MAX:
            raise BadMessage(f"a batch has {PARTS_MAX} messages at most, not {len(messages)}")
        body = codec.encode([Part(*encode_message(each)) for each in messages])
        deadline = asyncio.get_running_loop().time() + timeout
        raw = await self._router.call(name, BATCH, body, deadline=deadline, once=once)
        replies = codec.decode(raw, list[Reply])
        return [
            from_wire(codec.decode(reply.body, WireError)) if reply.failed else decode_reply(message, reply.body)
            for message, reply in zip(messages, replies, strict=True)
        ]

    @overload
    async def read(self, name: str, message: Message[R], *, stale_ok: bool = ..., timeout: float = ...) -> R: ...
    @overload
    async def read(self, name: str, message: Builtin, *, stale_ok: bool = ..., timeout: float = ...) -> Any: ...
    async def read(self, name: str, message: Any, *, stale_ok: bool = False, timeout: float = DEFAULT_TIMEOUT) -> Any:
        """Asks a mutable object something that changes nothing (its handler is declared `@titan.readonly`).

        The answer is linearizable: it shows all that was acknowledged before the question was asked.

        Args:
            stale_ok: any member's state will do, even if others are ahead.

        Raises:
            BadMessage: the handler may change the object; and as `send`.
        """
        type_name, body = encode_message(message)
        deadline = asyncio.get_running_loop().time() + timeout
        read: Freshness = "stale" if stale_ok else "latest"
        return decode_reply(message, await self._router.call(name, type_name, body, deadline=deadline, read=read))

    async def watch(self, name: str, *, start: int = 0) -> AsyncGenerator[Change, None]:
        """The changes of a mutable object: every message that it executed, once, in order, whichever members fail.

        Args:
            start: number of the first change wanted (the last one's `number` + 1 resumes); 0: those to come.

        Raises:
            Conflict: that one is not kept any more.
        """
        loop = asyncio.get_running_loop()
        while True:
            deadline = loop.time() + WATCH_SECONDS
            try:
                start = start or await self._next_change(name, deadline)
                items = self._router.stream(name, talk.WATCH, codec.encode(talk.Watch(start)), deadline=deadline)
                async with aclosing(items):
                    async for raw in items:
                        change = codec.decode(raw, Change)
                        start = change.number + 1
                        yield change
            except DeadlineExceeded:
                continue  # one stream does not live for ever; the next goes on where it ended

    async def _next_change(self, name: str, deadline: float) -> int:
        """Number of the first change to come: a stream that breaks before it has brought any goes on from there."""
        object_id = self._router.object_id(name)
        place = await self._router.places.find(object_id, name=name, deadline=deadline)
        if place.descriptor.value.kind != "mutable":
            return 0  # who is asked to be watched will say what it is
        return 1 + await self._member.groups_caller.changes(place, object_id, deadline)

    @overload
    async def ask(self, name: str, message: Message[R], *, timeout: float = ...) -> Answer[R]: ...
    @overload
    async def ask(self, name: str, message: Builtin, *, timeout: float = ...) -> Answer[Any]: ...
    async def ask(self, name: str, message: Any, *, timeout: float = DEFAULT_TIMEOUT) -> Answer[Any]:
        """As `send`, and how the answer came about: of a service that is voted on, how many holders agreed."""
        type_name, body = encode_message(message)
        deadline = asyncio.get_running_loop().time() + timeout
        reply, tally = await self._router.ask(name, type_name, body, deadline=deadline)
        return Answer(decode_reply(message, reply), tally.asked, tally.answered, tally.agreed, tally.needed)

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
        """As `send`, for faces that have a type name and an encoded body instead of a class. Raises as `ask_raw`."""
        return (await self.ask_raw(name, type_name, body, timeout=timeout)).value

    async def ask_raw(
        self, name: str, type_name: str, body: bytes, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Answer[bytes]:
        """As `ask`, likewise; the value is an encoded reply.

        Raises:
            BadMessage: the body is not one msgpack value; and as `send`.
        """
        codec.decode(body, Any)  # what is none would end the link, and all that is under way on it
        deadline = asyncio.get_running_loop().time() + timeout
        reply, tally = await self._router.ask(name, type_name, body, deadline=deadline)
        return Answer(reply, tally.asked, tally.answered, tally.agreed, tally.needed)

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
        """Publishes a service under a name. Of a mutable object that is there already, the class is replaced: its
        members go over to the new one at the same place in the order, and to the state that it makes of the old.

        Args:
            source: a service class, `"file.py:Class"`, or the name of an installed object type (`"echo"`).
            policy: overrides the class's own.

        Raises:
            Forbidden: this key may not publish that name; the text says which command grants it.
            BadMessage: the policy asks for votes, and a handler is not idempotent; or it is no policy.
            Unavailable: too few nodes accept the object; the text says why they refused.
        """
        return await publishing.publish(self._member, self._publisher, source, name, policy, timeout)

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
            StorageError: the file cannot be read. BadMessage: it is neither bytes nor a path, or the policy is none.
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
        policy = publishing.policy_of(policy, Policy())
        plain = await open_source(source)
        if not encrypt:
            return await publishing.put(self._publisher, plain, policy, progress, timeout)
        sealed = await SealedSource.seal(plain, self._member.user)
        key = sealed.key.hex()
        return await publishing.put(self._publisher, sealed, policy, progress, timeout, key)

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
            await self._reader.fetch(name, memory, progress, timeout)
            return memory.value()
        await self._reader.fetch(name, UnsealedFile(Path(to), key) if key else FileSink(Path(to)), progress, timeout)
        return b""

    def _key_for(self, decrypt: bool | str) -> KeyFor | None:
        """What gives the key for a salt: this user's, or one that was given; None: nothing is to be opened."""
        if not isinstance(decrypt, str):
            return functools.partial(key_of, self._member.user) if decrypt else None
        if not re.fullmatch(r"[0-9a-fA-F]{64}", decrypt):
            raise BadMessage("a key has 64 hexadecimal digits, as in the receipt of put_receipt(..., encrypt=True)")
        return lambda salt: bytes.fromhex(decrypt)

    # ---- code ------------------------------------------------------------------------------------------------

    async def pack(self, path: str | Path) -> bytes:
        """A Python file, or a package with all its modules, as a bundle signed by this user.

        Raises:
            ConfigError: there is none, it is not Python, or it is too big.
        """
        packed = await asyncio.to_thread(pack, Path(path), "")
        return sign(packed, self._member.user, self._member.overlay.pool)

    async def unpack(self, bundle: bytes) -> dict[str, bytes]:
        """The files of a signed bundle by their paths, if its signer's code may run here; none of it is run.

        Raises:
            BadMessage: it is none, or needs a newer Python. Forbidden: its signer is not trusted here.
        """
        return dict(unpack(bundle, self._member.trusted, self._member.overlay.pool).files)

    def token_bytes(self, length: int) -> bytes:
        """Entropy, for names that nobody else has; in a simulation it comes from the seed."""
        return self._member.ambient.token_bytes(length)

    @property
    def trusted(self) -> list[str]:
        """Fingerprints of the keys whose code may run here (`titan-node --trust`), this user's among them."""
        return sorted(map(fingerprint, self._member.trusted))

    # ---- where, what, away -----------------------------------------------------------------------------------

    async def locate(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> list[Located]:
        """All holders that the directory knows of, and whether each of them answers."""
        place = await find(self._router, name, timeout)
        object_id = self._router.object_id(name)
        until = asyncio.get_running_loop().time() + min(timeout, ANSWER_SECONDS)
        holders = sorted(place.holders, key=lambda each: each.signer)
        contacts = [contact_of(each) for each in holders]
        answers = await asyncio.gather(*(self._answers(contact, object_id, until) for contact in contacts))
        return [
            Located(each.signer.hex(), format_address(contact.address), each.value.version, each.value.passing, alive)
            for each, contact, alive in zip(holders, contacts, answers, strict=True)
        ]

    async def _answers(self, holder: Contact, object_id: ObjectId, until: float) -> bool:
        member = self._member
        if holder.id == member.key.id:
            return member.host.get(object_id) is not None
        try:
            await member.links.request(holder, object_id, Ping.wire_type, codec.encode(Ping()), deadline=until)
        except (LinkError, NotHere, DeadlineExceeded):
            return False
        except RemotableError:  # busy, or not for us: it is there
            return True
        return True

    async def describe(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> Description | NodeInfo:
        """What the object is; for `node:<id>` what the node says of itself."""
        if names.space(name) is names.Space.NODE:
            return await census.ask(self._router, name, timeout)
        place = await find(self._router, name, timeout)
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

    async def group(self, name: str, *, timeout: float = DEFAULT_TIMEOUT) -> GroupHealth:
        """How the members of a mutable object are: who leads, what each has, whether a quorum takes part.

        Raises:
            BadMessage: it has no members. Unavailable: nobody shows who they are.
        """
        place = await self._find_mutable(name, timeout)
        deadline = asyncio.get_running_loop().time() + timeout
        return await self._member.groups_caller.health(place, self._router.object_id(name), deadline)

    async def recover(
        self,
        name: str,
        confirm: "Callable[[RecoveryPlan], bool]",
        *,
        key: SigningKey | None = None,
        timeout: float = 60.0,
    ) -> int:
        """Has a mutable object go on whose quorum is lost for good. What no member left has in its log is lost.

        Args:
            confirm: is shown what would be done (`plan.says`); only if it returns True is it done.
            key: that published the object; this user's, where none is given.

        Returns:
            The epoch that has begun; 0: it was not confirmed.

        Raises:
            BadMessage: it has no members. Conflict: a quorum is there. Forbidden: the key is not the owner's.
            Unavailable: no member is left.
        """
        from titan_overlay.mutable.recovery import Recovery  # seldom needed, it is to be hoped

        place = await self._find_mutable(name, timeout)
        deadline = asyncio.get_running_loop().time() + timeout
        message = Request(self._router.object_id(name), "", b"", deadline, ())
        recovery = Recovery(self._member.groups_caller, place, message, self._member.overlay.pool)
        plan = await recovery.plan()
        return await recovery.carry_out(plan, key or self._member.user) if confirm(plan) else 0

    async def _find_mutable(self, name: str, timeout: float) -> Place:
        place = await find(self._router, name, timeout)
        if place.descriptor.value.kind != "mutable":
            raise BadMessage(f"{name!r} is a {place.descriptor.value.kind}: only mutable objects have members")
        return place

    async def delete(self, name: str, token: str = "", *, timeout: float = DEFAULT_TIMEOUT) -> Outcome:
        """Deletes an object: with the token of its version, or with no token by the key that published it.

        Of data, it removes one's own pin; the data stays while others pin it.
        """
        return await deleting.delete(self._member, name, token, timeout)

    async def move(self, name: str, node: str, *, timeout: float = 30.0) -> Receipt:
        """Moves one replica to a node (`node:<id>` or its hexadecimal id). Messages meanwhile are answered.

        Who published the object may move it, and who has a grant to administer its name.
        """
        return await moving.move(self._member, name, node, timeout)

    async def add_member(self, name: str, node: str, *, timeout: float = 60.0) -> None:
        """Makes a node (`node:<id>` or its hexadecimal id) one more member of a mutable object; done once it is one.

        It learns the state first. Who published the object may ask for it, and who has a grant to administer its name.

        Raises:
            Forbidden, Unavailable: the node may not, or would not. BadMessage: there are as many members as can be.
        """
        target = self._router.object_id(f"node:{node.removeprefix('node:')}")
        order = talk.Admit(target, self._member.grant_for(Right.ADMINISTER, name))
        deadline = asyncio.get_running_loop().time() + timeout
        await self._router.call(name, talk.ADMIT, codec.encode(order), deadline=deadline)

    # ---- nodes -----------------------------------------------------------------------------------------------

    async def census(self, where: Sequence[str] = (), *, timeout: float = DEFAULT_TIMEOUT) -> list[NodeInfo]:
        """What the nodes of the pool say of themselves; `where` as in `["cores>=4", "region=eu"]`."""
        return await census.take(self._member.overlay, self._member.links, where, timeout)

    async def nearest(self, name: str, count: int = 1) -> list[str]:
        """The live nodes nearest to the id of a name, nearest first, each as a name (`node:<id>`).

        Raises:
            BadMessage: the count is not 1 or more.
        """
        if count < 1:
            raise BadMessage(f"a count of nodes is 1 or more, not {count}")
        found = await self._member.overlay.find_nodes(self._router.object_id(name), count)
        return [names.node_name(each.id) for each in found]

    async def crowd(self, name: str) -> Crowd:
        """How probable it is by chance that the nodes around the id of a name lie so close to it."""
        overlay, object_id = self._member.overlay, self._router.object_id(name)
        return crowd(object_id, await overlay.find_nodes(object_id, 20), overlay.estimated_size())

    @property
    def id(self) -> str:
        """This key's fingerprint, as in `~fingerprint/name`."""
        return self._id
