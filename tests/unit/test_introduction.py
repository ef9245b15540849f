"""What a member shows of itself, and where."""

import random

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.identity import records
from titan_overlay.identity.grants import Right, issue
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.poolrecord import PoolRecord
from titan_overlay.identity.rights import Rights
from titan_overlay.introduction import Introduction

NOW = 1_700_000_000.0
POOL_KEY, KEY = SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)
POOL = PoolId(POOL_KEY.public)
JOIN = issue(POOL_KEY, POOL, KEY.id, Right.JOIN, now=NOW, expires=NOW + 3600).raw


def shown_by(rights: Rights) -> Introduction:
    return Introduction(KEY, KEY, rights, Ambient(lambda: NOW, random.Random(1), random.Random(1).randbytes), [JOIN])


def rules(version: int, strangers: Right) -> bytes:
    return records.sign(PoolRecord(version, strangers=int(strangers)), POOL_KEY, POOL).raw


PRIVATE, OPEN = Right.CALL, Right.CALL | Right.JOIN


@pytest.mark.parametrize(
    ("rights", "needed"),
    [
        pytest.param(Rights(POOL, rules(1, PRIVATE)), True, id="private"),
        pytest.param(Rights(POOL, rules(1, OPEN)), False, id="open"),
        pytest.param(Rights(POOL), True, id="not-known-yet"),
    ],
)
def test_a_handshake_shows_the_right_to_join_where_it_is_needed(rights: Rights, needed: bool) -> None:
    made = shown_by(rights)
    made.renew()
    assert (JOIN in made.in_handshake) is needed
    assert JOIN in made.on_link, "there nobody else can read it"


def test_a_pool_that_becomes_private_is_shown_it_from_then_on() -> None:
    rights = Rights(POOL, rules(1, OPEN))
    made = shown_by(rights)
    made.renew()
    assert not made.in_handshake
    rights.learn_record(rules(2, PRIVATE))
    made.renew()
    assert JOIN in made.in_handshake
