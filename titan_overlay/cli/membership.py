"""Which pool a data directory belongs to, by what rules, with which keys and grants. Founding is here too."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from titan_overlay.ambient import Ambient
from titan_overlay.config import NodeConfig
from titan_overlay.errors import BadMessage, ConfigError, Forbidden
from titan_overlay.identity import grants, records
from titan_overlay.identity.grants import JoinLine, Right
from titan_overlay.identity.ids import PoolId, solves_puzzle
from titan_overlay.identity.invitations import redeemed
from titan_overlay.identity.keys import KEY_BYTES, SigningKey
from titan_overlay.identity.poolrecord import STRANGER, PoolRecord
from titan_overlay.identity.rights import Rights
from titan_overlay.node import unsolved
from titan_overlay.overlay.asking import ask_record
from titan_overlay.rules import recall, remember
from titan_overlay.storage.directory import DataDirectory
from titan_overlay.storage.rows import Database

log = logging.getLogger("titan")

ALL_RIGHTS: Final = Right.JOIN | Right.CALL | Right.HOST | Right.PUBLISH | Right.DELETE | Right.ADMINISTER
RENEW_SECONDS: Final = grants.FOUNDER_SECONDS / 2
"""A founder's own grant that lasts less long is renewed at the next start, while the pool's key is here."""

ASK_PAUSE_SECONDS: Final = (1.0, 60.0)
"""First and longest wait between two tries to learn the rules of a pool."""
KEYS_AT_ONCE: Final = 64
"""Keys that are tried before signals are looked at."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Who a node is in its pool."""

    key: SigningKey
    owner: SigningKey
    rights: Rights
    grants: tuple[bytes, ...]
    founder: bool
    founding: bool
    """It founds the pool just now."""
    pinned: bool
    """The pool was known before this start (else: trust on first use, unless a join line names it)."""


async def settle(
    config: NodeConfig, directory: DataDirectory, database: Database, lines: Sequence[JoinLine], ambient: Ambient
) -> Membership:
    """Founds a pool, or finds out which one this directory belongs to, and makes the keys that are missing.

    A node without a key waits for the rules of the pool: they say how much work an id is to cost.

    Raises:
        ConfigError: the directory belongs to another pool than the join lines, its pool is unknown, an invitation does
            not hold, or its key does not solve the pool's puzzle. StorageError: a file cannot be used.
    """
    known = database.setting("pool")
    founding = known is None and not lines
    if founding:
        known = _found(config, directory, database, ambient)
    rights = Rights(_agreed_pool(known, lines, directory))
    if rights.known_pool is not None:
        recall(database, rights, ambient.wall())
    founder = database.setting("founder") == b"1"
    if config.private and not rights.record.private:
        log.warning("--private is for founding a pool; this one admits anybody: titan pool set --strangers none")
    has_key = DataDirectory.read_node_id(directory.path) is not None
    if not has_key and not rights.raw_record:
        await _learn_rules(rights, lines, ambient)
        remember(database, rights)
    key = await _node_key(directory, rights, ambient)
    owner = directory.client_key(ambient)
    if rights.known_pool is not None:
        _take_invitations(directory, lines, rights.pool, (key, owner))
        if founder:
            _grant_founder(directory, rights.pool, (key, owner), ambient)
    return Membership(
        key, owner, rights, tuple(directory.load_grants()), founder, founding, known is not None and not founding
    )


# ---- the pool --------------------------------------------------------------------------------------------------


def _found(config: NodeConfig, directory: DataDirectory, database: Database, ambient: Ambient) -> bytes:
    """Makes a pool; its id. Before anything is founded the directory is looked at: a mistake leaves no pool behind."""
    _check_not_forgotten(directory)
    node = DataDirectory.read_node_id(directory.path)
    if node is not None and not solves_puzzle(node, config.puzzle_bits):
        raise ConfigError(unsolved(directory.path, config.puzzle_bits))
    key = directory.make_pool_key(ambient)
    strangers = Right(0) if config.private else STRANGER
    record = PoolRecord(int(ambient.wall() * 1000), config.puzzle_bits, int(strangers))
    rights = Rights(PoolId(key.public), records.sign(record, key, PoolId(key.public)).raw)
    with database.transaction():
        database.put_setting("pool", key.public)
        database.put_setting("founder", b"1")
        remember(database, rights)
    return key.public


