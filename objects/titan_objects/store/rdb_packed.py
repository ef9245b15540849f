"""Packed forms, in which small collections stand in snapshots of Redis: listpacks, ziplists, sets of numbers; and LZF.

Bytes in, elements out. What is damaged raises ValueError, IndexError, KeyError or struct.error.
"""

import struct


def lzf(data: bytes, size: int) -> bytes:
    """Decompresses LZF. Raises ValueError: the result has another size."""
    out = bytearray()
    at = 0
    while at < len(data):
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[at]
            at += 1
        start = len(out) - ((control & 0x1F) << 8) - data[at] - 1
        at += 1
        if start < 0:
            raise ValueError("compressed data points before its beginning")
        for _ in range(length + 2):
            out.append(out[start])
            start += 1
    if len(out) != size:
        raise ValueError(f"compressed data gives {len(out)} bytes and not {size}")
    return bytes(out)


def intset(data: bytes) -> list[bytes]:
    """The numbers of a packed set."""
    width, count = struct.unpack("<II", data[:8])
    if width not in (2, 4, 8) or len(data) != 8 + width * count:
        raise ValueError("a set of numbers has another size than it says")
    return [b"%d" % int.from_bytes(data[at : at + width], "little", signed=True) for at in range(8, len(data), width)]


def listpack(data: bytes) -> list[bytes]:
    """The elements of a listpack."""
    items: list[bytes] = []
    at = 6
    while (first := data[at]) != 0xFF:
        begin = at
        if first < 0x80:
            item, at = b"%d" % first, at + 1
        elif first < 0xC0:
            item, at = _cut(data, at + 1, first & 0x3F)
        elif first < 0xE0:
            value = (first & 0x1F) << 8 | data[at + 1]
            item, at = b"%d" % (value - (1 << 13) if value >= 1 << 12 else value), at + 2
        elif first < 0xF0:
            item, at = _cut(data, at + 2, (first & 0x0F) << 8 | data[at + 1])
        elif first == 0xF0:
            item, at = _cut(data, at + 5, int.from_bytes(data[at + 1 : at + 5], "little"))
        else:
            item, at = _number(data, at + 1, {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}[first])
        size = at - begin
        at += 1 + (size > 127) + (size > 16382) + (size > 2097150) + (size > 268435454)
        items.append(item)
    return items


def ziplist(data: bytes) -> list[bytes]:
    """The elements of a ziplist, which Redis wrote before version 7."""
    items: list[bytes] = []
    at = 10
    while data[at] != 0xFF:
        at += 5 if data[at] == 0xFE else 1
        first = data[at]
        if first < 0x40:
            item, at = _cut(data, at + 1, first)
        elif first < 0x80:
            item, at = _cut(data, at + 2, (first & 0x3F) << 8 | data[at + 1])
        elif first < 0xC0:
            item, at = _cut(data, at + 5, int.from_bytes(data[at + 1 : at + 5], "big"))
        elif first > 0xF0 and first < 0xFE:
            item, at = b"%d" % ((first & 0x0F) - 1), at + 1
        else:
            item, at = _number(data, at + 1, {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}[first])
        items.append(item)
    return items


def _cut(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise ValueError("an element is cut short")
    return data[at : at + size], at + size


def _number(data: bytes, at: int, width: int) -> tuple[bytes, int]:
    word, end = _cut(data, at, width)
    return b"%d" % int.from_bytes(word, "little", signed=True), end
