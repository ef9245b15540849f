"""Passing caches: data that was read here may be kept for a while, so that the next reader has a shorter way."""

import logging
from collections.abc import Awaitable, Callable

from titan_overlay.errors import TitanError
from titan_overlay.identity.ids import ObjectId
from titan_overlay.pool.finding.places import Place, contact_of
from titan_overlay.pool.keeping.admission import Admission, Taken
from titan_overlay.pool.orders import Recruit

log = logging.getLogger("titan")

AT_ONCE = 2
BYTES_MAX = 8 << 20
"""Larger data is not picked up in passing."""


class Passing:
    """Picks up what was read, within what `Admission` lets in.

    Args:
        held: whether the object is held here. spawn: runs work in the background, with a word on what it is.
    """

    def __init__(
        self,
        admission: Admission,
        hold: Taken,
        object_id: Callable[[str], ObjectId],
        held: Callable[[ObjectId], bool],
        spawn: Callable[[Awaitable[None], str], None],
    ) -> None:
        self._admission = admission
        self._hold = hold
        self._object_id = object_id
        self._held = held
        self._spawn = spawn
        self._under_way = 0

    def read(self, place: Place) -> None:
        """An object was read here."""
        value = place.descriptor.value
        content = value.content
        if content is None or not value.policy.cache or content.size > BYTES_MAX:
            return
        if self._under_way >= AT_ONCE or self._held(self._object_id(value.name)):
            return
        self._under_way += 1
        self._spawn(self._keep(place), f"caching {value.name}")

    async def _keep(self, place: Place) -> None:
        try:
            order = Recruit(
                descriptor=place.descriptor.raw, holders=tuple(each.raw for each in place.holders), passing=True
            )
            await self._admission.recruit(order, contact_of(place.holders[0]), self._hold)
        except (TitanError, IndexError) as why:
            log.debug("not cached: %s", why)
        finally:
            self._under_way -= 1
