"""A DAG whose code travels to the workers: used by tests/net/test_dag.py."""

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import titan_overlay as titan
from titan_objects.dag import dag, task


@task(retries=2, timeout="1m")
def render(frame: int) -> bytes:
    """A frame; says so."""
    print(f"frame {frame}")
    return b"%d," % frame * 5000


@task
def join(frames: list[bytes]) -> dict[str, int]:
    """How many there are, and how large."""
    return {"frames": len(frames), "bytes": sum(map(len, frames))}


@task
def crawl(depth: int) -> int:
    """Says how far it is, and adds a task of its own kind."""
    task.progress(0.5)
    if depth:
        task.spawn(crawl, depth - 1)
    return depth


@task
def relay(name: str, words: list[str]) -> object:
    """Has an object asked, in a thread of its own while another one waits, and keeps what it says."""
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(task.pool.send, name, ["slow"])
        reply = task.pool.send(name, words)
        task.pool.send(name, ["go on"])
        assert slow.result() == "slow"
    assert task.pool.get(task.pool.put(b"kept")) == b"kept"
    try:
        task.pool.send("nobody", 1)
    except titan.NotFound as why:
        return [reply, str(why)]
    return None


@task
def burst(count: int) -> int:
    """Starts processes, and waits for them."""
    for each in [subprocess.Popen(["sleep", "60"]) for _ in range(count)]:
        each.wait()
    return count


@task
def listen() -> str:
    """Hears what the other task says."""
    with task.store.subscribe("news") as news:
        task.store.set("listening", "yes")
        _, message = next(iter(news))
    task.store.sadd("heard", message)
    print("heard", message.decode())
    return "store"


@task
def speak() -> str:
    """Speaks once somebody listens."""
    while task.store.get("listening") != b"yes":
        time.sleep(0.1)
    task.store.publish("news", "hello")
    return "store"


@dag
def talk() -> object:
    """Two tasks, of which one waits for the other in the store of their run."""
    return gather(listen(), speak())


@task
def gather(*results: str) -> list[str]:
    """What they gave."""
    return list(results)


@dag
def film(n: int) -> object:
    """Renders frames, and joins them."""
    return join(render.map(range(n)))
