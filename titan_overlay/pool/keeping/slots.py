"""Replicas that are being taken in: so many at once, and of those so many for one neighbourhood.

Taking one in may last as long as its content takes to come, and who asks for it decides how fast it comes. So nobody
may hold all places, nor fill the queue before them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from titan_overlay.errors import Overloaded

TAKING_MAX = 8
TAKING_PER_SUBNET = 3
WAITING_PER_SUBNET = 64
ASKING_MAX = 2 * (TAKING_PER_SUBNET + WAITING_PER_SUBNET)
"""In work and waiting. Nobody has more of these than are left to others (Choudhury and Hahne, "Dynamic queue length
thresholds for shared-memory packet switches", 1998)."""
FIRST_MAX = 64
"""Beside those, for the first of a subnet."""
RETRY_SECONDS = 5.0


class Slots:
    """Places for replicas that come in, by the subnet of who asks (`identity.subnets`)."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(TAKING_MAX)
        self._shares: dict[str, asyncio.Semaphore] = {}
        self._asking: dict[str, int] = {}
        """In work and waiting."""

    @asynccontextmanager
    async def taken(self, subnet: str) -> AsyncIterator[None]:
        """A place, first come first served within a subnet's share.

        Raises:
            Overloaded: too many wait from there already.
        """
        asking = self._asking.get(subnet, 0)
        left = ASKING_MAX - sum(self._asking.values())
        if asking >= left if asking else left + FIRST_MAX <= 0:
            raise Overloaded(
                f"too many replicas wait here to be taken in, {asking} of them for your network",
                retry_after=RETRY_SECONDS,
            )
        self._asking[subnet] = asking + 1
        share = self._shares.setdefault(subnet, asyncio.Semaphore(TAKING_PER_SUBNET))
        try:
            async with share, self._all:
                yield
        finally:
            self._asking[subnet] -= 1
            if not self._asking[subnet]:
                del self._asking[subnet], self._shares[subnet]
