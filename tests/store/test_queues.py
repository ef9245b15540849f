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

ARQ = """
import asyncio, os
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

async def add(ctx, a, b):
    return a + b

async def main():
    settings = RedisSettings.from_dsn(os.environ["STORE"])
    pool = await create_pool(settings)
    jobs = [await pool.enqueue_job("add", at, at) for at in range(3)]
    later = await pool.enqueue_job("add", 5, 5, _defer_by=0.1)
    worker = Worker([add], redis_settings=settings, burst=True, poll_delay=0.05, handle_signals=False)
    await worker.main()
    print([await job.result(timeout=60) for job in [*jobs, later]])
    await worker.close()
    await pool.aclose()

asyncio.run(main())
"""

DRAMATIQ = """
import os
import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["STORE"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["STORE"])))
dramatiq.set_broker(broker)

tries = []

@dramatiq.actor(store_results=True, max_retries=2, min_backoff=10)
def flaky(a):
    tries.append(a)
    if len(tries) == 1:
        raise ValueError("not yet")
    return a + 1

worker = dramatiq.Worker(broker, worker_timeout=50, worker_threads=2)
worker.start()
print(flaky.send(1).get_result(block=True, timeout=60_000))
worker.stop()
"""

HUEY = """
import os
from huey import RedisHuey

huey = RedisHuey("jobs", url=os.environ["STORE"])

@huey.task()
def add(a, b):
    return a + b

results = [add(at, at) for at in range(3)]
later = add.schedule((5, 5), delay=60)
while (task := huey.dequeue()) is not None:
    huey.execute(task)
print([result() for result in results], huey.scheduled_count())
"""


SIDEKIQ = """
import json, os, time
import redis

NEXT = '''
local jobs = redis.call("zrange", KEYS[1], "-inf", ARGV[1], "byscore", "limit", 0, 1)
if jobs[1] then
  redis.call("zrem", KEYS[1], jobs[1])
end
return jobs[1]
'''

store = redis.Redis.from_url(os.environ["STORE"], decode_responses=True)
assert int(store.info()["redis_version"].split(".")[0]) >= 7, "what it asks for first"

def push(queue, job, at=None):
    with store.pipeline() as pipe:  # MULTI
        if at is not None:
            pipe.zadd("schedule", {json.dumps({**job, "queue": queue}): at})
        else:
            pipe.sadd("queues", queue).lpush(f"queue:{queue}", json.dumps(job))
        pipe.execute()

def beat(busy):
    with store.pipeline() as pipe:
        pipe.sadd("processes", "w1").exists("w1")
        pipe.hset("w1", mapping={"info": "{}", "busy": busy, "beat": time.time(), "quiet": "false", "rss": 1})
        pipe.expire("w1", 60).rpop("w1-signals")
        return pipe.execute()

def due():
    try:
        return store.evalsha(SHA, 1, "schedule", time.time())
    except redis.exceptions.NoScriptError:
        return store.eval(NEXT, 1, "schedule", time.time())

SHA = store.script_load(NEXT)
store.script_flush()
beat(0)
push("critical", {"jid": "a", "args": [1]})
push("default", {"jid": "b", "args": [2]})
push("default", {"jid": "c", "args": [3]}, at=time.time() - 1)
push("default", {"jid": "d", "args": [4]}, at=time.time() + 3600)
while (job := due()) is not None:
    job = json.loads(job)
    push(job.pop("queue"), job)
done = []
while (found := store.brpop(["queue:critical", "queue:default"], timeout=0.1)) is not None:
    job = json.loads(found[1])
    store.hset("w1:work", job["jid"], found[1])
    if job["jid"] == "b" and "tried" not in job:
        store.zadd("retry", {json.dumps({**job, "tried": 1}): time.time() + 60})
    else:
        done.append(job["jid"])
    with store.pipeline() as pipe:
        day = time.strftime("%Y-%m-%d")
        pipe.incrby("stat:processed", 1).incrby(f"stat:processed:{day}", 1).expire(f"stat:processed:{day}", 157680000)
        pipe.hdel("w1:work", job["jid"])
        pipe.execute()
with store.pipeline() as pipe:  # a job that is given up
    pipe.zadd("dead", {"x": time.time()}).zremrangebyscore("dead", "-inf", time.time() - 15552000)
    pipe.zremrangebyrank("dead", 0, -10000)
    assert pipe.execute() == [1, 0, 0]
assert store.zcard("schedule") == store.zcard("retry") == 1 and not store.exists("w1:work")
assert beat(1)[:2] == [0, 1] and 0 < store.ttl("w1") <= 60
print(done, store.get("stat:processed"), sorted(store.smembers("queues")))
"""
"""What Sidekiq and its like send, in the order in which they send it: it is written in another language."""


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


@pytest.mark.parametrize(
    ("library", "program", "says"),
    [("arq", ARQ, "[0, 2, 4, 10]"), ("dramatiq", DRAMATIQ, "2"), ("huey", HUEY, "[0, 2, 4] 1")],
)
def test_queues_of_other_makers(place: tuple[Path, dict[str, str]], library: str, program: str, says: str) -> None:
    pytest.importorskip(library)
    assert run(program, *place).splitlines()[-1] == says


def test_a_queue_as_sidekiq_keeps_it(place: tuple[Path, dict[str, str]]) -> None:
    assert run(SIDEKIQ, *place).splitlines()[-1] == "['a', 'c'] 3 ['critical', 'default']"


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
