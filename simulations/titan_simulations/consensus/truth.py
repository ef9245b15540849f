"""What an observer who sees all machines at once holds against them."""

from hashlib import sha256

from titan_overlay.mutable.engine import Checkpoint, Configuration, Entry
from titan_overlay.mutable.recollection import Promise
from titan_simulations.checkers import Operation, check
from titan_simulations.consensus.bodies import Saved
from titan_simulations.consensus.store import MODEL, Action, Store


class Truth:
    """Everything that was agreed, told by whoever executed it first; everybody else must agree with that.

    `violations`: what should never have been, in words.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        """The latest that anybody knows."""
        self.violations: list[str] = []
        self.undecided = 0
        self._members = {configuration.epoch: configuration.members}
        self._order: dict[int, tuple[str, int, bytes]] = {}
        self._roots: dict[int, tuple[str, bytes]] = {}

    def executed(self, who: str, last: int, entry: Entry) -> None:
        """A machine executes an entry, after the one at `last`."""
        if entry.index != last + 1:
            self.violations.append(f"{who} executes {entry.index} after {last}")
        mark = (int(entry.kind), sha256(entry.data).digest())
        known = self._order.setdefault(entry.index, (who, *mark))
        if known[1:] != mark:
            self.violations.append(f"{who} executes another entry at height {entry.index} than {known[0]}")

    def invented(self, who: str, entry: Entry) -> None:
        """A machine finds in the order what no client can have asked for."""
        self.violations.append(f"{who} is to execute what is no request, at height {entry.index}")

    def reached(self, who: str, checkpoint: Checkpoint) -> None:
        """A machine has this state, executed or fetched."""
        known = self._roots.setdefault(checkpoint.index, (who, checkpoint.root))
        if known[1] != checkpoint.root:
            self.violations.append(f"{who} has another state at height {checkpoint.index} than {known[0]}")

    def remembers(self, who: str, kept: Promise, told: list[Promise]) -> None:
        """A machine starts with what its disk has kept; others were told things by it."""
        beyond = [each for each in told if each > kept]
        if beyond:
            self.violations.append(f"{who} has told others of {max(beyond)}, and its disk has {kept}")

    def began(self, configuration: Configuration) -> None:
        """An epoch begins."""
        known = self._members.setdefault(configuration.epoch, configuration.members)
        if known != configuration.members:
            self.violations.append(f"epoch {configuration.epoch} has two memberships")
        if configuration.epoch > self.configuration.epoch:
            self.configuration = configuration

    def certifies(self, saved: Saved) -> bool:
        """Whether a state that was fetched is one that the group had: in the place of its certificate."""
        configuration, point = saved.configuration, saved.checkpoint
        root = sha256(saved.store).digest()
        return (
            self._members.get(configuration.epoch) == configuration.members
            and root == point.root
            and self._roots.get(point.index, ("", b""))[1] == root
        )

    def judge_store(self, who: str, store: Store, acknowledged: set[tuple[int, int]]) -> None:
        """A state at the end, when everybody has caught up."""
        done = set(store.done)
        if len(done) < len(store.done):
            self.violations.append(f"{who} executed {len(store.done) - len(done)} requests twice")
        lost = acknowledged - done
        if lost:
            client, sequence = min(lost)
            self.violations.append(
                f"{who} lacks {len(lost)} acknowledged requests, for example number {sequence} of client {client}"
            )

    def judge_history(self, history: dict[int, list[Operation]], budget: int) -> None:
        """All that clients saw, key by key."""
        for key, operations in sorted(history.items()):
            verdict = check(operations, MODEL, 0, budget)
            if verdict.linearizable is None:
                self.undecided += 1
            elif not verdict.linearizable:
                odd = verdict.stuck[-1]
                action, value = odd.what
                self.violations.append(
                    f"key {key} is not linearizable: nothing explains that {odd.client} did "
                    f"{Action(action).name} {value} -> {odd.result} (moments {odd.called:.0f} to {odd.returned:.0f})"
                )