def _check_not_forgotten(directory: DataDirectory) -> None:
    """Founding is for new directories: a node whose database was damaged belongs to a pool that it has forgotten.

    Raises:
        ConfigError: that is so.
    """
    damaged = sorted(directory.path.glob(f"{directory.database.name}.corrupt-*"))
    if damaged and directory.pool_key() is None:
        raise ConfigError(
            f"{damaged[0]} was damaged, and with it this node forgot its pool; "
            "name a node of it with --bootstrap HOST:PORT (or delete that file to found a new pool)"
        )


def _agreed_pool(known: bytes | None, lines: Sequence[JoinLine], directory: DataDirectory) -> PoolId | None:
    """The pool that the directory and the join lines agree on; None: whatever the first contact is in."""
    named = {line.pool for line in lines if line.pool}
    if len(named | ({known} if known else set())) > 1:
        where = f"{directory.path} belongs to pool {known.hex()[:12]}" if known else "two pools are named"
        others = " and ".join(sorted(pool.hex()[:12] for pool in named))
        raise ConfigError(
            f"{where}, the join line says {others}; a node is in one pool: choose another with --data DIR"
        )
    agreed = known or next(iter(named), None)
    return PoolId(agreed) if agreed else None


async def _learn_rules(rights: Rights, lines: Sequence[JoinLine], ambient: Ambient) -> None:
    pause, longest = ASK_PAUSE_SECONDS
    while (raw := await ask_record(lines, rights.known_pool, ambient.token_bytes)) is None:
        tried = ", ".join(line.address for line in lines)
        log.warning("no answer from %s; trying again in %.0f s (is the node up, the port open?)", tried, pause)
        await asyncio.sleep(pause * (0.8 + 0.4 * ambient.random.random()))
        pause = min(pause * 2, longest)
    rights.learn_record(raw)


# ---- the node's key --------------------------------------------------------------------------------------------


async def _node_key(directory: DataDirectory, rights: Rights, ambient: Ambient) -> SigningKey:
    """The node's key, which solves the pool's puzzle.

    Raises:
        ConfigError: it was made before, and does not.
    """
    bits = rights.record.puzzle_bits
    if DataDirectory.read_node_id(directory.path) is None:
        key = directory.node_key(await solved(lambda key: rights.may_serve(key.id), bits, ambient))
    else:
        key = directory.node_key(b"")
    if not rights.may_serve(key.id):
        raise ConfigError(unsolved(directory.path, bits))
    return key


async def solved(accept: Callable[[SigningKey], bool], bits: int, ambient: Ambient) -> bytes:
    """The seed of a key that is accepted; says how long that took."""
    loop = asyncio.get_running_loop()
    begun, tries = loop.time(), 0
    while True:
        for _ in range(KEYS_AT_ONCE):
            seed = ambient.token_bytes(KEY_BYTES)
            tries += 1
            if accept(SigningKey(seed)):
                if bits:
                    took = loop.time() - begun
                    log.info("made a key that solves the pool's puzzle of %d bits: %d tries, %.2f s", bits, tries, took)
                return seed
        await asyncio.sleep(0)


# ---- grants ----------------------------------------------------------------------------------------------------


def _take_invitations(
    directory: DataDirectory, lines: Sequence[JoinLine], pool: PoolId, keys: Sequence[SigningKey]
) -> None:
    """What an invitation gives, for the node and its user. The same line gives the same grants each time."""
    for line in lines:
        for raw in redeemed(line.invitation, pool, *(key.id for key in keys)) if line.invitation else []:
            directory.save_grant(raw)


def _grant_founder(directory: DataDirectory, pool: PoolId, keys: Sequence[SigningKey], ambient: Ambient) -> None:
    """The founder's node and user work by grants, so that the pool's key can be taken off line."""
    signer = directory.pool_key()
    if signer is None or signer.public != pool:
        return
    now = ambient.wall()
    saved = directory.load_grants()
    rights = Rights(pool)
    for key in keys:
        best = rights.best(saved, key.id, ALL_RIGHTS, "*", now)
        if not best or rights.ends(best) < now + RENEW_SECONDS:
            expires = now + grants.FOUNDER_SECONDS
            directory.save_grant(grants.issue(signer, pool, key.id, ALL_RIGHTS, now=now, expires=expires).raw)


def trusted(named: Sequence[str], held: Sequence[bytes], rights: Rights, now: float) -> tuple[str, ...]:
    """Keys whose code this node runs: those that the operator names, and those of invitations that say so."""
    if rights.known_pool is None:
        return tuple(named)
    invited = []
    for raw in held:
        try:
            invited += [link.value.trust.hex() for link in rights.check_grant(raw, now) if link.value.trust]
        except (BadMessage, Forbidden):
            continue
    return tuple(dict.fromkeys([*named, *invited]))
