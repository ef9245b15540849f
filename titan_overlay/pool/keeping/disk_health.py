"""Whether this node can still write: with a full disk it is read-only, says so, and tries again now and then."""

import asyncio
import logging

from titan_overlay.errors import Overloaded, StorageError

log = logging.getLogger("titan")

TRIAL_SECONDS = 60.0
"""While the disk is full, one replica in this many seconds is accepted, to see whether there is room again."""


class DiskHealth:
    """What is known from the last write."""

    def __init__(self) -> None:
        self.failure = ""
        """Why nothing can be written, or empty."""
        self._next_trial = 0.0

    def failed(self, why: StorageError) -> Overloaded:
        """Notes that something could not be written; the error that whoever asked for it gets."""
        if not self.failure:
            log.warning("read-only from now on, what is here stays and is served: %s", why)
        self.failure = str(why)
        self._next_trial = asyncio.get_running_loop().time() + TRIAL_SECONDS
        # Paths of this machine are its operator's business.
        return Overloaded("the disk of this node is full or broken: it is read-only", retry_after=TRIAL_SECONDS)

    def works(self) -> None:
        """Something was written."""
        if self.failure:
            log.info("the disk can be written again: no longer read-only")
            self.failure = ""

    def check(self) -> None:
        """Raises Overloaded while it is not worth trying."""
        if self.failure and asyncio.get_running_loop().time() < self._next_trial:
            raise Overloaded("the disk of this node is full or broken: it is read-only", retry_after=TRIAL_SECONDS)
