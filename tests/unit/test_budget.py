"""What a volunteer's machine gives is bounded."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from titan_overlay.cli.daemon import running_children_seconds
from titan_overlay.identity.subnets import is_loopback
from titan_overlay.pool.hosting.budget import SMALL_BYTES, Cpu, Upload


def test_cpu_within_the_budget_is_fine() -> None:
    budget = Cpu(0.5)
    assert not any(budget.sample(float(second), second * 0.4) for second in range(30))


def test_cpu_above_the_budget_is_refused_and_recovers() -> None:
    budget = Cpu(0.5)
    busy = [budget.sample(float(second), second * 0.9) for second in range(20)]
    assert "--max-cpu" in busy[-1]
    idle = [budget.sample(20.0 + second, 19 * 0.9) for second in range(20)]
    assert idle[-1] == ""


def test_a_short_burst_at_the_start_is_not_judged() -> None:
    budget = Cpu(0.5)
    assert budget.sample(0.0, 0.0) == ""
    assert budget.sample(1.0, 1.0) == ""


@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs /proc")
def test_what_a_worker_process_computes_counts_while_it_still_does() -> None:
    before = running_children_seconds()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as worker:
        try:
            until = time.monotonic() + 60
            while running_children_seconds() < before + 0.1:
                assert time.monotonic() < until, "a process that computes has used no CPU in a minute"
                time.sleep(0.02)
        finally:
            worker.kill()


@pytest.mark.loops("virtual")
async def test_uploads_are_paced_to_the_rate() -> None:
    upload = Upload(1_000_000)
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def chunk() -> bytes:
        return bytes(256 * 1024)

    for _ in range(40):
        begun = upload.pace(chunk())
        assert not isinstance(begun, bytes)
        await begun
    sent = 40 * 256 * 1024
    assert loop.time() - began >= (sent - 1_000_000) / 1_000_000 * 0.99


@pytest.mark.loops("virtual")
async def test_small_answers_never_wait() -> None:
    upload = Upload(1000)
    for _ in range(100):
        answer = upload.pace(bytes(SMALL_BYTES))
        assert isinstance(answer, bytes)


def test_loopback_costs_no_upload() -> None:
    assert is_loopback("127.0.0.1") and is_loopback("::1")
    assert not is_loopback("192.0.2.1") and not is_loopback("not an address")


async def test_a_paced_answer_that_is_called_off_before_it_began_leaves_nothing_behind() -> None:
    async def answer() -> bytes:
        return b"never wanted"

    begun = Upload(1000).pace(answer())
    assert not isinstance(begun, bytes)
    begun.close()  # a coroutine that is never awaited would be a warning, and so a failure
