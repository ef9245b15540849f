"""The rules of the pool as one member knows them: kept across restarts, compared with others now and then.

The pool record and the lists of revocations spread by gossip (anti-entropy, Demers et al. 1987): each member compares
a few bytes with a random contact, and who is behind pulls what it lacks. What has just been learned is compared with
a few contacts at once, so news is everywhere within seconds; the slow rounds reach who was away. Contacts are drawn
from the whole table, so nobody near any one id can keep a revocation from others.
"""

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from titan_overlay.ambient import Ambient
from titan_overlay.errors import BadMessage, Forbidden, LinkError, RemotableError, StorageError
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.revocations import MAX_LISTS
from titan_overlay.identity.rights import Rights
from titan_overlay.links.links import Links
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.overlay.traffic import OTHER
from titan_overlay.pool.orders import News, Rules
from titan_overlay.storage.rows import Database
from titan_overlay.wire import codec

log = logging.getLogger("titan")

ROUND_SECONDS = 60.0
EAGER_CONTACTS = 3
"""That are told at once of what was just learned."""
PULL_GAP_SECONDS = 2.0
"""Between two pulls that others gave reason for: who claims to know more all the time gets nobody to run."""
PULL_SECONDS = 5.0
ANSWER_BYTES_MAX = 900_000
"""Of lists in one answer; the rest follows in the next round."""

_DIGEST = struct.Struct(">Q8s")
_RECORD, _LISTS = "pool record", "revocations"


def recall(database: Database, rights: Rights, now: float) -> None:
    """What was known when the node ended. Total: what is damaged comes back by gossip."""
    _learn(rights, News(database.setting(_RECORD) or b"", _lists_in(database.setting(_LISTS))), now)


def remember(database: Database, rights: Rights) -> None:
    """Keeps what is known now."""
    try:
        with database.transaction():
            if rights.raw_record:
                database.put_setting(_RECORD, rights.raw_record)
            database.put_setting(_LISTS, codec.encode([each.raw for each in rights.revocations]))
    except StorageError as why:
        log.warning("the rules of the pool were not saved: %s", why)


def _lists_in(stored: bytes | None) -> list[bytes]:
    try:
        return codec.decode(stored, list[bytes]) if stored else []
    except BadMessage:
        return []


def _learn(rights: Rights, news: News, now: float) -> int:
    """How much of it was news."""
    learned = 0
    if news.record:
        try:
            learned += rights.learn_record(news.record)
        except BadMessage as why:
            log.debug("not a pool record: %s", why)
    for raw in news.lists[:MAX_LISTS]:  # whoever sends it, each costs a signature
        try:
            learned += rights.learn_list(raw, now)
        except (BadMessage, Forbidden) as why:
            log.debug("not a list of revocations: %s", why)
    return learned


class Gossip:
    """Compares what this member knows of the rules with what others know.

    Args:
        spawn: runs work in the background.
    """

    def __init__(
        self,
        overlay: Overlay,
        links: Links,
        rights: Rights,
        ambient: Ambient,
        spawn: Callable[[Awaitable[Any], str], None],
    ) -> None:
        self._overlay = overlay
        self._links = links
        self._rights = rights
        self._ambient = ambient
        self._spawn = spawn
        self._pulling = False
        self._pulled_at = float("-inf")
        overlay.serve("rules", self._compare)

    async def compare(self) -> None:
        """One comparison with a random contact."""
        for contact in self._draw(1):
            await self._ask(contact)

    async def round(self) -> None:
        """A comparison, and a pause until the next is due."""
        await self.compare()
        await asyncio.sleep(ROUND_SECONDS * (0.5 + self._ambient.random.random()))

    def spread(self) -> None:
        """Something was learned just now."""
        for contact in self._draw(EAGER_CONTACTS):
            self._spawn(self._ask(contact), "spreading the rules")

    def _draw(self, count: int) -> Sequence[Contact]:
        known = list(self._overlay.table)
        return self._ambient.random.sample(known, min(count, len(known)))

    def _digest(self) -> bytes:
        return _DIGEST.pack(self._rights.record.version, self._rights.revocations.summary())

    # ---- comparing -------------------------------------------------------------------------------------------

    async def _ask(self, contact: Contact) -> None:
        """Tells a contact what is known here, and pulls from it where that is something else."""
        try:
            body = b"" if self._overlay.client else self._digest()
            theirs = await self._overlay.call(contact, "rules", body, purpose=OTHER)
            if theirs != self._digest():
                await self._pull(contact)
        except (LinkError, RemotableError) as why:
            log.debug("the rules were not compared with %s: %s", contact, why)

    def _compare(self, contact: Contact, body: bytes) -> bytes:
        """A contact compares. Who sends nothing only asks."""
        if len(body) not in (0, _DIGEST.size):
            raise BadMessage("a digest of the rules has 16 bytes")
        now = asyncio.get_running_loop().time()
        if body and body != self._digest() and not self._pulling and now - self._pulled_at >= PULL_GAP_SECONDS:
            self._pulled_at = now
            self._spawn(self._pull_quietly(contact), "pulling the rules")
        return self._digest()

    async def _pull_quietly(self, contact: Contact) -> None:
        self._pulling = True
        try:
            await self._pull(contact)
        except (LinkError, RemotableError) as why:
            log.debug("the rules were not pulled from %s: %s", contact, why)
        finally:
            self._pulling = False

    async def _pull(self, contact: Contact) -> None:
        question = Rules(self._rights.record.version, self._rights.revocations.numbers())
        deadline = asyncio.get_running_loop().time() + PULL_SECONDS
        body = await self._links.request(
            contact, contact.id, Rules.wire_type, codec.encode(question), deadline=deadline
        )
        self.learn(codec.decode(body, News))

    # ---- what others ask and tell ----------------------------------------------------------------------------

    def learn(self, news: News) -> int:
        """Acts on signed news, whoever brings it. How much of it was news."""
        return _learn(self._rights, news, self._ambient.wall())

    def answer(self, question: Rules) -> News:
        """What somebody lacks who knows no more than this."""
        record = self._rights.raw_record if self._rights.record.version > question.version else b""
        lists: list[bytes] = []
        size = 0
        for raw in self._rights.revocations.newer_than(question.numbers):
            size += len(raw)
            if size > ANSWER_BYTES_MAX:
                break
            lists.append(raw)
        return News(record, lists)
