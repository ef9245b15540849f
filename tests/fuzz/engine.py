"""Runs targets for a while: with atheris (coverage-guided, libFuzzer) where it is installed, else by blind mutation.

    python -m tests.fuzz                      all targets in turn, ten minutes
    python -m tests.fuzz --seconds 60 frame   some of them
    python -m tests.fuzz --keep               what reached something new goes into the corpus

A finding is an error that the target does not promise, an input that takes longer than `SLOW_SECONDS`, or one that
takes more than `MEMORY_BYTES`. Exit status 1 then; the input is printed as a line for the corpus file.
"""

import argparse
import base64
import contextlib
import importlib
import io
import logging
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.target import CORPUS, Target, all_targets

SLOW_SECONDS = 5
MEMORY_BYTES = 1 << 30
DEFAULT_SECONDS = 600.0
KEPT_BYTES_MAX = 8_000
"""Of corpus, for each target."""

_PACKAGES = ("titan_overlay", "titan_objects")


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzes every decoder.")
    parser.add_argument("targets", nargs="*", help="names of targets; default: all")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="for all of them together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="put what reached something new into the corpus")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)  # what a node logs of hostile bytes is not what is looked for here
    warnings.simplefilter("ignore")
    guided = find_spec("atheris") is not None
    every = {each.name: each for each in (_instrumented() if guided else all_targets())}
    unknown = sorted(set(options.targets) - set(every))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(every)}")
    chosen = [every[name] for name in options.targets or every]
    print(f"{len(chosen)} targets, {options.seconds:g} s, {'atheris' if guided else 'blind mutation'}", flush=True)
    run = _guided if guided else _blindly
    findings = sum(not run(each, options.seconds / len(chosen), options.seed, options.keep) for each in chosen)
    print(f"{findings} findings" if findings else "nothing found", flush=True)
    return 1 if findings else 0


# --- coverage-guided ------------------------------------------------------------------------------------------


def _instrumented() -> list[Target]:
    atheris = importlib.import_module("atheris")
    with contextlib.redirect_stderr(io.StringIO()), atheris.instrument_imports(include=list(_PACKAGES)):
        return all_targets()


def _guided(target: Target, seconds: float, seed: int, keep: bool) -> bool:
    """libFuzzer takes its process over and ends it: a child for each target. Whether nothing was found."""
    with tempfile.TemporaryDirectory(prefix="titan-fuzz-") as scratch:
        inputs, said = Path(scratch, "inputs"), Path(scratch, "said")
        inputs.mkdir()
        for number, data in enumerate([*target.seeds(), *target.corpus()]):
            (inputs / f"{number:04}").write_bytes(data)
        sys.stdout.flush()
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                _become_fuzzer(target, seconds, seed, inputs, said)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        text = said.read_text(errors="replace")
        runs = re.findall(r"^#(\d+)", text, re.MULTILINE)
        _progress(target, int(runs[-1]) if runs else 0, time.monotonic() - began)
        findings = sorted(Path(scratch).glob("found-*"))
        if status or findings:
            _report(target, text[-4000:], [each.read_bytes() for each in findings])
            return False
        if keep:
            _keep(target, [each.read_bytes() for each in inputs.iterdir()])
    return True


def _become_fuzzer(target: Target, seconds: float, seed: int, inputs: Path, said: Path) -> None:
    atheris = importlib.import_module("atheris")
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for each in target.seeds():
        target(each)  # what is built once is built before the clock runs
    flags = {
        "max_total_time": max(1, round(seconds)),
        "max_len": target.limit,
        "timeout": SLOW_SECONDS,
        "rss_limit_mb": MEMORY_BYTES >> 20,
        "seed": seed,
        "artifact_prefix": f"{inputs.parent}/found-",
    }
    atheris.Setup([target.name, *(f"-{key}={value}" for key, value in flags.items()), str(inputs)], target)
    atheris.Fuzz()
    os._exit(0)


# --- blind ----------------------------------------------------------------------------------------------------


def _blindly(target: Target, seconds: float, seed: int, keep: bool) -> bool:
    noise = random.Random(f"{seed}/{target.name}")
    pool = [*target.seeds(), *target.corpus()]
    began, tried = time.monotonic(), 0
    kept: list[bytes] = []
    while time.monotonic() - began < seconds:
        data = mutated(noise, pool, target.limit)
        started = time.process_time()
        tried += 1
        try:
            target(data)
            assert time.process_time() - started < SLOW_SECONDS, f"it took longer than {SLOW_SECONDS} s"
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            assert used < MEMORY_BYTES, f"the process takes {used} bytes"
        except Exception:
            _report(target, traceback.format_exc(), [data])
            return False
        if keep and tried % 16 == 0:
            kept.append(data)
    _progress(target, tried, time.monotonic() - began)
    if keep:
        _keep(target, kept)
    return True


def mutated(noise: random.Random, pool: list[bytes], limit: int) -> bytes:
    """An input like one of the pool, changed in some places; now and then one of two halves."""
    data = bytearray(noise.choice(pool) if pool else b"")
    for _ in range(1 << noise.randrange(5)):
        at = noise.randrange(len(data) + 1)
        match noise.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << noise.randrange(8)
            case 1 if data:
                data[at % len(data)] = noise.choice((0, 1, 0x7F, 0x80, 0xC0, 0xFF, noise.randrange(256)))
            case 2:
                data[at:at] = noise.randbytes(noise.randrange(1, 9))
            case 3:
                del data[at : at + noise.randrange(1, 9)]
            case 4:
                part = bytes(data[at : at + noise.randrange(1, 33)])
                data[at:at] = part * noise.randrange(1, 4)
            case _:
                other = noise.choice(pool) if pool else b""
                data[at:] = other[noise.randrange(len(other) + 1) :]
    return bytes(data[:limit])


# --- what is said and kept ------------------------------------------------------------------------------------


def _progress(target: Target, tried: int, seconds: float) -> None:
    print(f"  {target.name:<24} {tried:>9} inputs {seconds:6.1f} s", flush=True)


def _report(target: Target, text: str, inputs: list[bytes]) -> None:
    print(f"FOUND in {target.name}:\n{text.strip()}", flush=True)
    for data in inputs:
        print(f"for tests/fuzz/corpus/{target.name}.txt: {base64.b64encode(data).decode()}", flush=True)


def _keep(target: Target, inputs: Iterable[bytes]) -> None:
    """Writes the corpus file: lines with a remark stay (findings, and what people put there), then the shortest inputs
    that reach what those and the seeds do not."""
    path = CORPUS / f"{target.name}.txt"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    marked = [line for line in lines if "#" in line]
    before = [*target.seeds(), *(base64.b64decode(line.partition("#")[0]) for line in marked)]
    seen: set[object] = set().union(*(_reached(target, data) for data in before))
    left, found = KEPT_BYTES_MAX, []
    for data in sorted({*inputs, *target.corpus()}, key=lambda each: (len(each), each)):
        news = _reached(target, data) - seen
        if news and len(data) <= left:
            seen |= news
            left -= len(data)
            found.append(base64.b64encode(data).decode())
    if marked or found:
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([*marked, *found]) + "\n", encoding="ascii")


def _reached(target: Target, data: bytes) -> set[object]:
    """The steps from line to line that this input takes in our code."""
    steps: set[object] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not any(package in frame.f_code.co_filename for package in _PACKAGES):
            return None
        before = 0

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal before
            if event == "line":
                steps.add((frame.f_code, before, frame.f_lineno))
                before = frame.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return steps
