"""Bytes as values: msgpack, frames, every Struct there is, errors, messages written as JSON."""

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from typing import Any

import msgspec

import titan_objects
import titan_overlay
from tests.fuzz.samples import sample
from tests.fuzz.target import Drawn, story, target
from titan_overlay.errors import BadMessage, WireError, from_wire
from titan_overlay.pool.hosting.worker_frames import FromWorker, ToWorker
from titan_overlay.pool.message import body_from_json, decode_reply
from titan_overlay.pool.questions import MessageSchema, Schema
from titan_overlay.wire import codec, frames
from titan_overlay.wire.frames import Flags, FrameReader

ODD = (None, True, -1, 2**64 - 1, 1.5, float("nan"), "text", b"bytes", [1, [2]], {"a": {"b": None}, 3: ()})


def _round_trip(data: bytes, kind: Any) -> Any:
    """What was accepted says the same again in our own words, and those are stable."""
    value = codec.decode(data, kind)
    ours = codec.encode(value)
    assert codec.encode(codec.decode(ours, kind)) == ours, "a value that changes from encoding to encoding"
    return value


@target(BadMessage, seeds=lambda: [codec.encode(each) for each in ODD], limit=16384)
def anything(data: bytes) -> None:
    """One msgpack value of any kind, as clients take replies."""
    _round_trip(data, Any)


# --- Structs --------------------------------------------------------------------------------------------------


def _all_structs(base: type = msgspec.Struct) -> Iterator[type]:
    for each in base.__subclasses__():
        yield each
        yield from _all_structs(each)


@cache
def structs() -> dict[bytes, Any]:
    """Everything that crosses a boundary is a Struct; these are all of ours, by two bytes that stay when others come.

    Whoever adds one need not add it here.
    """
    for package in (titan_overlay, titan_objects):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    ours = {each for each in _all_structs() if each.__module__.split(".")[0] in ("titan_overlay", "titan_objects")}
    found: dict[bytes, Any] = {}
    for each in sorted(ours, key=lambda each: f"{each.__module__}.{each.__qualname__}"):
        try:
            msgspec.msgpack.Decoder(each)
            sample(each)
        except (TypeError, NotImplementedError):
            continue  # holds what never crosses a boundary: a class of ours, a callable
        found[_short(f"{each.__module__}.{each.__qualname__}")] = each
    found[_short("ToWorker")] = ToWorker
    found[_short("FromWorker")] = FromWorker
    return found


def _short(name: str) -> bytes:
    return sha256(name.encode()).digest()[:2]


@target(BadMessage, seeds=lambda: [short + codec.encode(sample(kind)) for short, kind in structs().items()])
def bodies(data: bytes) -> None:
    """The body of anything: two bytes say of what."""
    kind = structs().get(data[:2])
    if kind is not None:
        _round_trip(data[2:], kind)


@target(BadMessage, seeds=lambda: [codec.encode(WireError("overloaded", "x", False, {"retry_after": 1.0}))])
def error(data: bytes) -> None:
    """An error that a peer sends: always one of ours, and it can be passed on."""
    made = from_wire(codec.decode(data, WireError))
    again = from_wire(codec.decode(codec.encode(made.to_wire()), WireError))
    assert type(again) is type(made) and str(again) == str(made)
    seconds = getattr(made, "retry_after", 0.0)
    assert isinstance(seconds, float) and 0 <= seconds < float("inf"), "callers sleep on it"


@target(BadMessage, seeds=lambda: [codec.encode({"str": sample(MessageSchema)}), codec.encode("text")])
def reply(data: bytes) -> None:
    """The answer of an object to a typed message, and to a builtin."""
    decode_reply("hello", data)
    decode_reply(Schema(), data)


# --- frames ---------------------------------------------------------------------------------------------------


def _frames() -> list[bytes]:
    out = bytearray()
    frames.append(out, 0x52, int(Flags.MORE), [1, "x"])
    one = bytes(out)
    frames.append(out, 0x81, 0, [2, "y" * 3000])
    return [
        b"\0" + one,
        b"\2\5\x09" + bytes(out),
        b"\1\3" + frames.HEADER.pack(1, 0x52, 1, 0, 8) + b"(\xb5/\xfd",
    ]


@target(BadMessage, seeds=_frames, limit=8192)
def frame(data: bytes) -> None:
    """A stream of frames, cut anywhere: the same frames, or the same refusal after the same frames."""
    draw = Drawn(data)
    cuts = [1 + draw.below(256) for _ in range(draw.below(8))]
    whole = draw.rest()
    expected, refusal = _read(FrameReader(), [whole])
    pieces, at = [], 0
    for size in cuts:
        pieces.append(whole[at : at + size])
        at += size
    pieces += [whole[at + start : at + start + 1000] for start in range(0, max(len(whole) - at, 0), 1000)]
    reader = FrameReader()
    found, also = _read(reader, pieces)
    assert (found, str(also)) == (expected, str(refusal)), "frames depend on how the stream is cut"
    assert reader.pending_bytes <= frames.HEADER_BYTES + frames.MAX_PAYLOAD_BYTES
    for opcode, flags, payload in found:
        assert len(payload) <= frames.MAX_PAYLOAD_BYTES
        again = bytearray()
        frames.append(again, opcode, flags & ~int(Flags.COMPRESSED), msgspec.Raw(payload))
        [(code, _, same)] = FrameReader().feed(bytes(again))
        assert (code, same) == (opcode, payload)


def _read(reader: FrameReader, pieces: list[bytes]) -> tuple[list[frames.Frame], BadMessage | None]:
    found: list[frames.Frame] = []
    try:
        for piece in pieces:
            for each in reader.feed(piece):
                found.append(each)
    except BadMessage as why:
        return found, why
    return found, None


# --- JSON -----------------------------------------------------------------------------------------------------


@target(
    BadMessage,
    seeds=lambda: [
        story(b'{"raw": "aGVsbG8=", "size": 64}')
        + msgspec.json.encode(
            {"$ref": "#/$defs/T", "$defs": {"T": {"properties": {"raw": {"contentEncoding": "base64"}}}}}
        ),
        story(b'["aGVsbG8=", null]')
        + msgspec.json.encode({"items": {"anyOf": [{"type": "null"}, {"contentEncoding": "base64"}]}}),
        story(b'{"x": {"y": "AA=="}}')
        + msgspec.json.encode({"additionalProperties": {"additionalProperties": {"contentEncoding": "base64"}}}),
        story(b'"aGVsbG8="') + b'{"$ref": "x/A", "$defs": {"A": {"anyOf": [{"$ref": "x/A"}, {"$ref": "x/A"}]}}}',
    ],
)
def json_message(data: bytes) -> None:
    """A message that a person types, and the schema that a stranger's object says it has."""
    draw = Drawn(data)
    text = draw.piece()
    try:
        schema = msgspec.json.decode(draw.rest())
    except (msgspec.MsgspecError, RecursionError, ValueError):
        schema = None
    codec.decode(body_from_json(text, schema), Any)
