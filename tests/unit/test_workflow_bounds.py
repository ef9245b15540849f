"""The bounds by which benchmarks.workflows judges schedules: no schedule at all beats them."""

from itertools import permutations
from random import Random

from benchmarks.workflows import listed, lower_bounds
from titan_objects.dag.definition import Definition, Task


def shortest(tasks: list[Task], workers: int) -> float:
    """The makespan of the best schedule. Some order in which no worker waits is one (Graham, 1966)."""
    took = {task.id: float(task.estimate) for task in tasks}
    needs = {task.id: list(task.needs) for task in tasks}
    children = {name: [each for each in needs if name in needs[each]] for name in needs}
    best = float("inf")
    for priorities in permutations(range(len(tasks))):
        rank = {task.id: float(priority) for task, priority in zip(tasks, priorities, strict=True)}
        begins = listed(took, needs, children, rank, workers)
        best = min(best, max(begins[name] + took[name] for name in took))
    return best


def test_no_schedule_is_shorter_than_the_bounds() -> None:
    random = Random(1)
    reached = 0
    for _ in range(150):
        tasks: list[Task] = []
        for number in range(6):
            needs = [each.id for each in tasks if random.random() < 0.3]
            tasks.append(Task(id=f"t{number}", run="true", estimate=random.randint(1, 9), needs=needs))
        simple, closer = lower_bounds(Definition(name="it", tasks=tasks), 2)
        best = shortest(tasks, 2)
        assert simple <= closer <= best + 1e-9
        reached += closer > best - 1e-9 and closer > simple
    assert reached > 10, "and it is often as short, where the simple one says less"
