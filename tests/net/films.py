"""A DAG whose code travels to the workers: used by tests/net/test_dag.py."""

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


@dag
def film(n: int) -> object:
    """Renders frames, and joins them."""
    return join(render.map(range(n)))
