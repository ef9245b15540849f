"""A mutable object whose every write can be checked later: published as a signed bundle of this one file."""

import titan_overlay as titan


class Append(titan.Message[int], frozen=True, namespace="journal"):
    """Puts a number, different from all others, at the end. The reply: where it stands, from 0 on."""

    number: int


class Entries(titan.Message[list[int]], frozen=True, namespace="journal"):
    """All that stands there, from a place on."""

    first: int


@titan.mutable("simulated/*")
class Journal:
    """Numbers in the order in which they were written."""

    numbers: list[int] = []  # noqa: RUF012 -- the state that each object begins with

    def append(self, m: Append) -> int:
        """Adds one."""
        self.numbers.append(m.number)
        return len(self.numbers) - 1

    @titan.readonly
    def entries(self, m: Entries) -> list[int]:
        """The last of them."""
        return self.numbers[m.first :]
