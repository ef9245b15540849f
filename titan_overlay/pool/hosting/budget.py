"""What a volunteer's machine gives of its CPU, and who is turned away at the limit. `upload.py` has what it sends."""

from collections import deque
from collections.abc import Hashable
from typing import TypeVar

from titan_overlay.identity.ids import NodeId
from titan_overlay.pool.context import Sender

USERS_MAX = 4096
REST = NodeId(b"")
"""The keys of a crowd of which there are too many to tell apart."""
FORGOTTEN_SECONDS = 1e-4
"""Less CPU time than that is nobody's fault."""

Key = TypeVar("Key", bound=Hashable)


class Shares:
    """Who uses the CPU: the time of handlers by crowd of senders, by sender and by object, over about `window` seconds.

    When the budget is used up, those who used at least as much as the average are refused: first senders, of crowds
    (`Sender.crowd`) that did; when that has not helped for `window` seconds, all of these crowds, where there are
    others too, and the messages to such objects; then everybody's.
    """

    def __init__(self, window: float = 10.0) -> None:
        self._window = window
        self._crowds: dict[Hashable, dict[NodeId, float]] = {}
        self._senders = 0
        """In all crowds."""
        self._objects: dict[bytes, float] = {}
        self._busy_for = 0.0
        self._hogs: frozenset[Hashable] = frozenset()
        """Crowds, senders and objects."""
        self._everybody = False

    def spend(self, object_id: bytes, sender: Sender, seconds: float) -> None:
        """A handler of this object has kept the loop busy for this sender."""
        key, objects = sender.id, self._objects
        senders = self._crowds.get(sender.subnet or key)
        if senders is not None and key in senders:
            senders[key] += seconds
        else:
            self._enter(sender, seconds)
        if object_id in objects:
            objects[object_id] += seconds
        elif len(objects) < USERS_MAX:
            objects[object_id] = seconds

    def _enter(self, sender: Sender, seconds: float) -> None:
        """The first of this sender; where so many are known, it counts as one of the rest of its crowd."""
        if sender.crowd not in self._crowds and len(self._crowds) >= USERS_MAX:
            return
        senders = self._crowds.setdefault(sender.crowd, {})
        key = sender.id if self._senders < USERS_MAX else REST
        self._senders += key not in senders
        senders[key] = senders.get(key, 0.0) + seconds

    def judge(self, busy: bool, seconds: float) -> None:
        """To be called every second or so: whether the budget is used up, and the time since the last call."""
        self._busy_for = self._busy_for + seconds if busy else 0.0
        hogs: set[Hashable] = set()
        if busy:
            greedy = _most({crowd: sum(senders.values()) for crowd, senders in self._crowds.items()})
            for crowd in greedy:
                senders = _most(self._crowds[crowd])
                hogs.update([crowd] if REST in senders else senders)
            if self._busy_for > self._window:
                objects = _most(self._objects)
                hogs.update(objects, greedy if len(greedy) < len(self._crowds) else ())
        self._hogs = frozenset(hogs)
        self._everybody = busy and (not hogs or self._busy_for > 2 * self._window)
        fade = max(0.0, 1 - seconds / self._window)
        self._objects = _faded(self._objects, fade)
        faded = ((crowd, _faded(senders, fade)) for crowd, senders in self._crowds.items())
        self._crowds = {crowd: senders for crowd, senders in faded if senders}
        self._senders = sum(map(len, self._crowds.values()))

    def refuses(self, object_id: bytes, sender: Sender) -> bool:
        """Whether a message is one of those that made the budget run out."""
        hogs = self._hogs
        return self._everybody or sender.id in hogs or object_id in hogs or sender.crowd in hogs


def _most(used: dict[Key, float]) -> list[Key]:
    """Those who used at least as much as the average."""
    average = sum(used.values()) / len(used) if used else 0.0
    return [key for key, seconds in used.items() if seconds >= 0.999 * average]  # those who are equal are no less


def _faded(used: dict[Key, float], share: float) -> dict[Key, float]:
    return {key: seconds * share for key, seconds in used.items() if seconds * share > FORGOTTEN_SECONDS}


class Cpu:
    """CPU-seconds a second, over the last `window` seconds.

    Args:
        limit: cores, as in 0.5.
    """

    def __init__(self, limit: float, window: float = 10.0) -> None:
        self._limit = limit
        self._window = window
        self._samples: deque[tuple[float, float]] = deque()

    def sample(self, now: float, used: float) -> str:
        """Why services should take no messages just now, or empty.

        Args:
            now: seconds, monotonic. used: CPU-seconds since the process began.
        """
        samples = self._samples
        samples.append((now, used))
        while len(samples) > 2 and now - samples[0][0] > self._window:
            samples.popleft()
        began, then = samples[0]
        if now - began < self._window / 2:
            return ""
        rate = (used - then) / (now - began)
        return (
            f"its CPU budget is used up ({rate:.2f} of {self._limit:g} cores, --max-cpu)" if rate > self._limit else ""
        )
