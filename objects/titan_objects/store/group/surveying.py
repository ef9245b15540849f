"""What a door knows of its group: what INFO, CONFIG GET and WAIT say of it."""

import asyncio

import titan_overlay as titan
from titan_objects.store import system
from titan_objects.store.group.clients import DoorConfig
from titan_objects.store.group.messages import Overview, Survey
from titan_objects.store.group.sending import ANSWER_SECONDS

LOOK_SECONDS = 2.0
"""How long INFO waits for the group."""


class Surveying:
    """Asks the group when a client wants to know.

    Args:
        name: of the object that the group keeps.
        config: of the door; it is told the group's settings.

    Attributes:
        faults: failures that the group survives, so many other members have what was acknowledged; 0: not asked yet.
    """

    def __init__(self, pool: titan.Pool, name: str, config: DoorConfig) -> None:
        self._pool = pool
        self._name = name
        self._config = config
        self._overview: Overview | None = None
        self._reached = False
        self.faults = 0

    async def describe(self) -> None:
        """Asks what the group survives, which never changes. Raises TitanError."""
        if not self.faults:
            described = await self._pool.describe(self._name, timeout=ANSWER_SECONDS)
            if isinstance(described, titan.Description):
                self.faults = described.policy.faults

    async def survey(self) -> None:
        """Asks for an overview. Raises TitanError."""
        await self.describe()
        self._overview = await self._pool.read(self._name, Survey(), timeout=ANSWER_SECONDS)
        self._config.of_group = self._overview.settings

    async def look(self) -> None:
        """As `survey`, but does not fail and takes little time: who asks wants to know above all what is wrong."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self.survey()
        except (titan.TitanError, TimeoutError):
            self._reached = False
        else:
            self._reached = True

    def surroundings(self) -> dict[str, dict[str, object]]:
        """What INFO says, by section: of this machine, and of the group as it was when it was asked last."""
        around = system.surroundings()
        state = "reached" if self._reached else "unavailable"
        around["replication"] = {"titan_object": self._name, "titan_faults": self.faults, "titan_group": state}
        seen = self._overview
        if seen is not None:
            around["keyspace"] = {f"db{db}": f"keys={keys},expires={ends},avg_ttl=0" for db, keys, ends in seen.keys}
            around["stats"] = {"expired_keys": seen.expired, "evicted_keys": seen.evicted}
            around["memory"] |= {
                name.replace("-", "_"): seen.settings[name] for name in ("maxmemory", "maxmemory-policy")
            }
        return around
