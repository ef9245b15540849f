"""A member that was started again asks the others what it has promised, before it votes: see `recollection.py`."""

import asyncio
import logging
from typing import TYPE_CHECKING

from titan_overlay.errors import LinkError, RemotableError
from titan_overlay.mutable import talk
from titan_overlay.mutable.epochs import Charter
from titan_overlay.mutable.recollection import ASK_AGAIN_SECONDS, Promise, Recollection, kept
from titan_overlay.wire import codec

if TYPE_CHECKING:
    from titan_overlay.mutable.group import Group

log = logging.getLogger("titan")

ASK_SECONDS = 1.0


class Restart:
    """See the module."""

    def __init__(self, group: "Group", charter: Charter) -> None:
        self._group = group
        self._charter = charter

    async def run(self) -> None:
        """Lets the group go on in this epoch, or has it give its membership up, once enough others have answered."""
        group = self._group
        began, epoch, recollection = group.loop.time(), group.configuration.epoch, self._begin()
        while True:
            await asyncio.gather(*(self._ask(each, epoch, recollection) for each in recollection.missing))
            if group.trouble or group.configuration.epoch != epoch:
                return
            forgotten = recollection.forgotten
            if forgotten is not None:
                group.disown(
                    f"its disk is an old copy: others know of promises of it up to height {forgotten.index} in "
                    f"term {forgotten.term}"
                )
            elif recollection.is_enough(group.loop.time() - began):
                group.wake_up()
                return
            else:
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    def _begin(self) -> Recollection:
        group = self._group
        members = group.configuration.members
        others = tuple(each for each in members if each != group.me) if group.me in members else ()
        quorum = self._charter.quorum(group.configuration) if others else 1
        return Recollection(kept(group.engine.status()), others, quorum, self._charter.liars(group.configuration) + 1)

    async def _ask(self, member: bytes, epoch: int, recollection: Recollection) -> None:
        group = self._group
        try:
            answer = await group.peers.ask(member, talk.PROMISED, codec.encode(epoch), ASK_SECONDS)
            recollection.hear(member, codec.decode(answer, Promise))
        except (LinkError, RemotableError) as why:
            log.debug("%s: %s does not say what it was promised: %s", group.machine.name, member.hex()[:12], why)
