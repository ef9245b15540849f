"""Who is handled now, who waits, and who is turned away: the queue before one object. No I/O, no clock.

arrive -> running < concurrency and nobody waits?  run
          waiting < size?                          wait, first come first served
          another crowd has two more waiting?      wait, and the newest of who has most in it gets Overloaded
          or another sender of the same crowd?     likewise
          else                                     Overloaded(retry_after)
leave  -> the next who waits runs

So one sender may fill the queue while nobody else comes, and cannot keep others out (longest queue drop: Suter et al.,
"Buffer management schemes for supporting TCP in gigabit routers with per-flow queueing", 1999); nor can a crowd, whose
members have one place to come from and any number of keys.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from titan_overlay.errors import Overloaded

T = TypeVar("T")

RETRY_SECONDS_MIN = 0.05
RETRY_SECONDS_MAX = 10.0


class Counters:
    """What one object has been through at this holder."""

    __slots__ = ("errors", "messages", "overdue", "refused", "seconds")

    def __init__(self) -> None:
        self.messages = 0
        """Answered, with a reply or an error of the handler."""
        self.errors = 0
        self.refused = 0
        """Turned away unheard: the mailbox was full, or the call came back to itself."""
        self.seconds = 0.0
        """From arrival to reply, all messages together."""
        self.overdue = 0
        """Handlers that went on after their deadline although they were cancelled."""

    @property
    def mean_seconds(self) -> float:
        return self.seconds / self.messages if self.messages else 0.0


class Mailbox(Generic[T]):
    """A bounded queue with a limit on how many are handled at once.

    Args:
        size: how many may wait; one more is refused.
        concurrency: how many are handled at once; 1: strictly one after the other.
        turn_away: told of one that waited and gives its place to another sender's.
    """

    __slots__ = ("_turn_away", "_waiting", "concurrency", "running", "size")

    def __init__(
        self, size: int, concurrency: int, turn_away: Callable[[T, Overloaded], None] = lambda item, why: None
    ) -> None:
        self.size = size
        self.concurrency = concurrency
        self.running = 0
        """Never above `concurrency`."""
        self._turn_away = turn_away
        self._waiting: deque[tuple[T, Hashable, Hashable]] = deque()
        """With their senders and crowds."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def free(self) -> bool:
        """Whether one more would be handled at once."""
        return self.running < self.concurrency and not self._waiting

    def arrive(self, item: T, sender: Hashable = None, mean_seconds: float = 0.0, *, crowd: Hashable = None) -> bool:
        """True: it runs now, and `leave` must follow. False: it waits, and `leave` of another will return it.

        Args:
            mean_seconds: how long one takes, for the estimate of when there will be room.
            crowd: those who share with this sender what they may take from others.

        Raises:
            Overloaded: so many wait already.
        """
        if self.free:
            self.running += 1
            return True
        if len(self._waiting) >= self.size:
            wait = mean_seconds * (len(self._waiting) + 1) / self.concurrency
            why = Overloaded(
                f"{len(self._waiting)} messages wait already, as many as may (mailbox_size); try again later",
                retry_after=min(max(wait, RETRY_SECONDS_MIN), RETRY_SECONDS_MAX),
            )
            self._make_room(sender, crowd, why)
        self._waiting.append((item, sender, crowd))
        return False

    def _make_room(self, sender: Hashable, crowd: Hashable, why: Overloaded) -> None:
        crowds = Counter(each for _, _, each in self._waiting)
        loser, most = crowds.most_common(1)[0]
        if most < crowds[crowd] + 2:
            loser = crowd
        counts = Counter(each for _, each, whose in self._waiting if whose == loser)
        greediest, most = counts.most_common(1)[0] if counts else (sender, 0)
        if loser == crowd and most < counts[sender] + 2:
            raise why
        newest = max(
            index for index, (_, each, whose) in enumerate(self._waiting) if (each, whose) == (greediest, loser)
        )
        item = self._waiting[newest][0]
        del self._waiting[newest]
        self._turn_away(item, why)

    def leave(self) -> T | None:
        """One is done. The next, which runs from now on, or None."""
        self.running -= 1
        if self._waiting:
            self.running += 1
            return self._waiting.popleft()[0]
        return None

    def withdraw(self, item: T) -> None:
        """One that waits no longer wants to be handled."""
        for index, (each, _, _) in enumerate(self._waiting):
            if each is item:
                del self._waiting[index]
                return
