"""Time and chance, handed in.

Everything in the package that needs a wall clock, a random draw or entropy takes an `Ambient`. In production it is
the system's; in a simulation it is a function of the seed and the virtual clock, so that a run can be replayed.
Monotonic time is not handed in: shells ask the running loop (`loop.time()`).

This is the one module that may reach for the system's clock and entropy.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random as Random  # re-exported: others need the type, not the module

SIMULATED_EPOCH = 1_700_000_000.0
"""Unix time at which every virtual clock starts (14 November 2023, 22:13:20 UTC)."""


def stopwatch() -> float:
    """Seconds, for what really takes time in a process: a loop's clock may stand still while its thread is held up."""
    return time.perf_counter()


@dataclass(frozen=True, slots=True)
class Ambient:
    """What a node knows of the world without asking a peer.

    wall: unix time in seconds. It may jump: use it in signed expiries only, with a tolerance.
    random: draws that need not be secret (jitter, choice among equals, sampling).
    token_bytes: n bytes that nobody can guess (keys, nonces, tokens); guessable by design in a simulation.
    """

    wall: Callable[[], float]
    random: Random
    token_bytes: Callable[[int], bytes]

    @classmethod
    def system(cls) -> "Ambient":
        """The machine's own clock and entropy."""
        # Looked up at each call, so that a simulation which seals `time` and `os` also covers code that asked for this.
        return cls(lambda: time.time(), Random(os.urandom(32)), lambda n: os.urandom(n))

    @classmethod
    def seeded(cls, seed: int | str, loop: asyncio.AbstractEventLoop) -> "Ambient":
        """A world of its own for each seed: the same seed gives the same draws in every process.

        Two nodes of one simulation need two seeds (f"{seed}/{node}"), or they draw the same keys.
        """
        entropy = random.Random(f"titan/entropy/{seed}")
        return cls(
            lambda: SIMULATED_EPOCH + loop.time(),
            random.Random(f"titan/random/{seed}"),
            entropy.randbytes,
        )
