"""Signed records and the codec below them: total, exact, and impossible to bend."""

import struct
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.errors import BadMessage, WireError
from titan_overlay.identity import contacts, names, records
from titan_overlay.identity.contacts import is_dialable
from titan_overlay.identity.grants import Grant
from titan_overlay.identity.ids import ObjectId, PoolId
from titan_overlay.identity.keys import SigningKey, verify, verify_record
from titan_overlay.identity.records import MAX_RECORD_BYTES, Record
from titan_overlay.identity.revocations import RevocationList
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import (
    Advertisement,
    Content,
    Descriptor,
    Policy,
    Tombstone,
    check_clock,
    check_descriptor,
    newer,
)
from titan_overlay.wire import codec, messages

POOL_KEY = SigningKey(b"p" * 32)
POOL = PoolId(POOL_KEY.public)
KEY = SigningKey(b"k" * 32)
NOW = 1.7e9
MINE = names.resolve("~me/lamp", KEY.public)

RECORDS: list[type[Record]] = [Grant, Descriptor, Advertisement, Tombstone]
BODIES: list[Any] = [
    *RECORDS,
    WireError,
    messages.Hello,
    messages.Send,
    messages.Data,
    messages.Failure,
    messages.Cancel,
    messages.Credit,
    Policy,
    Any,
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=40),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=12), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=24,
)
almost_anything = st.one_of(
    st.binary(max_size=300), values.map(codec.encode), st.lists(values, max_size=12).map(codec.encode)
)


def advertisement(**changes: Any) -> Advertisement:
    fields: dict[str, Any] = {
        "object_id": b"o" * 32,
        "host": "192.0.2.7",
        "port": 4747,
        "sequence": 17,
        "expires": NOW + 60,
    }
    return Advertisement(**(fields | changes))


def descriptor(**changes: Any) -> Descriptor:
    fields: dict[str, Any] = {"name": MINE, "kind": "service", "type": "echo", "version": 3, "created": NOW}
    return Descriptor(**(fields | changes))


# --- the codec ---


@pytest.mark.parametrize("type", BODIES, ids=lambda type: getattr(type, "__name__", str(type)))
@given(data=almost_anything)
def test_any_bytes_are_a_value_or_a_bad_message(type: Any, data: bytes) -> None:
    try:
        value = codec.decode(data, type)
    except BadMessage:
        return
    assert type is Any or isinstance(value, type)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",  # a list of four thousand million
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000 + b"\x01",  # a hundred thousand lists in lists
        b"\x81\x81\x01\x02\x03",  # a map as the key of a map
        b"\xc7\x0c\xff" + b"\xff" * 12,  # an impossible time
        b"\xd9\x02\xff\xfe",  # not UTF-8
        b"\xc1",
        b"",
        b"\x01\x01",  # two values
    ],
)
def test_bytes_made_to_break_a_decoder_do_not(bomb: bytes) -> None:
    with pytest.raises(BadMessage):
        codec.decode(bomb, Any)


@given(values)
def test_what_is_encoded_comes_back(value: Any) -> None:
    encoded = codec.encode(value)
    assert codec.encode(codec.decode(encoded, Any)) == encoded


# --- signed records ---


