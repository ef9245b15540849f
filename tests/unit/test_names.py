"""Names: what is one, what it stands for, and what a pattern covers."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.errors import BadMessage
from titan_overlay.identity import names
from titan_overlay.identity.ids import PoolId, fingerprint, node_id

POOL = PoolId(bytes(range(32)))
OTHER_POOL = PoolId(bytes(32))
HEX = "0123456789abcdef" * 4

anything = st.one_of(
    st.text(),
    st.text(alphabet="a/~*:\u0301\u0000é"),
    st.builds(str.__add__, st.sampled_from(["~", "~me/", "sha256:", "node:", "~" + HEX[:32] + "/"]), st.text()),
)


@given(anything)
def test_any_text_is_a_name_or_a_bad_message(text: str) -> None:
    try:
        names.check(text)
    except BadMessage:
        return
    assert 1 <= len(text.encode()) <= 255
    assert unicodedata.normalize("NFC", text) == text
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in text)
    assert "" not in text.split("/")


@given(anything)
def test_a_full_name_has_an_id_of_32_bytes_in_every_pool(text: str) -> None:
    try:
        found = names.object_id(POOL, text)
    except BadMessage:
        return
    assert len(found) == 32
    same_everywhere = names.space(text) in (names.Space.CONTENT, names.Space.NODE)
    assert (names.object_id(OTHER_POOL, text) == found) is same_everywhere


@pytest.mark.parametrize("odd", [5, None, b"name", ["name"]])
def test_what_is_no_text_is_a_bad_message(odd: object) -> None:
    for reading in (names.check, names.space, lambda name: names.resolve(name, bytes(32))):
        with pytest.raises(BadMessage, match="a name is a text, not of type"):
            reading(odd)  # type: ignore[arg-type]


@given(st.lists(anything, min_size=2, max_size=2, unique=True))
def test_two_names_have_two_ids(pair: list[str]) -> None:
    try:
        first, second = (names.object_id(POOL, text) for text in pair)
    except BadMessage:
        return
    assert first != second


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "a" * 256,
        "é" * 128,
        "/a",
        "a/",
        "a//b",
        "a\x00b",
        "a\nb",
        "\ud800",
        "e\u0301",
        "~",
        "~x",
        "~me",
        "~me/",
        "~" + HEX[:31] + "/x",
        "~" + HEX[:32].upper() + "/x",
        "sha256:",
        "sha256:" + HEX[:-1],
        "sha256:" + HEX.upper(),
        "sha256:" + HEX + "/x",
        "node:" + HEX[:-1] + "g",
    ],
)
def test_what_is_no_name_is_refused_with_a_reason(bad: str) -> None:
    with pytest.raises(BadMessage, match=r"\w+ \w+"):
        names.check(bad)


@pytest.mark.parametrize(
    "good", ["a", "a" * 255, "weather/berlin", "日本/東京", "a b", "sha256", "~me/x/y", "node:" + HEX]
)
def test_these_are_names(good: str) -> None:
    assert names.check(good) == good


def test_data_and_nodes_are_their_own_ids() -> None:
    digest = bytes.fromhex(HEX)
    assert names.object_id(POOL, names.content_name(digest)) == digest
    assert names.object_id(POOL, names.node_name(node_id(b"k" * 32))) == node_id(b"k" * 32)


def test_my_name_becomes_the_name_of_my_key() -> None:
    key = b"k" * 32
    full = names.resolve("~me/lamp", key)
    assert full == f"~{fingerprint(key)}/lamp"
    assert names.resolve(full, b"other key") == full
    assert names.space(full) is names.Space.OWNER
    with pytest.raises(BadMessage, match="depends on who asks"):
        names.object_id(POOL, "~me/lamp")


def test_a_pattern_covers_what_lies_below_it_and_nothing_beside_it() -> None:
    assert names.covers("*", "anything/at/all")
    assert names.covers("weather/*", "weather/berlin")
    assert names.covers("weather/*", "weather/de/berlin")
    assert names.covers("img/thumb", "img/thumb")
    assert not names.covers("weather/*", "weather")
    assert not names.covers("weather/*", "weathers/berlin")
    assert not names.covers("img/thumb", "img/thumb/2")
    assert not names.covers("img*", "img/thumb")
    assert not names.covers("", "a")


@pytest.mark.parametrize("text", ["*", "weather/*", "weather/berlin", f"~{'a' * 32}/*"])
def test_a_pattern_is_taken_as_it_is_written(text: str) -> None:
    assert names.pattern(text, bytes(32)) == text


def test_a_pattern_may_be_of_ones_own_names() -> None:
    assert names.covers(names.pattern("~me/*", bytes(32)), names.resolve("~me/notes", bytes(32)))


@pytest.mark.parametrize("pattern", ["*", "weather/*", "~me/*"])
def test_no_object_is_named_as_a_pattern_is(pattern: str) -> None:
    with pytest.raises(BadMessage, match="stands for all names like it"):
        names.one(pattern, bytes(32))


@pytest.mark.parametrize("name", ["weather/berlin", "a*", "*/a", "a/**"])
def test_a_new_object_may_have_any_other_name(name: str) -> None:
    assert names.one(name, bytes(32)) == name


@pytest.mark.parametrize("text", ["", "weather/", "weather*", "*/berlin", "a/*/*", "/*", "~me", "**"])
def test_a_pattern_that_covers_nothing_is_refused(text: str) -> None:
    with pytest.raises(BadMessage):
        names.pattern(text, bytes(32))
