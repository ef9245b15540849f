"""Job queues as their users run them, unmodified, with the store as their Redis."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.real import BIN, SECONDS, TitanStore

JOBS = """
from celery import Celery
import os

app = Celery("jobs", broker=os.environ["STORE"], backend=os.environ["STORE"])
app.conf.broker_connection_retry_on_startup = True


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=2)
def flaky(self):
    if self.request.retries < 1:
        raise self.retry(countdown=0.05)
    return "done"
"""

CELERY = """
from celery import chord, group
import jobs

print(jobs.add.delay(2, 3).get(timeout=60))
print(group(jobs.add.s(at, at) for at in range(4))().get(timeout=60))
print(chord([jobs.add.s(at, at) for at in range(4)])(jobs.total.s()).get(timeout=60))
print(jobs.flaky.delay().get(timeout=60))
print(jobs.add.apply_async((1, 1), countdown=0.2).get(timeout=60))
"""

RQ = """
import os
from redis import Redis
from rq import Queue, SimpleWorker

connection = Redis.from_url(os.environ["STORE"])
queue = Queue(connection=connection)
jobs = [queue.enqueue("operator.add", at, at) for at in range(3)]
SimpleWorker([queue], connection=connection).work(burst=True)
print([job.return_value() for job in jobs])
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    with TitanStore(tmp_path / "store", "--appendfsync", "no") as server:
        (tmp_path / "jobs.py").write_text(JOBS)
        yield (
            tmp_path,
            {**os.environ, "STORE": f"redis://127.0.0.1:{server.port}/0", "PYTHONPATH": str(tmp_path)},
        )


def run(program: str, place: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=place, env=environment, capture_output=True, text=True, timeout=SECONDS * 2
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_rq(place: tuple[Path, dict[str, str]]) -> None:
    pytest.importorskip("rq")
    assert run(RQ, *place).splitlines()[-1] == "[0, 2, 4]"


@pytest.mark.slow
def test_celery_groups_chords_retries_and_etas(place: tuple[Path, dict[str, str]]) -> None:
    pytest.importorskip("celery")
    directory, environment = place
    words = [BIN / "celery", "-A", "jobs", "worker", "-P", "solo", "-c", "1", "-l", "ERROR"]
    with (directory / "worker.log").open("wb") as log:
        worker = subprocess.Popen(words, cwd=directory, env=environment, stdout=log, stderr=log)
    try:
        assert run(CELERY, *place).split("\n")[:-1] == ["5", "[0, 2, 4, 6]", "12", "done", "2"]
    finally:
        worker.kill()
        worker.wait()
