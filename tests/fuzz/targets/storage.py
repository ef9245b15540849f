"""What is read back from a disk that anything may have happened to, and what is sealed."""

import asyncio
import shutil
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from tests.fuzz.target import Drawn, story, target
from tests.fuzz.world import DATA_NAME, ME, NOW, POOL, ambient, descriptor, node, object_id, run, tombstone
from titan_overlay.config import NodeConfig
from titan_overlay.errors import BadMessage, Forbidden, NotHere, StorageError
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Content
from titan_overlay.node import Node
from titan_overlay.pool.context import Sender
from titan_overlay.pool.hosting.bundles import BundleLoader
from titan_overlay.pool.hosting.host import Host
from titan_overlay.pool.keeping import last_run
from titan_overlay.pool.keeping.admission import Admission
from titan_overlay.rules import recall
from titan_overlay.storage import sealed
from titan_overlay.storage.assembly import Assembly
from titan_overlay.storage.blobs import Blobs
from titan_overlay.storage.content import CHUNK_BYTES, check_manifest
from titan_overlay.storage.database import SqliteDatabase
from titan_overlay.storage.directory import DataDirectory, RunningSettings, _Address, _seed_of
from titan_overlay.storage.files import BytesSource, describe_bytes
from titan_overlay.storage.known_pools import KnownPools
from titan_overlay.storage.rows import MemoryDatabase, ReplicaRow
from titan_overlay.testing.disk import MemoryDisk
from titan_overlay.wire import codec

# --- small files ----------------------------------------------------------------------------------------------


@target(seeds=lambda: [b"titan-overlay ed25519 secret key 1\n" + (b"ab" * 32) + b"\n"], limit=1024)
def key_file(data: bytes) -> None:
    """The file of a key: its 32 bytes, or no key."""
    seed = _seed_of(data)
    assert seed is None or len(SigningKey(seed).public) == 32


@cache
def _directory() -> tuple[Path, DataDirectory]:
    path = Path(tempfile.mkdtemp(prefix="titan-fuzz-"))
    return path, DataDirectory(path)  # held open: it looks as if a node ran here


@target(seeds=lambda: [msgspec.json.encode(_Address("127.0.0.1", 4747, POOL.hex(), node(1).hex()))], limit=1024)
def address_file(data: bytes) -> None:
    """Where programs of this user are told to find their node."""
    path, _ = _directory()
    (path / "address").write_bytes(data)
    line = DataDirectory.running(path)
    assert line is None or isinstance(line, JoinLine)


@target(
    seeds=lambda: [
        msgspec.json.encode(RunningSettings(7, (("listen", ["127.0.0.1:1"], "flag"), ("trust", [], "default"))))
    ],
    limit=4096,
)
def settings_file(data: bytes) -> None:
    """With which settings programs of this user are told that their node runs."""
    path, _ = _directory()
    (path / "settings").write_bytes(data)
    found = DataDirectory.running_settings(path)
    assert found is None or isinstance(found, RunningSettings)


@target(seeds=lambda: [f"127.0.0.1:1 {'ab' * 32}\n".encode(), b"127.0.0.1:1 ab\t\t" + b"0" * 60], limit=4096)
def known_pools_file(data: bytes) -> None:
    """Which pool programs of this user expect at a bare address; adding a pin leaves none unread."""
    path, _ = _directory()
    (path / "known_pools").write_bytes(data)
    known = KnownPools(path / "known_pools")
    before = known.find("127.0.0.1:1")
    assert before is None or len(before.pool) == 32
    known.add(["127.0.0.1:1"], b"p" * 32)
    after = known.find("127.0.0.1:1")
    assert after is not None
    assert after.pool == (b"p" * 32 if before is None else before.pool)


# --- the database ---------------------------------------------------------------------------------------------


