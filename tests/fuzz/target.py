"""What is fuzzed: a target takes any bytes, and ends with a value or with an error that its decoder promises.

    @target(BadMessage, seeds=lambda: [codec.encode("a text")])
    def anything(data: bytes) -> None: ...

A target checks what it can beyond that (what is accepted encodes to what it came from, a table stays bounded, what a
lookup believes verifies) with plain assertions. `tests/fuzz/targets/` has them, one file for each room of the house.
"""

import base64
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"

_ROOMS = (
    "wire",
    "identity",
    "overlay",
    "links",
    "objects",
    "keeping",
    "storage",
    "settings",
    "mutable",
    "store",
    "dag",
)


class Target:
    """One decoder, or one piece of state that strangers feed.

    Attributes:
        errors: what it may raise.
        limit: longest input worth trying, in bytes.
    """

    def __init__(
        self,
        run: Callable[[bytes], object],
        errors: tuple[type[Exception], ...],
        seeds: Callable[[], Iterable[bytes]],
        limit: int,
    ) -> None:
        self.name = run.__name__
        self.errors = errors
        self.limit = limit
        self._run = run
        self._seeds = seeds

    def __call__(self, data: bytes) -> None:
        """One input. Raises whatever is a finding."""
        try:
            self._run(data[: self.limit])
        except self.errors:
            return

    def seeds(self) -> list[bytes]:
        """Inputs made by the code that encodes such things."""
        return [bytes(each) for each in self._seeds()]

    def corpus(self) -> list[bytes]:
        """Inputs that are kept: each reached something new once, or was a finding."""
        return list(read(CORPUS / f"{self.name}.txt"))

    def __repr__(self) -> str:
        return self.name


TARGETS: dict[str, Target] = {}


def target(
    *errors: type[Exception], seeds: Callable[[], Iterable[bytes]], limit: int = 2048
) -> Callable[[Callable[[bytes], object]], Target]:
    """Makes a target of a function and registers it under its name."""

    def register(run: Callable[[bytes], object]) -> Target:
        made = TARGETS[run.__name__] = Target(run, errors, seeds, limit)
        return made

    return register


def all_targets() -> list[Target]:
    """Every target, by name."""
    for room in _ROOMS:
        import_module(f"tests.fuzz.targets.{room}")
    return [TARGETS[name] for name in sorted(TARGETS)]


def read(path: Path) -> Iterator[bytes]:
    """The inputs in a corpus file: base64, one a line; what follows a `#` is for people."""
    if path.exists():
        for line in path.read_text(encoding="ascii").splitlines():
            text = line.partition("#")[0].strip()
            if text:
                yield base64.b64decode(text, validate=True)


class Drawn:
    """Decisions drawn from the bytes of an input, so that a fuzzer can steer what happens to a piece of state.

    An input that is used up draws zeros: every input is a whole story.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def more(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1; takes one byte, or two above 256."""
        size = 1 if limit <= 256 else 2
        return int.from_bytes(self.take(size).ljust(size, b"\0"), "big") % limit

    def of(self, choices: list[bytes]) -> bytes:
        """One of these; nothing where there are none."""
        return choices[self.below(len(choices))] if choices else b""

    def take(self, size: int) -> bytes:
        """Up to so many bytes."""
        part = self._data[self._at : self._at + size]
        self._at += size
        return part

    def piece(self) -> bytes:
        """Some bytes, as many as a length before them says."""
        return self.take(self.below(65536))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))

    def bent(self, true: bytes) -> bytes:
        """Bytes that were true: as they are, changed in a place, cut, or gone on with others."""
        data = bytearray(true)
        match self.below(5):
            case 1 if data:
                data[self.below(65536) % len(data)] ^= 1 + self.below(255)
            case 2:
                del data[self.below(65536) % (len(data) + 1) :]
            case 3:
                data += self.take(self.below(64))
            case 4:
                at = self.below(65536) % (len(data) + 1)
                part = self.take(self.below(32))
                data[at : at + len(part)] = part
        return bytes(data)


def story(*parts: int | bytes) -> bytes:
    """A seed for `Drawn`: numbers become one byte each, bytes a piece with its length before it."""
    return b"".join(bytes((part,)) if isinstance(part, int) else len(part).to_bytes(2, "big") + part for part in parts)
