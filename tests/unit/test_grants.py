"""Grants, and the join lines that carry them."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.errors import BadMessage, ConfigError, Forbidden
from titan_overlay.identity import grants, names
from titan_overlay.identity.grants import BEARER, CLOCK_TOLERANCE, JoinLine, Right
from titan_overlay.identity.ids import PoolId, fingerprint
from titan_overlay.identity.keys import SigningKey

POOL_KEY = SigningKey(b"p" * 32)
POOL = PoolId(POOL_KEY.public)
KEY = SigningKey(b"k" * 32)
OTHER = SigningKey(b"o" * 32)
NOW = 1.7e9


def grant(rights: Right = Right.PUBLISH, **changes: Any) -> bytes:
    fields: dict[str, Any] = {"grantee": KEY.id, "expires": NOW + 60.0, "pattern": "weather/*", "key": POOL_KEY}
    fields |= changes
    key = fields.pop("key")
    return grants.issue(key, POOL, fields.pop("grantee"), rights, **fields).raw


def allowed(
    raw: bytes | None,
    name: str = "weather/berlin",
    right: Right = Right.PUBLISH,
    now: float = NOW,
    who: SigningKey = KEY,
) -> bool:
    return grants.allows(raw, POOL, who.id, right, name, now)


# --- rights ---


def test_a_grant_allows_its_right_on_its_names_to_its_grantee() -> None:
    assert allowed(grant())
    assert not allowed(grant(), name="traffic/berlin")
    assert not allowed(grant(), right=Right.HOST)
    assert not allowed(grant(), who=OTHER)
    assert allowed(grant(grantee=BEARER), who=OTHER)


def test_a_grant_ends_when_it_expires_give_or_take_the_clocks() -> None:
    assert allowed(grant(), now=NOW + 60 + CLOCK_TOLERANCE)
    assert not allowed(grant(), now=NOW + 61 + CLOCK_TOLERANCE)
    with pytest.raises(Forbidden, match="titan grant"):
        grants.check(grant(), POOL, NOW + 3600)


def test_only_the_pools_key_grants() -> None:
    assert not allowed(grant(key=KEY))
    with pytest.raises(Forbidden, match="not signed by the pool"):
        grants.check(grant(key=KEY), POOL, NOW)


def test_who_asks_for_two_rights_needs_both() -> None:
    both = Right.PUBLISH | Right.HOST
    assert not allowed(grant(Right.PUBLISH), right=both)
    assert allowed(grant(both), right=both)
    assert allowed(grant(both | Right.DELETE), right=both)


@given(raw=st.one_of(st.none(), st.binary(max_size=300)))
def test_what_is_no_grant_allows_nothing_and_raises_nothing(raw: bytes | None) -> None:
    assert not allowed(raw)


@given(st.data())
def test_a_grant_with_a_byte_changed_allows_nothing(data: st.DataObject) -> None:
    raw = grant()
    place = data.draw(st.integers(0, len(raw) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[place]))
    assert not allowed(raw[:place] + bytes([other]) + raw[place + 1 :])


@given(st.sets(st.sampled_from(list(Right)), min_size=1))
def test_words_for_rights_come_back_as_rights(rights: set[Right]) -> None:
    text = " , ".join(right.name.lower() for right in rights if right.name)
    total = Right(0)
    for right in rights:
        total |= right
    assert Right.parse(text) == total


@given(st.text())
def test_other_words_are_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        assert isinstance(Right.parse(text), Right)


# --- who may publish what ---


def may_publish(key: SigningKey, name: str, raw: bytes | None = None) -> bool:
    try:
        grants.may_publish(key.public, key.id, name, raw, POOL, NOW)
    except Forbidden:
        return False
    return True


def test_names_of_the_pool_need_a_grant_and_ones_own_do_not() -> None:
    assert may_publish(KEY, f"~{fingerprint(KEY.public)}/lamp")
    assert not may_publish(OTHER, f"~{fingerprint(KEY.public)}/lamp")
    assert may_publish(OTHER, names.content_name(b"c" * 32))
    assert not may_publish(KEY, "weather/berlin")
    assert may_publish(KEY, "weather/berlin", grant())
    assert not may_publish(KEY, "traffic/berlin", grant())
    assert not may_publish(KEY, f"~{fingerprint(OTHER.public)}/lamp", grant(pattern="*"))
    assert may_publish(POOL_KEY, "weather/berlin")


def test_a_node_publishes_itself_and_no_other() -> None:
    assert may_publish(KEY, names.node_name(KEY.id))
    assert not may_publish(KEY, names.node_name(OTHER.id), grant(pattern="*"))


@pytest.mark.parametrize("name", ["weather/berlin", f"~{fingerprint(OTHER.public)}/lamp", names.node_name(OTHER.id)])
def test_a_refusal_names_what_would_be_allowed_and_the_command_that_helps(name: str) -> None:
    with pytest.raises(Forbidden, match=r"~me/.*titan grant"):
        grants.may_publish(KEY.public, KEY.id, name, None, POOL, NOW)


# --- join lines ---

hosts = st.one_of(
    st.ip_addresses().map(str), st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True)
)


@given(
    host=hosts,
    port=st.integers(1, 65535),
    pool=st.binary(min_size=32, max_size=32),
    node=st.binary(min_size=32, max_size=32),
    invitation=st.binary(max_size=300),
)
def test_a_join_line_comes_back_from_its_text(
    host: str, port: int, pool: bytes, node: bytes, invitation: bytes
) -> None:
    line = JoinLine(host, port, pool, node, invitation)
    assert JoinLine.parse(str(line)) == line
    bare = JoinLine(host, port)
    assert JoinLine.parse(str(bare)) == bare


@given(
    st.one_of(
        st.text(),
        st.text().map("titan://".__add__),
        st.text().map(f"titan://{'a' * 64}/{'b' * 64}@".__add__),
        st.text().map(f"titan://{'a' * 64}/{'b' * 64}@h:1?".__add__),
    )
)
def test_any_text_is_a_join_line_or_a_config_error(text: str) -> None:
    try:
        line = JoinLine.parse(text)
    except ConfigError:
        return
    assert JoinLine.parse(str(line)) == line
    assert line.host and 1 <= line.port <= 65535
    assert len(line.pool) == len(line.node) and len(line.pool) in (0, 32)


A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    "bad",
    [
        "",
        ":4747",
        "host:0",
        "host:65536",
        "host:x",
        "user@host:1",
        "host:1/path",
        "host:1?query",
        "host:1#part",
        "http://host:1",
        "::1",
        "a b:1",
        f"titan://{A}@host:1",
        f"titan://{A}/{B}",
        f"titan://{A[:-1]}/{B}@host:1",
        f"titan://{' ' * 64}/{B}@host:1",
        f"titan://{'0 ' * 32}/{B}@host:1",
        f"titan://{A}/{B}@user@host:1",
        f"titan://{A}/{B}@host:1/path",
        f"titan://{A}/{B}@host:1?not base64!",
        f"titan://{A}/{B}@host:1?a",
    ],
)
def test_a_join_line_that_is_wrong_is_refused_whole(bad: str) -> None:
    with pytest.raises(ConfigError, match="join line"):
        JoinLine.parse(bad)


def test_a_port_left_out_is_the_usual_one() -> None:
    assert JoinLine.parse("example.org") == JoinLine("example.org", 4747)
    assert JoinLine.parse("[::1]") == JoinLine("::1", 4747)
    assert JoinLine.parse("example.org", default_port=9).port == 9


def test_a_grant_survives_its_way_through_a_join_line() -> None:
    raw = grant(Right.JOIN | Right.HOST, grantee=BEARER)
    line = JoinLine.parse(str(JoinLine("h", 1, POOL, KEY.id, raw)))
    assert grants.check(line.invitation, PoolId(line.pool), NOW).value.rights == Right.JOIN | Right.HOST


def test_a_malformed_grant_is_a_bad_message() -> None:
    with pytest.raises(BadMessage):
        grants.check(b"nonsense", POOL, NOW)
