"""Trust on first use: which pool a bare `host:port` leads to is believed once, said, and from then on expected.

A node remembers its pool in its database; this is for programs, which keep a pin for each address (`known_pools`).
"""

import logging
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from titan_overlay.errors import ConfigError, StorageError
from titan_overlay.identity.contacts import format_address
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.poolrecord import check_record
from titan_overlay.overlay.asking import ask_record
from titan_overlay.storage.known_pools import KnownPools, Pin

log = logging.getLogger("titan")


class FirstUse:
    """Bare addresses of one connection, and what is known of them."""

    def __init__(self, known: KnownPools) -> None:
        self._known = known

    def expecting(self, seeds: Sequence[JoinLine]) -> list[JoinLine]:
        """The seeds; those that name no pool with the one that was met there before.

        Raises:
            ConfigError: that is not the pool that the other seeds name. StorageError: the pins cannot be read.
        """
        named = {seed.pool for seed in seeds if seed.pool}
        expecting = []
        for seed in seeds:
            pin = self._pin(seed)
            if pin is not None and named and pin.pool not in named:
                raise self._another(pin, next(iter(named)))
            expecting.append(replace(seed, pool=pin.pool) if pin is not None else seed)
        return expecting

    def pin(self, joined: Sequence[JoinLine], pool: PoolId) -> None:
        """What has been reached through seeds that named no pool is this pool, and is to stay it."""
        new = [_address(seed) for seed in joined if not seed.pool]
        if not new:
            return
        after = "from now on only there"
        try:
            self._known.add(new, pool)
        except StorageError as why:
            after = f"this time: {why}"
        log.warning("trust on first use: %s leads to pool %s, %s", ", ".join(new), pool.hex()[:12], after)

    async def check(self, seeds: Sequence[JoinLine], token_bytes: Callable[[int], bytes]) -> None:
        """To be called when none of the seeds could be joined through.

        Raises:
            ConfigError: another pool than the pinned one answers at one of them.
        """
        for seed in seeds:
            pin = self._pin(seed)
            raw = await ask_record([replace(seed, pool=b"")], None, token_bytes) if pin is not None else None
            if pin is not None and raw is not None and (found := check_record(raw, None).public) != pin.pool:
                raise self._another(pin, found)

    def _pin(self, seed: JoinLine) -> Pin | None:
        return None if seed.pool else self._known.find(_address(seed))

    def _another(self, pin: Pin, pool: bytes) -> ConfigError:
        return ConfigError(
            f"{pin.address} led to pool {pin.pool.hex()[:12]} when it was first used, and now to {pool.hex()[:12]}; "
            f"if that is meant, delete line {pin.line} of {self._known.path}"
        )


def _address(seed: JoinLine) -> str:
    return format_address((seed.host.lower(), seed.port))
