"""How long a call of the Python API may take, and the look-up that most of them begin with."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from titan_overlay.errors import DeadlineExceeded
from titan_overlay.identity.ids import NodeId
from titan_overlay.pool.finding.places import Place
from titan_overlay.pool.finding.router import Router

DEFAULT_TIMEOUT = 10.0


@asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[float]:
    """Bounds what is done inside; gives the deadline (loop time)."""
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        async with asyncio.timeout_at(deadline):
            yield deadline
    except TimeoutError:
        raise DeadlineExceeded(
            f"{what} took longer than {seconds:g} s; pass a longer timeout", maybe_executed=True
        ) from None


async def find(
    router: Router, name: str, timeout: float, *, fresh: bool = True, avoid: frozenset[NodeId] = frozenset()
) -> Place:
    """Where the object lives; as `Places.find`. Raises DeadlineExceeded beside what the look-up raises."""
    async with within(timeout, f"looking up {name!r}") as deadline:
        return await router.places.find(router.object_id(name), name=name, deadline=deadline, fresh=fresh, avoid=avoid)
