"""Invitations: rights for whoever has the line, and for nobody who sees them used."""

import pytest

from tests.unit.test_grants import KEY, NOW, OTHER, POOL, POOL_KEY, THIRD, grant
from titan_overlay.errors import BadMessage, ConfigError, Forbidden
from titan_overlay.identity import grants
from titan_overlay.identity.grants import JoinLine, Right
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.invitations import Invitation, invite, redeem, redeemed
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.wire import codec

SECRET = b"i" * 32
RIGHTS = Right.JOIN | Right.HOST


def invitation(**options: object) -> bytes:
    return invite(POOL_KEY, POOL, RIGHTS, seed=SECRET, now=NOW, expires=NOW + 60, **options)  # type: ignore[arg-type]


def allowed(raw: bytes, who: SigningKey) -> bool:
    return bool(Rights(POOL).granted((raw,), who.id, RIGHTS, "x", NOW))


def test_an_invitation_survives_its_way_through_a_join_line() -> None:
    line = JoinLine.parse(str(JoinLine("h", 1, POOL, KEY.id, invitation())))
    assert allowed(redeem(line.invitation, PoolId(line.pool), KEY.id).raw, KEY)


def test_what_a_guest_shows_is_of_no_use_to_who_sees_it() -> None:
    shown = redeem(invitation(), POOL, KEY.id).raw
    assert SECRET not in shown
    assert allowed(shown, KEY) and not allowed(shown, OTHER)
    with pytest.raises(Forbidden):
        grants.issue(OTHER, POOL, OTHER.id, RIGHTS, now=NOW, expires=NOW + 60, parent=shown)


def test_an_invitation_is_good_for_each_key_of_its_bearer_and_gives_the_same_each_time() -> None:
    first = redeemed(invitation(), POOL, KEY.id, OTHER.id)
    assert first == redeemed(invitation(), POOL, KEY.id, OTHER.id)
    assert allowed(first[0], KEY) and allowed(first[1], OTHER)


def test_an_invitation_that_does_not_hold_is_an_error_that_says_so() -> None:
    without = codec.encode(Invitation(b"j" * 32, codec.decode(invitation(), Invitation).grant))
    with pytest.raises(BadMessage, match="secret"):
        redeem(without, POOL, KEY.id)
    for bad, pool in ((without, POOL), (invitation(), PoolId(OTHER.public)), (b"nonsense", POOL)):
        with pytest.raises(ConfigError, match="copied whole"):
            redeemed(bad, pool, KEY.id)


@pytest.mark.parametrize("kept", range(1, len(invitation()), 7))
def test_a_join_line_that_was_cut_is_refused(kept: int) -> None:
    text = str(JoinLine("h", 1, POOL, KEY.id, invitation()))
    with pytest.raises(ConfigError, match="copied whole"):
        redeemed(JoinLine.parse(text[: text.index("?") + 1 + kept]).invitation, POOL, KEY.id)


def test_who_was_given_a_grant_to_pass_on_invites_by_it() -> None:
    parent = grant(RIGHTS, pattern="*", depth=2)
    raw = invite(KEY, POOL, RIGHTS, seed=SECRET, now=NOW, expires=NOW + 60, parent=parent)
    assert allowed(redeem(raw, POOL, THIRD.id).raw, THIRD)
