"""Seals the clock, the entropy and the threads that library code reaches for while a simulation runs.

Our own code takes time and chance from its loop and its `Ambient`. Libraries under it do not, so while a `VirtualLoop`
runs, the functions below answer from the virtual clock and from a seeded generator, and everything is put back when
it stops. What cannot be sealed from Python: `datetime.now()` (a C type that reads the clock itself), keys that OpenSSL
draws, and sets of objects that hash by address. `time.process_time` stays real: it measures the simulator, not the
world.
"""

import os
import random
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

from titan_overlay.ambient import SIMULATED_EPOCH

# Modules that keep their own binding of the real functions (`from time import monotonic`): they serve the test
# runner, the terminal and other threads, none of which lives in the simulated world.
_OUTSIDE = frozenset(sys.stdlib_module_names) | {
    "_pytest", "coverage", "execnet", "hypothesis", "pluggy", "pytest", "pytest_asyncio", "pytest_timeout", "rich",
    "tqdm", "xdist",
}  # fmt: skip


class OutsideWorld(RuntimeError):
    """Simulated code tried to leave the simulation: a thread, a real socket, a blocking sleep.

    The text says what was tried and what to do instead.
    """


class Seal:
    """The sealed surroundings of one virtual loop; entered while that loop runs, any number of times.

    The state of the generators is kept between entries, so that a run cut into many `run_until_complete` calls
    draws the same numbers as one call.
    """

    def __init__(self, clock: Callable[[], float], seed: int | str) -> None:
        self._thread = 0
        self._entropy = random.Random(f"titan/sealed/{seed}")
        self._global_state = random.Random(f"titan/global/{seed}").getstate()
        self._undo: list[tuple[Any, str, Any]] = []
        self._outer_state: Any = None
        self._bound: list[tuple[dict[str, Any], str, Any, Any]] = []
        self._scanned: set[str] = set()
        self._by_function: dict[Any, Any] = {}
        self._patches: list[tuple[Any, str, Any]] = self._make_patches(clock)

    def _make_patches(self, clock: Callable[[], float]) -> list[tuple[Any, str, Any]]:
        def wall() -> float:
            return SIMULATED_EPOCH + clock()

        patches: list[tuple[Any, str, Any]] = [
            (time, "time", wall),
            (time, "time_ns", lambda: int(wall() * 1e9)),
            (time, "monotonic", clock),
            (time, "monotonic_ns", lambda: int(clock() * 1e9)),
            (time, "perf_counter", lambda: clock()),  # one stand-in for each, so that it tells what to put back
            (time, "perf_counter_ns", lambda: int(clock() * 1e9)),
            (time, "gmtime", _with_default(time.gmtime, wall)),
            (time, "localtime", _with_default(time.localtime, wall)),
            (time, "sleep", self._refusing(time.sleep, "time.sleep() would block the loop: await asyncio.sleep()")),
            (os, "urandom", self._randbytes),
        ]
        if hasattr(os, "getrandom"):
            patches.append((os, "getrandom", lambda size, flags=0: self._randbytes(size)))
        self._by_function = {getattr(owner, name): fake for owner, name, fake in patches}
        return [
            *patches,
            (random, "_urandom", self._randbytes),  # SystemRandom, and with it `secrets`
            (random.Random, "seed", self._seeding(random.Random.seed)),
            (threading.Thread, "start", self._refusing(
                threading.Thread.start,
                "a thread runs in real time: start it before the simulation, or put it behind a seam that has an "
                "in-memory twin (Disk, isolation)",
            )),
        ]  # fmt: skip

    def _randbytes(self, size: int) -> bytes:
        if threading.get_ident() != self._thread:
            return _REAL_URANDOM(size)  # a thread from outside must not disturb the sequence
        return self._entropy.randbytes(size)

    def _seeding(self, real: Callable[..., None]) -> Callable[..., None]:
        def seed(rng: random.Random, a: Any = None, version: int = 2) -> None:
            # `random.Random()` draws its seed in C, past os.urandom.
            if a is None and threading.get_ident() == self._thread and not isinstance(rng, random.SystemRandom):
                a = self._entropy.getrandbits(256)
            real(rng, a, version)

        return seed

    def _refusing(self, real: Callable[..., Any], why: str) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self._thread:
                raise OutsideWorld(why)
            return real(*args, **kwargs)

        return refuse

    def _scan(self) -> None:
        """Finds the names that modules bound to a sealed function when they were imported."""
        if len(sys.modules) == len(self._scanned):
            return
        self._scanned = set(sys.modules)
        self._bound.clear()
        fakes = {id(function): (function, fake) for function, fake in self._by_function.items()}
        for name, module in list(sys.modules.items()):
            if type(module) is not types.ModuleType or name.partition(".")[0] in _OUTSIDE or name == __name__:
                continue
            namespace = vars(module)
            for key, value in list(namespace.items()):
                found = fakes.get(id(value))
                if found is not None:
                    self._bound.append((namespace, key, found[1], found[0]))

    def _unbind_new(self) -> None:
        """Gives modules that were imported during the run the real functions that they took the sealed ones for."""
        if len(sys.modules) == len(self._scanned):
            return
        reals = {id(fake): real for real, fake in self._by_function.items()}
        for name in sys.modules.keys() - self._scanned:
            namespace = vars(sys.modules[name])
            for key, value in list(namespace.items()):
                if id(value) in reals:
                    namespace[key] = reals[id(value)]

    def __enter__(self) -> "Seal":
        self._scan()
        self._thread = threading.get_ident()
        self._outer_state = random.getstate()
        random.setstate(self._global_state)
        for owner, name, fake in self._patches:
            self._undo.append((owner, name, getattr(owner, name)))
            setattr(owner, name, fake)
        for namespace, key, fake, _ in self._bound:
            namespace[key] = fake
        return self

    def __exit__(self, *exc: object) -> None:
        for namespace, key, fake, real in self._bound:
            if namespace.get(key) is fake:
                namespace[key] = real
        self._unbind_new()
        while self._undo:
            owner, name, real = self._undo.pop()
            setattr(owner, name, real)
        self._global_state = random.getstate()
        random.setstate(self._outer_state)


_REAL_URANDOM = os.urandom


def _with_default(real: Callable[[float | None], time.struct_time], wall: Callable[[], float]) -> Callable[..., Any]:
    def convert(seconds: float | None = None) -> time.struct_time:
        return real(wall() if seconds is None else seconds)

    return convert
