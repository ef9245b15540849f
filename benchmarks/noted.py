"""The task that `benchmarks.dag_kills` has done: it adds, takes a while, and has an effect that can be counted."""

import os
import time

MODULUS = 1_000_003


def add(key: str, path: str, seconds: float, *numbers: int) -> int:
    """One more than all that it is given, below `MODULUS`; each call leaves a line in the file."""
    print(f"{key} begins")
    time.sleep(seconds)
    with open(path, "ab", buffering=0) as effects:
        effects.write(f"{key} {os.getpid()}\n".encode())
    print(f"{key} ends")
    return (1 + sum(numbers)) % MODULUS
