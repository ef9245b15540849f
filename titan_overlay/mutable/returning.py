"""Whether the next block waits for those who have just been answered: programs that wait for each answer come back at
once, and a block costs the same whatever is in it. No I/O.

Without that, two crowds take turns: while the requests of one are in a block, the other gathers. The wait is short
beside a block, ends as soon as all are back, and where they do not come back it is not tried again for a while.
"""

PATIENCE = 1.0
"""Of the time that the last block has taken."""
PATIENCE_SECONDS_MAX = 0.25
SKIPPED_MAX = 31
"""Blocks in a row that wait for nobody, after waits in vain."""


class Returning:
    """See the module. All times are of one clock."""

    __slots__ = ("_answered", "_in_vain", "_skip", "_until", "_wanted")

    def __init__(self) -> None:
        self._until: float | None = None
        self._answered = 0
        self._wanted = 0
        """Requests that would be here if all came back."""
        self._in_vain = 0
        """Blocks that are skipped after the next wait in vain."""
        self._skip = 0

    def answered(self, count: int, waiting: int, took: float, now: float) -> float | None:
        """A block is over.

        Args:
            count: requests that were in it.
            waiting: requests that have come meanwhile.
            took: seconds since it was proposed.

        Returns:
            When to ask `may_go` again at the latest; None: nobody is waited for.
        """
        self._until = None
        if self._skip:
            self._skip -= 1
        elif count:
            self._answered, self._wanted = count, waiting + count
            self._until = now + min(PATIENCE * took, PATIENCE_SECONDS_MAX)
        return self._until

    def may_go(self, waiting: int, now: float) -> bool:
        """Whether a block with what waits is to be proposed."""
        if self._until is None:
            return True
        if waiting >= self._wanted:
            self._in_vain = 0
        elif now < self._until:
            return False
        elif 2 * (self._wanted - waiting) > self._answered:
            self._in_vain = self._skip = min(2 * self._in_vain + 1, SKIPPED_MAX)
        self._until = None
        return True
