"""With which a node votes: a key for each group and epoch, in the directory of its log.

Who has lost the log has lost the keys, and cannot vote as that member again. A key goes when its epoch is over, so that
who steals what is on the disks later cannot sign another past.
"""

import asyncio
from collections import OrderedDict

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, StorageError
from titan_overlay.identity.ids import ObjectId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.storage.disk import Disk
from titan_overlay.wire import codec

OFFERED_MAX = 256
"""Groups that this node has said it would join, and has not been made a member of yet."""
SECRET_BYTES = 32

Secret = bytes


class GroupKeys:
    """This node's keys in one group: of the epoch that is, and perhaps of the next.

    Args:
        secrets: as they are on disk, the oldest first.
    """

    def __init__(self, disk: Disk, path: str, ambient: Ambient, secrets: list[Secret]) -> None:
        self._disk = disk
        self._path = path
        self._ambient = ambient
        self._secrets = secrets
        self._current: SigningKey | None = None
        self._stale = False
        """There are keys on disk that should not be."""
        self._writing = asyncio.Lock()

    def use(self, public: bytes) -> bool:
        """From now on `sign` uses the key that a configuration names; False: it is not here."""
        for place, secret in enumerate(self._secrets):
            key = SigningKey(secret)
            if key.public == public:
                self._current, self._secrets = key, self._secrets[place:]
                self._stale = self._stale or place > 0
                return True
        self._current = None
        return False

    def sign(self, statement: bytes) -> bytes:
        """As a member of this epoch."""
        assert self._current is not None, "only members sign"
        return self._current.sign(statement)

    @property
    def newest(self) -> bytes:
        """The public key that was made last, or empty."""
        return SigningKey(self._secrets[-1]).public if self._secrets else b""

    async def next(self) -> bytes:
        """The public key for the next epoch, durable.

        Raises:
            StorageError: the disk is full or broken.
        """
        async with self._writing:
            if len(self._secrets) < 2:
                secret = self._ambient.token_bytes(SECRET_BYTES)
                await self._write([*self._secrets, secret])
                self._secrets.append(secret)
            return SigningKey(self._secrets[-1]).public

    async def erase(self) -> None:
        """Keys of earlier epochs than the one in use. StorageError: the disk is full or broken."""
        async with self._writing:
            if self._stale:
                await self._write(self._secrets)

    async def add(self, secret: Secret) -> None:
        """A key with which this node may become a member. StorageError: the disk is full or broken."""
        async with self._writing:
            await self._write([*self._secrets, secret])
            self._secrets.append(secret)

    async def _write(self, secrets: list[Secret]) -> None:
        temporary = f"{self._path}.new"
        raw = codec.encode(secrets)
        await self._disk.remove(temporary)
        await self._disk.write(temporary, raw)
        await self._disk.sync(temporary)
        await self._disk.replace(temporary, self._path)
        self._stale = False

    async def forget(self) -> None:
        """This node never votes as that member again."""
        async with self._writing:
            self._secrets, self._current = [], None
            await self._disk.remove(self._path)


class VotingKeys:
    """All of a node's.

    Args:
        directory: of the log.
    """

    def __init__(self, disk: Disk, ambient: Ambient, directory: str) -> None:
        self._disk = disk
        self._ambient = ambient
        self._directory = f"{directory}/keys"
        self._offered: OrderedDict[ObjectId, Secret] = OrderedDict()
        self._open: dict[ObjectId, GroupKeys] = {}

    def offer(self, object_id: ObjectId) -> bytes:
        """The public key with which this node would vote as a new member of a group."""
        here = self._open.get(object_id)
        if here is not None and here.newest:
            return here.newest  # it has the object already: as a learner that was forgotten on the way
        secret = self._offered.get(object_id)
        if secret is None:
            if len(self._offered) >= OFFERED_MAX:
                self._offered.popitem(last=False)
            secret = self._offered[object_id] = self._ambient.token_bytes(SECRET_BYTES)
        return SigningKey(secret).public

    async def open(self, object_id: ObjectId) -> GroupKeys:
        """The keys of a group that this node is, or is about to become, a member of.

        Raises:
            StorageError: what is on disk is damaged, or an offered key cannot be written.
        """
        path = self._path(object_id)
        try:
            secrets = codec.decode(await self._disk.read(path), list[Secret])
            if any(len(each) != SECRET_BYTES for each in secrets):
                raise BadMessage(f"a secret has {SECRET_BYTES} bytes")
        except FileNotFoundError:
            secrets = []
        except BadMessage as why:
            raise StorageError(f"the voting keys in {path} are damaged: {why}") from None
        keys = GroupKeys(self._disk, path, self._ambient, secrets)
        offered = self._offered.pop(object_id, None)
        if offered is not None:
            await keys.add(offered)
        self._open[object_id] = keys
        return keys

    def _path(self, object_id: ObjectId) -> str:
        return f"{self._directory}/{object_id.hex()}"

    async def remove(self, object_id: ObjectId) -> None:
        """This node never votes in that group again with a key that it had. StorageError: the disk is broken."""
        await self._disk.remove(self._path(object_id))

    def close(self, object_id: ObjectId) -> None:
        """This node takes no part in that group for now."""
        self._open.pop(object_id, None)
