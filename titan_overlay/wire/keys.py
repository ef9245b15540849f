"""Keys of maps in strangers' bytes: at most a few of them may be arrays.

A key that is an array becomes a tuple, and a tuple of numbers has a hash without a secret: whoever likes makes 50,000
that all fall on one another, 1 MiB of them, and a dict of those takes minutes (Crosby and Wallach, "Denial of Service
via Algorithmic Complexity Attacks", USENIX Security 2003). The hashes of texts and bytes have a secret, and 64-bit
numbers cannot be made to collide in numbers that matter. No decoder says which keys it takes where anything is welcome,
so long messages are looked through first.
"""

import re

from titan_overlay.errors import BadMessage

LONG_BYTES = 8192
"""What is shorter cannot hold enough keys to cost more than some milliseconds."""
ARRAY_KEYS_MAX = 512
"""In one message."""

_MAP = re.compile(rb"[\x80-\x8f\xde\xdf]")

# Of the first bytes 0xC0 to 0xDF: bytes of the token without what its length field counts, and those of that field.
_TOKENS: dict[int, tuple[int, int]] = {
    **dict.fromkeys((192, 193, 194, 195), (1, 0)),
    **{0xC4 + power: (1, 1 << power) for power in range(3)},  # bytes
    **{0xC7 + power: (2, 1 << power) for power in range(3)},  # extensions
    0xCA: (5, 0),
    0xCB: (9, 0),
    **{0xCC + power: (1 + (1 << power), 0) for power in range(4)},
    **{0xD0 + power: (1 + (1 << power), 0) for power in range(4)},
    **{0xD4 + power: (2 + (1 << power), 0) for power in range(5)},
    **{0xD9 + power: (1, 1 << power) for power in range(3)},  # texts
}


def check_keys(data: bytes) -> None:
    """Whether a decoder may have these msgpack bytes. Says nothing of other faults: the decoder finds those.

    Raises:
        BadMessage: too many keys of maps are arrays.
    """
    if _MAP.search(data) is None:
        return
    at, arrays = 0, 0
    above: list[int] = []
    left = 1  # tokens to come in this array; of a map, that number below zero, even before a key
    try:
        while True:
            while not left:
                if not above:
                    return
                left = above.pop()
            key = left < 0 and not left & 1
            left += 1 if left < 0 else -1
            first = data[at]
            if first < 0x80 or first >= 0xE0:
                at += 1
            elif 0xA0 <= first < 0xC0:
                at += 1 + (first & 31)
            elif first < 0xA0 or first >= 0xDC:
                arrays += key
                if arrays > ARRAY_KEYS_MAX:
                    raise BadMessage(f"a map with more than {ARRAY_KEYS_MAX} keys that are lists; use texts or numbers")
                above.append(left)
                at, left = _container(data, at, first)
            else:
                size, field = _TOKENS[first]
                at += size + field + int.from_bytes(data[at + 1 : at + 1 + field])
    except IndexError:
        return  # cut short


def _container(data: bytes, at: int, first: int) -> tuple[int, int]:
    """Where an array or a map goes on, and the tokens in it (of a map, below zero)."""
    if first < 0xA0:
        count, at = first & 15, at + 1
        return at, count if first >= 0x90 else -2 * count
    field = 2 if first in (0xDC, 0xDE) else 4
    count = int.from_bytes(data[at + 1 : at + 1 + field])
    return at + 1 + field, count if first < 0xDE else -2 * count
