"""Asking for the rules of a pool before anything else: its signed record, from whoever has it. Nobody is trusted.

    ASK     kind, version, nonce, padding up to 512  -->
            <--   RULES   kind, nonce, the pool record as signed

The answer proves itself by the pool's id; where that is not known yet, the record says which pool it is of.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from titan_overlay.errors import BadMessage
from titan_overlay.identity.contacts import IPV4, IPV6
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.poolrecord import check_record
from titan_overlay.overlay.packets import ASK, ASK_BYTES, ASK_FORM, RULES, RULES_FORM, VERSION
from titan_overlay.overlay.udp import resolve

log = logging.getLogger(__name__)

TRIES = 3
TRY_SECONDS = 0.5
SEEDS_MAX = 16


async def ask_record(
    seeds: Sequence[JoinLine], pool: PoolId | None, token_bytes: Callable[[int], bytes]
) -> bytes | None:
    """The record of the pool that these nodes are in, from the first that answers; None: none does.

    Args:
        pool: where it is known; else the first answer says (trust on first use).
    """
    expected = pool or next((PoolId(seed.pool) for seed in seeds if seed.pool), None)
    addresses = []
    for seed in seeds[:SEEDS_MAX]:
        try:
            addresses.append(await resolve(seed.host, seed.port, (IPV4, IPV6)))
        except OSError as why:
            log.warning("cannot find %s: %s", seed.host, why.strerror or why)
    asking = [
        _ask([each for each in addresses if (":" in each[0]) is v6], interface, expected, token_bytes)
        for v6, interface in ((False, "0.0.0.0"), (True, "::"))  # noqa: S104 - for replies
        if any((":" in each[0]) is v6 for each in addresses)
    ]
    answers = await asyncio.gather(*asking)
    return next((answer for answer in answers if answer), None)


async def _ask(
    addresses: list[tuple[str, int]], interface: str, pool: PoolId | None, token_bytes: Callable[[int], bytes]
) -> bytes | None:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    nonce = token_bytes(8)
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Listener(nonce, pool, answered), local_addr=(interface, 0)
        )
    except OSError:
        return None
    question = ASK_FORM.pack(ASK, VERSION, nonce).ljust(ASK_BYTES, b"\0")
    try:
        for _ in range(TRIES):
            for address in addresses:
                transport.sendto(question, address)
            await asyncio.wait([answered], timeout=TRY_SECONDS)
            if answered.done():
                return answered.result()
        return None
    finally:
        answered.cancel()
        transport.close()


class _Listener(asyncio.DatagramProtocol):
    """Waits for the first answer that proves itself."""

    def __init__(self, nonce: bytes, pool: PoolId | None, answered: "asyncio.Future[bytes]") -> None:
        self._nonce = nonce
        self._pool = pool
        self._answered = answered
        self._others: set[PoolId] = set()
        """Pools that were not asked for."""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self._answered.done() or data[: RULES_FORM.size] != RULES_FORM.pack(RULES, self._nonce):
            return
        raw = data[RULES_FORM.size :]
        try:
            found = PoolId(check_record(raw, None).public)
        except BadMessage:
            return
        if self._pool in (None, found):
            self._answered.set_result(raw)
        elif found not in self._others:
            self._others.add(found)
            log.warning("%s:%d is of another pool (%s); get a new join line", *addr[:2], found.hex()[:12])
