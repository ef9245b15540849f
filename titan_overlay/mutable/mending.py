"""Members of groups on a disk that was full take part again once there is room: the log is read again, as at a start.

What was confirmed is on such a disk, and engines that were ahead of it are made anew. After any other failure nobody
knows what is on the disk (see `Log`): the operator looks first, and starts the node again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from titan_overlay.errors import StorageError
from titan_overlay.mutable.log_format import Damage
from titan_overlay.storage.disk import Disk

log = logging.getLogger("titan")

TRIAL_SECONDS = 30.0
"""While the disk is full, it is looked at this often."""
ROOM_BYTES = 16 << 20
"""With less of it free the log would soon fail again: the size of one of its segments."""


class Mending:
    """See the module.

    Args:
        disk: on which the log is.
        begin_anew: opens the log and all members from it; whether it can be written since. Raises StorageError.
    """

    def __init__(self, disk: Disk, begin_anew: Callable[[], Awaitable[bool]]) -> None:
        self._disk = disk
        self._begin_anew = begin_anew
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The log has failed for want of room."""
        if self._task is None or self._task.done():
            log.warning("no room for the log: until there is, this node takes no part in mutable objects")
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TRIAL_SECONDS)
            try:
                if await self._disk.free() >= ROOM_BYTES and await self._begin_anew():
                    log.info("there is room for the log again: this node takes part in its mutable objects")
                    return
            except Damage as why:
                log.error("this node takes no part in mutable objects: %s", why)
                return
            except StorageError as why:
                log.debug("the log cannot be opened yet: %s", why)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
