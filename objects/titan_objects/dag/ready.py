"""Which task comes next: by priority, then by turns between fairness keys, then by the critical path."""

from collections.abc import Callable, Iterable, Mapping
from heapq import heappop, heappush

from titan_objects.dag.journal import Worker
from titan_objects.dag.steps import Instance, Step

Requirement = tuple[tuple[tuple[str, str], ...], float, int, tuple[tuple[str, str], ...]]
"""Labels, cores, memory; labels that are liked."""
Group = tuple[str, Requirement, bool]
"""Fairness key; requirement; whether others have begun it, so that it waits for more results to compare."""
Item = tuple[float, float, int, Instance]
"""-priority, -rank, number."""

REFUSED_MAX = 64
"""Instances of a group that one question may meet which this worker may not have; what is behind them waits."""


def critical_path(steps: Mapping[str, Step], order: Iterable[str]) -> None:
    """Sets each step's rank: the seconds from its begin to the end of the run, on the longest way.

    Source: the upward rank of HEFT (Topcuoglu et al., 2002, section 3.1), with no cost of communication.

    Args:
        order: each id after all that it needs.
    """
    for name in reversed(list(order)):
        step = steps[name]
        step.rank = step.estimate + max((child.rank for child in step.children), default=0.0)


def first_come(steps: Mapping[str, Step], order: Iterable[str]) -> None:
    """No rank: first in, first out."""


class ReadyQueue:
    """Instances that could run now. Workers that lack a label, cores or memory never see those that require it."""

    def __init__(self) -> None:
        self._groups: dict[Group, list[Item]] = {}
        self._near: dict[tuple[str, str], list[Item]] = {}
        """By worker and fairness key: what is to run next to something that ran there. It stands in its group too."""
        self._served: dict[str, float] = {}
        """Seconds of work that each fairness key has been given."""
        self.length = 0

    def put(self, instance: Instance, key: str) -> None:
        """Adds an instance that is ready.

        Args:
            key: by which it is fair.
        """
        step = instance.step
        instance.queued = True
        self.length += 1
        item = (-step.task.priority, -step.rank, instance.number, instance)
        begun = bool(instance.held or instance.results)
        group = self._groups.setdefault((key, step.requirement, begun), [])
        if not group and key not in self._served:  # who is new owes nothing, and is owed nothing
            self._served[key] = min(self._served.values(), default=0.0)
        heappush(group, item)
        if instance.near:
            heappush(self._near.setdefault((instance.near, key), []), item)

    def drop(self, instance: Instance) -> None:
        """It is not ready any more."""
        if instance.queued:
            instance.queued = False
            self.length -= 1

    def take(self, worker: Worker, wanted: Callable[[Instance], bool]) -> Instance | None:
        """The instance that this worker should run next; None: there is none for it.

        Args:
            wanted: whether this worker may have this one.
        """
        refused: dict[Group, list[Item]] = {}
        try:
            while (group := self._best(worker, refused)) is not None:
                heap = self._groups[group]
                if wanted(heap[0][-1]):
                    return self._taken(worker, group[0], heap[0], wanted)
                refused.setdefault(group, []).append(heappop(heap))
            return None
        finally:
            for group, items in refused.items():
                for item in items:  # a group that had nothing else is gone meanwhile
                    heappush(self._groups.setdefault(group, []), item)

    def _best(self, worker: Worker, refused: Mapping[Group, list[Item]]) -> Group | None:
        """The group whose first is next. Of equals, one that others have begun: who lies is known sooner."""
        chosen: tuple[tuple[float, bool, float, float, bool, int], Group] | None = None
        for group, heap in list(self._groups.items()):
            key, requirement, begun = group
            _clean(heap)
            if not heap:
                del self._groups[group]
            elif _fits(requirement, worker) and len(refused.get(group, ())) < REFUSED_MAX:
                first = heap[0]
                liked = all(worker.labels.get(name) == value for name, value in requirement[3])
                rated = (first[0], not liked, self._served.get(key, 0.0), first[1], not begun, first[2])
                if chosen is None or rated < chosen[0]:
                    chosen = rated, group
        return chosen and chosen[1]

    def _taken(self, worker: Worker, key: str, item: Item, wanted: Callable[[Instance], bool]) -> Instance:
        """This one, or one under the same key whose place is next to this worker."""
        near = self._near.get((worker.name, key))
        instance = item[-1]
        if near is not None:
            _clean(near)
            if near and near[0][0] <= item[0] and _fits(near[0][-1].step.requirement, worker) and wanted(near[0][-1]):
                instance = heappop(near)[-1]
            if not near:
                del self._near[worker.name, key]
        self.drop(instance)
        self._served[key] = self._served.get(key, 0.0) + instance.step.estimate
        return instance


def _clean(heap: list[Item]) -> None:
    while heap and not (heap[0][-1].queued and heap[0][2] == heap[0][-1].number):
        heappop(heap)


def _fits(requirement: Requirement, worker: Worker) -> bool:
    labels, cores, memory, _ = requirement
    if cores > worker.cores or memory > worker.memory:
        return False
    return all(worker.labels.get(name) == value for name, value in labels)
