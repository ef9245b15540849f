"""Grants: what they allow, how they are passed on; and the join lines that lead to a pool."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.errors import BadMessage, ConfigError, Forbidden
from titan_overlay.identity import grants, names, records
from titan_overlay.identity.grants import CLOCK_TOLERANCE, LONGEST_SECONDS, MAX_DEPTH, Grant, JoinLine, Right
from titan_overlay.identity.ids import PoolId, fingerprint
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights

POOL_KEY = SigningKey(b"p" * 32)
POOL = PoolId(POOL_KEY.public)
KEY = SigningKey(b"k" * 32)
OTHER = SigningKey(b"o" * 32)
THIRD = SigningKey(b"t" * 32)
NOW = 1.7e9


def grant(rights: Right = Right.PUBLISH, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "grantee": KEY.id,
        "now": NOW,
        "expires": NOW + 60.0,
        "pattern": "weather/*",
        "key": POOL_KEY,
    }
    fields |= changes
    key = fields.pop("key")
    return grants.issue(key, POOL, fields.pop("grantee"), rights, **fields).raw


def allowed(
    raw: bytes,
    name: str = "weather/berlin",
    right: Right = Right.PUBLISH,
    now: float = NOW,
    who: SigningKey = KEY,
) -> bool:
    return bool(Rights(POOL).granted((raw,), who.id, right, name, now))


# --- rights ---


def test_a_grant_allows_its_right_on_its_names_to_its_grantee() -> None:
    assert allowed(grant())
    assert not allowed(grant(), name="traffic/berlin")
    assert not allowed(grant(), right=Right.HOST)
    assert not allowed(grant(), who=OTHER)


def test_a_grant_ends_when_it_expires_give_or_take_the_clocks() -> None:
    assert allowed(grant(), now=NOW + 60 + CLOCK_TOLERANCE)
    assert not allowed(grant(), now=NOW + 61 + CLOCK_TOLERANCE)
    with pytest.raises(Forbidden, match="titan grant"):
        Rights(POOL).check_grant(grant(), NOW + 3600)


def test_a_clock_that_was_set_back_takes_nothing_away() -> None:
    assert allowed(grant(), now=NOW - 86400)


def test_no_grant_lasts_for_ever() -> None:
    grant(expires=NOW + LONGEST_SECONDS)
    with pytest.raises(Forbidden, match="at most 366 days"):
        grant(expires=NOW + LONGEST_SECONDS + 1)


def test_only_the_pools_key_grants() -> None:
    with pytest.raises(Forbidden, match="does not come from the pool's key"):
        grant(key=KEY)
    forged = records.sign(Grant(KEY.id, 63, "*", int(NOW), int(NOW) + 60), KEY, POOL).raw
    assert not allowed(forged)


def test_to_join_is_about_no_name() -> None:
    assert Rights(POOL).granted((grant(Right.JOIN),), KEY.id, Right.JOIN, None, NOW)


# --- passing on ---


def passed(parent: bytes, **changes: Any) -> bytes:
    """By KEY to OTHER, unless the test says something else."""
    return grant(**({"key": KEY, "grantee": OTHER.id, "parent": parent} | changes))


def test_a_grant_is_passed_on_only_where_it_says_so() -> None:
    assert allowed(passed(grant(depth=1)), who=OTHER)
    with pytest.raises(Forbidden, match="titan grant --delegable"):
        passed(grant())
    with pytest.raises(Forbidden, match="may not be passed on"):
        passed(grant(depth=1), depth=1)


def test_a_grant_is_passed_on_a_bounded_number_of_times() -> None:
    first = grant(depth=MAX_DEPTH)
    second = passed(first, depth=1)
    third = grant(key=OTHER, grantee=THIRD.id, parent=second)
    assert allowed(third, who=THIRD) and len(grants.chain(third, POOL)) == MAX_DEPTH + 1
    with pytest.raises((Forbidden, BadMessage)):
        grant(key=THIRD, grantee=KEY.id, parent=third)


def test_only_its_grantee_passes_a_grant_on() -> None:
    with pytest.raises(Forbidden, match="another key"):
        passed(grant(depth=1), key=THIRD)


@pytest.mark.parametrize(
    ("wider", "why"),
    [
        ({"rights": Right.PUBLISH | Right.HOST}, "cannot pass on host"),
        ({"pattern": "*"}, "cannot pass them on"),
        ({"pattern": "weatherman"}, "cannot pass them on"),
        ({"expires": NOW + 61}, "ends no later"),
        ({"trust": KEY.public}, "whose code to trust"),
    ],
)
def test_what_is_passed_on_is_no_wider(wider: dict[str, Any], why: str) -> None:
    with pytest.raises(Forbidden, match=why):
        passed(grant(depth=1), **wider)


PATTERNS = st.sampled_from(["*", "weather/*", "weather/berlin", "weather/berlin/*", "traffic/*", "w", "weather"])
NAMES = st.sampled_from(["weather/berlin", "weather/berlin/mitte", "weather", "traffic/x", "w", "z", "weather/*"])
RIGHTS = st.integers(0, 63).map(Right)


@given(given_=RIGHTS, given_on=PATTERNS, rights=RIGHTS, on=PATTERNS, later=st.integers(-50, 50), data=st.data())
def test_a_grant_that_was_passed_on_never_allows_more_than_the_one_it_came_from(
    given_: Right, given_on: str, rights: Right, on: str, later: int, data: st.DataObject
) -> None:
    parent = grant(given_, pattern=given_on, depth=1)
    body = Grant(OTHER.id, int(rights), on, int(NOW), int(NOW) + 60 + later, parent=parent)
    child = records.sign(body, KEY, POOL).raw
    name = data.draw(NAMES)
    right = data.draw(st.sampled_from(list(Right)))
    at = NOW + data.draw(st.integers(-400, 500))
    if allowed(child, name, right, at, OTHER):
        assert allowed(parent, name, right, at, KEY)


def test_a_chain_that_would_not_fit_says_what_helps() -> None:
    with pytest.raises(BadMessage, match="ask for one nearer the pool's"):
        passed(grant(depth=1, pattern="a" * 200 + "/*"), pattern="a" * 200 + "/" + "b" * 50)


def test_the_pool_that_a_grant_comes_from_can_be_read_from_it() -> None:
    assert grants.claimed_pool(passed(grant(depth=1))) == POOL


def test_who_asks_for_two_rights_needs_both() -> None:
    both = Right.PUBLISH | Right.HOST
    assert not allowed(grant(Right.PUBLISH), right=both)
    assert allowed(grant(both), right=both)
    assert allowed(grant(both | Right.DELETE), right=both)


@given(raw=st.binary(max_size=300))
def test_what_is_no_grant_allows_nothing_and_raises_nothing(raw: bytes) -> None:
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


def may_publish(key: SigningKey, name: str, raw: bytes = b"") -> bool:
    try:
        Rights(POOL).check_publish(key.public, name, raw, NOW)
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
        Rights(POOL).check_publish(KEY.public, name, b"", NOW)


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


@pytest.mark.parametrize("text", ["[::1]:4747", "example.org:4747", "192.0.2.7:1"])
def test_the_address_of_a_line_is_written_as_it_is_read(text: str) -> None:
    for line in (JoinLine.parse(text), JoinLine.parse(f"titan://{A}/{B}@{text}?{'a' * 8}")):
        assert line.address == text


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


def test_a_join_line_may_be_broken_into_several() -> None:
    text = str(JoinLine("host", 1, b"p" * 32, b"n" * 32, b"invitation" * 20))
    assert JoinLine.parse(" \n".join(text[at : at + 70] for at in range(0, len(text), 70))) == JoinLine.parse(text)


def test_a_join_line_that_cannot_be_read_keeps_its_invitation_to_itself() -> None:
    with pytest.raises(ConfigError, match="copied whole") as refused:
        JoinLine.parse(f"titan://{A}/{B[:-1]}@host:1?c2VjcmV0")
    assert "c2VjcmV0" not in str(refused.value)


def test_a_port_left_out_is_the_usual_one() -> None:
    assert JoinLine.parse("example.org") == JoinLine("example.org", 4747)
    assert JoinLine.parse("[::1]") == JoinLine("::1", 4747)
    assert JoinLine.parse("example.org", default_port=9).port == 9


def test_a_malformed_grant_is_a_bad_message() -> None:
    with pytest.raises(BadMessage):
        grants.chain(b"nonsense", POOL)
