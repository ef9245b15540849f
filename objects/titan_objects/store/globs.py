"""Redis's glob patterns (`*`, `?`, `[a-c]`, `[^a]`, `\\x`) as compiled matchers."""

import re
from collections.abc import Callable
from functools import lru_cache


@lru_cache(maxsize=1024)
def matcher(pattern: bytes) -> Callable[[bytes], object]:
    """A function that is truthy for what the whole pattern matches."""
    return re.compile(_translated(pattern), re.DOTALL).fullmatch


def _translated(pattern: bytes) -> bytes:
    parts: list[bytes] = []
    at, size = 0, len(pattern)
    while at < size:
        char = pattern[at : at + 1]
        at += 1
        if char == b"*":
            if not parts or parts[-1] != b".*":  # a row of stars would make matching exponential
                parts.append(b".*")
        elif char == b"?":
            parts.append(b".")
        elif char == b"[":
            text, at = _class(pattern, at)
            parts.append(text)
        elif char == b"\\" and at < size:
            parts.append(re.escape(pattern[at : at + 1]))
            at += 1
        else:
            parts.append(re.escape(char))
    return b"".join(parts)


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    negated = pattern[at : at + 1] == b"^"
    at += negated
    chosen: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            at += 1
            chosen.add(pattern[at])
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))
            chosen.update(range(low, high + 1))
            at += 2
        else:
            chosen.add(pattern[at])
        at += 1
    body = b"".join(b"\\x%02x" % each for each in sorted(chosen))
    if not chosen:
        return (b"." if negated else b"(?!)"), at + 1
    return b"[%b%b]" % (b"^" if negated else b"", body), at + 1