@given(
    host=st.ip_addresses().map(str).filter(lambda host: is_dialable(host, 1)),
    port=st.integers(1, 65535),
    sequence=st.integers(0, 2**63 - 1),
    expires=st.floats(0, 1e12),
    grant=st.binary(max_size=200),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_a_record_comes_back_as_it_was_signed(
    host: str, port: int, sequence: int, expires: float, grant: bytes, flags: tuple[bool, bool]
) -> None:
    made = advertisement(
        host=host, port=port, sequence=sequence, expires=expires, grant=grant, withdrawn=flags[0], passing=flags[1]
    )
    signed = records.sign(made, KEY, POOL)
    read = records.check(signed.raw, Advertisement, POOL)
    assert read.value == made
    assert (read.public, read.signer, read.raw) == (KEY.public, KEY.id, signed.raw)
    assert read == signed and hash(read) == hash(signed)


@pytest.mark.parametrize("type", RECORDS)
@given(data=almost_anything)
def test_bytes_that_nobody_signed_are_no_record(type: type[Record], data: bytes) -> None:
    with pytest.raises(BadMessage):
        records.check(data, type, POOL)


@given(st.data())
def test_a_record_with_a_byte_changed_does_not_hold(data: st.DataObject) -> None:
    raw = records.sign(advertisement(), KEY, POOL).raw
    place = data.draw(st.integers(0, len(raw) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[place]))
    with pytest.raises(BadMessage):
        records.check(raw[:place] + bytes([other]) + raw[place + 1 :], Advertisement, POOL)


@given(st.data())
def test_a_record_cut_short_or_lengthened_does_not_hold(data: st.DataObject) -> None:
    raw = records.sign(advertisement(), KEY, POOL).raw
    cut = data.draw(st.integers(0, len(raw) - 1))
    more = data.draw(st.binary(min_size=1, max_size=8))
    for bent in (raw[:cut], raw + more):
        with pytest.raises(BadMessage):
            records.check(bent, Advertisement, POOL)


def test_a_record_has_one_form_only() -> None:
    """A relay that could make a second form of a record could make two records of one (ties go by hash)."""
    signed = records.sign(advertisement(), KEY, POOL)
    public, signature, body = codec.decode(signed.raw, list[bytes])

    def long(data: bytes) -> bytes:
        return b"\xc5" + struct.pack(">H", len(data)) + data

    for other in (
        codec.encode([public, signature, body, b"more"]),
        b"\x93" + long(public) + long(signature) + long(body),
        b"\xdc\x00\x03" + signed.raw[1:],
    ):
        assert codec.decode(other, list[bytes])[:3] == [public, signature, body]
        with pytest.raises(BadMessage):
            records.check(other, Advertisement, POOL)


def test_a_record_of_another_pool_or_another_type_does_not_hold() -> None:
    class Impostor(Record, frozen=True, array_like=True):
        LABEL: ClassVar[bytes] = b"impostor"
        object_id: bytes
        host: str
        port: int
        sequence: int
        expires: float

    raw = records.sign(advertisement(), KEY, POOL).raw
    with pytest.raises(BadMessage, match="does not hold in pool"):
        records.check(raw, Advertisement, PoolId(bytes(32)))
    with pytest.raises(BadMessage, match="impostor"):
        records.check(raw, Impostor, POOL)


def test_labels_differ() -> None:
    labels = [type.LABEL for type in RECORDS]
    assert len(set(labels)) == len(labels) and all(labels) and b"\0" not in b"".join(labels)


def test_a_record_that_would_not_fit_in_a_datagram_is_not_made() -> None:
    with pytest.raises(BadMessage, match="shorten it"):
        records.sign(advertisement(grant=bytes(MAX_RECORD_BYTES)), KEY, POOL)
    with pytest.raises(BadMessage, match="at most"):
        records.check(bytes(MAX_RECORD_BYTES + 1), Advertisement, POOL)


# --- figures in records that would poison what is computed with them ---


@pytest.mark.parametrize(
    "made",
    [
        advertisement(expires=float("nan")),
        advertisement(expires=float("inf")),
        advertisement(expires=-1.0),
        advertisement(sequence=2**63),
        advertisement(sequence=-1),
        advertisement(object_id=b"short"),
        descriptor(created=float("nan")),
        descriptor(version=-1),
        Tombstone(b"", 1, float("nan")),
        Grant(b"", 1, "*", 0, 0),
        Grant(KEY.id, 64, "*", 0, 0),
        Grant(KEY.id, 1, "*", -1, 0),
    ],
    ids=repr,
)
def test_impossible_figures_are_refused_though_signed(made: Record) -> None:
    raw = records.sign(made, KEY, POOL).raw
    with pytest.raises(BadMessage):
        records.check(raw, type(made), POOL)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_an_advertisement_names_a_port(port: int) -> None:
    _refused(b"o" * 32, "192.0.2.7", port)


@pytest.mark.parametrize(
    "host",
    ["", "localhost", "example.org", "a..b", "x" * 300, "\0", "224.0.0.1", "0.0.0.0", "::", "ff02::1", "fe80::1%eth0"],
    ids=repr,
)
def test_an_advertisement_names_an_address_and_no_name_that_everybody_would_look_up(host: str) -> None:
    _refused(b"o" * 32, host, 4747)


def _refused(object_id: bytes, host: str, port: int) -> None:
    with pytest.raises(ValueError, match="an address and a port"):
        advertisement(host=host, port=port)
    body = codec.encode([object_id, host, port, 17, NOW + 60])
    signature = KEY.sign(b"titan/1/advertisement\0" + POOL + body)
    with pytest.raises(BadMessage):
        records.check(codec.encode([KEY.public, signature, body]), Advertisement, POOL)


@pytest.mark.parametrize(
    "policy",
    [
        {"min_copies": 0},
        {"min_copies": 5, "max_copies": 4},
        {"max_copies": 65},
        {"ttl": -1.0},
        {"ttl": float("nan")},
        {"ttl": float("inf")},
        {"cache_ttl": float("nan")},
        {"max_bytes": -1},
        {"votes": 0},
        {"faults": -1},
    ],
    ids=repr,
)
def test_an_impossible_policy_is_refused_here_and_from_elsewhere(policy: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Policy(**policy)
    with pytest.raises(BadMessage):
        codec.decode(codec.encode(policy), Policy)


# --- descriptors ---


def check(made: Descriptor, key: SigningKey = KEY, object_id: ObjectId | None = None) -> Descriptor:
    return check_descriptor(records.sign(made, key, POOL).raw, object_id, Rights(POOL)).value


def test_a_descriptor_of_my_own_name_holds() -> None:
    assert check(descriptor(), object_id=names.object_id(POOL, MINE)) == descriptor()


def test_a_descriptor_of_another_object_does_not_hold() -> None:
    with pytest.raises(BadMessage, match="another object"):
        check(descriptor(), object_id=ObjectId(bytes(32)))


@pytest.mark.parametrize("name", ["", "a//b", "~me/lamp", "sha256:12"])
def test_a_descriptor_of_no_name_does_not_hold(name: str) -> None:
    with pytest.raises(BadMessage):
        check(descriptor(name=name), key=POOL_KEY)


def test_a_descriptor_from_the_future_is_not_published_but_stays_where_it_is() -> None:
    with pytest.raises(BadMessage, match="future"):
        check_clock(descriptor(created=NOW + 3600), NOW)
    check_clock(descriptor(created=NOW + 60), NOW)
    assert check(descriptor(created=NOW + 3600)), "a clock that was set back takes nothing away"


def test_only_data_stands_under_a_contents_name() -> None:
    """Anybody may publish there, so a service would be one that nobody had the right to publish."""
    named = names.content_name(b"c" * 32)
    content = Content(5, 256 * 1024, b"m" * 32)
    assert check(descriptor(name=named, kind="data", type="", content=content))
    for bad in (
        descriptor(name=named),
        descriptor(name=named, content=content),
        descriptor(name=named, kind="data"),
        descriptor(kind="data", content=content),
        descriptor(content=content),
    ):
        with pytest.raises(BadMessage, match="sha256"):
            check(bad)


def test_the_higher_version_wins_and_ties_have_one_winner() -> None:
    old, new, twin = (
        records.sign(descriptor(version=version, type=type), KEY, POOL)
        for version, type in ((1, "a"), (2, "b"), (2, "c"))
    )
    assert newer(new, old) and not newer(old, new)
    assert newer(new, twin) != newer(twin, new)
    assert not newer(new, new)


@given(st.binary(max_size=64), st.binary(max_size=80), st.binary(max_size=40))
def test_verifying_nonsense_is_false_and_no_error(public: bytes, signature: bytes, message: bytes) -> None:
    assert not verify(public, signature, message)
    assert not verify_record(public, signature, message)


def test_structs_on_the_wire_have_their_fields_in_the_order_of_the_protocol() -> None:
    """Bodies are arrays: a field that moves breaks every older node."""

    def fields(type: Callable[..., Any]) -> tuple[str, ...]:
        return tuple(field.name for field in msgspec.structs.fields(type))

    assert fields(Advertisement)[:5] == ("object_id", "host", "port", "sequence", "expires")
    assert fields(Descriptor)[:5] == ("name", "kind", "type", "version", "created")
    assert fields(Grant) == ("grantee", "rights", "pattern", "issued", "expires", "depth", "trust", "parent")


def test_what_is_remembered_of_strangers_records_is_small() -> None:
    """A list of revocations may have 32 KiB; thousands of false ones, remembered, would fill the memory."""
    verify_record.cache_clear()  # type: ignore[attr-defined]
    for number in range(20):
        for size in (500, 30_000):
            body = number.to_bytes(4, "big") + bytes(size)
            with pytest.raises(BadMessage):
                records.check(codec.encode([KEY.public, bytes(64), body]), RevocationList, POOL)
    assert verify_record.cache_info().currsize == 20  # type: ignore[attr-defined]


def test_what_is_remembered_of_addresses_is_small() -> None:
    contacts._is_unicast.cache_clear()
    for number in range(20):
        assert not is_dialable(f"{number}." * 100, 1)
    assert contacts._is_unicast.cache_info().currsize == 0