@cache
def _template() -> bytes:
    """A sound database with a row of each kind."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "node.db")
        database = SqliteDatabase(path)
        with database.transaction():
            database.put_replica(ReplicaRow(object_id(), descriptor().raw, NOW, 0.0))
            database.put_pin(object_id(DATA_NAME), b"p" * 32, descriptor(DATA_NAME).raw)
            database.put_tombstone(object_id(), tombstone().raw, NOW + 1000)
        database.put_setting("pool", POOL)
        database.close()
        return path.read_bytes()


def _places() -> list[bytes]:
    data = _template()
    used = [at for at in range(0, len(data), 512) if any(data[at : at + 512])]
    return [story(*((at // 256) % 256 for at in used[:9]), 1, 0, 7), story(0, 0, 0x5A, 1, 1, 0xFF), b"\0\1\2\3"]


@target(StorageError, seeds=_places, limit=64)
def database_file(data: bytes) -> None:
    """A database that was written over in places: it opens, or is set aside and a new one begun; no row is believed."""
    draw = Drawn(data)
    content = bytearray(_template())
    while draw.more():
        at = draw.below(65536) % len(content)
        part = draw.take(1 + draw.below(4))
        content[at : at + len(part)] = part
    scratch = Path(tempfile.mkdtemp(prefix="titan-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        (scratch / "node.db").write_bytes(content)
        database = SqliteDatabase(scratch / "node.db")
        try:
            _read_back(database)
        finally:
            database.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read_back(database: Any) -> None:
    """What a node reads when it starts."""
    database.peers()
    database.setting("pool")
    run(_restored(database))


def _rows() -> list[bytes]:
    own, data = descriptor().raw, descriptor(DATA_NAME).raw
    return [story(own, tombstone().raw, data), story(data, b"", b"x"), story(b"", tombstone(DATA_NAME).raw, own)]


@target(seeds=lambda: [codec.encode([b"list"]), codec.encode([]), b"x"])
def stored_rules(data: bytes) -> None:
    """The rules of the pool as they were saved: what is damaged comes back from others."""
    database = MemoryDatabase()
    database.put_setting("revocations", data)
    database.put_setting("pool record", data)
    rights = Rights(POOL)
    recall(database, rights, NOW)
    assert not rights.raw_record and not len(rights.revocations)


@target(StorageError, seeds=_rows, limit=4096)
def rows(data: bytes) -> None:
    """Rows whose bytes have changed: a node starts without what they stood for."""
    draw = Drawn(data)
    database = MemoryDatabase()
    database.put_replica(ReplicaRow(object_id(), draw.piece(), NOW, 0.0))
    database.put_tombstone(object_id(DATA_NAME), draw.piece(), NOW + 1000)
    database.put_pin(object_id(DATA_NAME), b"p" * 32, draw.piece())
    database.put_replica(ReplicaRow(object_id(DATA_NAME), draw.rest(), NOW, 0.0))
    run(_restored(database))


async def _restored(database: Any) -> None:
    """The part of a node's start that reads what was kept."""
    config = NodeConfig()
    instance = Node(ME, Rights(POOL), ambient(), config, database=database, disk=MemoryDisk(), secure=False)
    await instance.blobs.open()
    await instance.blobs.put_small(sha256(b"blob").digest(), b"blob")
    await last_run.clear_away(database, instance.blobs, Rights(POOL))
    instance._known()
    host = Host(ambient(), pool=POOL, holder=ME.id)
    admission = Admission(
        rights=Rights(POOL),
        me=Sender(ME.id, ME.public),
        ambient=ambient(),
        config=config,
        host=host,
        links=None,  # type: ignore[arg-type]
        database=database,
        blobs=instance.blobs,
        bundles=BundleLoader((), POOL),
        makers={},
        grants=(),
        labels={"cores": "4"},
    )
    for row in database.replicas():
        await admission.restore(row)
    for held in list(host.ids()):
        await admission.release(held)
    await host.close()


# --- contents -------------------------------------------------------------------------------------------------

_WHOLE = b"0123456789" * 40_000
_ID, _CONTENT, _MANIFEST = describe_bytes(_WHOLE)


@target(BadMessage, NotHere, seeds=lambda: [story(0, 0), story(1, 2, 0, 0, 9), story(1, 1, 0, 200, 0, 1)], limit=64)
def partial_file(data: bytes) -> None:
    """A content half fetched, in a file that was torn: whole means whole."""
    run(_assembled(Drawn(data)))


async def _assembled(draw: Drawn) -> None:
    disk = MemoryDisk()
    await disk.write("x", draw.bent(_WHOLE[: draw.below(65536) * 8]))
    assembly = Assembly(disk, "x", _CONTENT, _MANIFEST)
    await assembly.recover()
    for index in (0, 1, draw.below(4)):
        part = _WHOLE[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        try:
            await assembly.put(index, draw.bent(part))
        except BadMessage:
            continue
    if await assembly.complete(_ID):
        assert await disk.read("x", 0, 2 * len(_WHOLE)) == _WHOLE


@target(seeds=lambda: [story(b"blobs/ab/" + b"ab" * 32), story(b"blobs/x", b"blobs/ab/" + b"AB" * 32 + b".partial")])
def blob_names(data: bytes) -> None:
    """Files in the store whose names nobody gave them."""
    run(_opened(Drawn(data)))


async def _opened(draw: Drawn) -> None:
    disk = MemoryDisk()
    while draw.more():
        name = draw.piece().decode("utf-8", "replace")
        try:
            await disk.write(name, b"content")
        except (ValueError, OSError, StorageError):
            continue
    blobs = Blobs(disk, 1 << 20)
    await blobs.open()
    for content_id in blobs.ids():
        assert len(content_id) == 32
    for content_id in [*blobs.ids(), _ID]:
        try:
            await blobs.read_chunk(content_id, 0)
        except (NotHere, BadMessage):
            continue


@target(BadMessage, seeds=lambda: [story(2, _MANIFEST), story(0, b""), story(9, bytes(64))])
def manifest(data: bytes) -> None:
    """Digests that are said to be a content's."""
    draw = Drawn(data)
    size = draw.below(256) << 17
    said = draw.piece()
    check_manifest(Content(size, CHUNK_BYTES, sha256(said).digest()), said)
    assert len(said) == -(-size // CHUNK_BYTES) * 32


@cache
def _sealed() -> bytes:
    return bytes(run(_seal()))  # type: ignore[call-overload]


async def _seal() -> bytes:
    source = await sealed.SealedSource.seal(BytesSource(b"secret " * 100), ME)
    return await source.read_chunk(0)


@target(Forbidden, seeds=lambda: [story(0), story(1, 0, 5, 7), b""], limit=512)
def sealed_content(data: bytes) -> None:
    """A sealed content that somebody has changed: it opens to what was sealed, or not at all."""
    draw = Drawn(data)
    said = draw.bent(_sealed())
    opened: Any = run(_open(said))
    assert opened == b"secret " * 100 and said == _sealed()


async def _open(said: bytes) -> bytes:
    await asyncio.sleep(0)
    pieces = sealed.unseal(BytesSource(said), lambda salt: sealed.key_of(ME, salt))
    return b"".join([piece async for piece in pieces])
