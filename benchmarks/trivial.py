"""The task that `benchmarks.dag` has done by each system: it adds one."""


def increment(number: int = 0) -> int:
    """One more."""
    return number + 1
