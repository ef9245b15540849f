"""Whoever signs grants from here: the pool's key, or this user by a grant that may be passed on."""

from typing import TYPE_CHECKING, NamedTuple

from titan_overlay.cli.face import Face

if TYPE_CHECKING:
    from titan_overlay.identity.grants import Right
    from titan_overlay.identity.ids import PoolId
    from titan_overlay.identity.keys import SigningKey


class Grantor(NamedTuple):
    """Who signs, and by what."""

    key: "SigningKey"
    pool: "PoolId"
    parent: bytes
    """The grant that is passed on; empty: the key is the pool's."""
    depth: int
    """How many times more what it signs may be passed on."""
    until: float
    """What it signs ends then at the latest."""


def pool_key(face: Face) -> "SigningKey":
    """The pool's secret key. Raises ConfigError: it is not here."""
    from titan_overlay.errors import ConfigError
    from titan_overlay.storage.directory import DataDirectory

    key = DataDirectory.read_pool_key(face.directory)
    if key is None:
        raise ConfigError(
            f"the pool's key is not in {face.directory}; run this on the founder's machine, or put pool.key back there"
        )
    return key


def grantor(face: Face, rights: "Right", names: str, depth: int = 0) -> Grantor:
    """Who can sign these rights on these names, to be passed on `depth` times more.

    Raises:
        ConfigError: nobody here; says what to do.
    """
    from titan_overlay.ambient import Ambient
    from titan_overlay.errors import ConfigError
    from titan_overlay.identity.grants import words

    able = [each for each in _all(face) if each.depth >= depth and _covers(each, rights, names)]
    if not able:
        command = f"titan grant {_user(face).public.hex()} {words(rights)} --names '{names}' --delegable"
        raise ConfigError(
            f"the pool's key is not in {face.directory}, and no grant there may be passed on for that; run this on "
            f"the founder's machine, put pool.key back, or ask there for: {command}"
        )
    best = max(able, key=lambda each: each.until)
    if best.until < Ambient.system().wall():
        raise ConfigError("the grant that could be passed on has expired; ask whoever gave it for a new one")
    return best


def any_grantor(face: Face) -> Grantor:
    """Whoever can take back from here what was signed here.

    Raises:
        ConfigError: nobody.
    """
    from titan_overlay.errors import ConfigError

    able = list(_all(face))
    if not able:
        raise ConfigError(
            f"nothing was granted from {face.directory}: neither the pool's key is there, nor a grant that may be "
            "passed on; run this where the grant was signed"
        )
    return max(able, key=lambda each: (not each.parent, each.until))


def pattern_of(face: Face, text: str) -> str:
    """The names that a user means. BadMessage: a grant on them would be good for nothing."""
    from titan_overlay.identity import names

    return names.pattern(text, _user(face).public)


def _user(face: Face) -> "SigningKey":
    from titan_overlay.ambient import Ambient
    from titan_overlay.storage.directory import DataDirectory

    return DataDirectory.user_key(face.directory, Ambient.system())


def _all(face: Face) -> "list[Grantor]":
    from titan_overlay.errors import BadMessage, Forbidden
    from titan_overlay.identity import grants
    from titan_overlay.identity.ids import PoolId
    from titan_overlay.storage.directory import DataDirectory

    pool = DataDirectory.read_pool_key(face.directory)
    found = [Grantor(pool, PoolId(pool.public), b"", grants.MAX_DEPTH, float("inf"))] if pool else []
    user = _user(face)
    for raw in DataDirectory.read_grants(face.directory):
        try:
            its_pool = grants.claimed_pool(raw)
            value = grants.chain(raw, its_pool)[-1].value
        except (BadMessage, Forbidden):
            continue
        if value.grantee == user.id and value.depth:
            found.append(Grantor(user, its_pool, raw, value.depth - 1, value.expires))
    return found


def _covers(grantor: Grantor, rights: "Right", names: str) -> bool:
    from titan_overlay.identity import grants

    return not grantor.parent or grants.gives(grants.chain(grantor.parent, grantor.pool), rights, names)
