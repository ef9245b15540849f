"""Engines beside which `benchmarks.dag` measures: each does the same tasks, on two worker processes of its own.

    python -m benchmarks.dag_peers SYSTEM DIRECTORY

Started by `benchmarks.dag`: prints "ready", then for each line `SHAPE` the seconds that it took.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen

from benchmarks.processes import listens, stop
from benchmarks.trivial import increment
from tests.ports import free_port

WORKERS = 2
SHAPES = {"flat": (1, 1000), "layered": (10, 100), "chain": (200, 1)}
"""Layers, and tasks of each; a layer begins when the one before has ended."""
Layer = Callable[[list[int]], list[int]]
"""Has one task done for each of these, and gives the results."""


@contextmanager
def executor(directory: Path) -> Iterator[Layer]:
    """`concurrent.futures`, which keeps nothing."""
    with ProcessPoolExecutor(WORKERS) as pool:
        yield lambda given: [each.result() for each in [pool.submit(increment, number) for number in given]]


@contextmanager
def dask(directory: Path) -> Iterator[Layer]:
    """Dask distributed, which keeps nothing."""
    from distributed import Client, LocalCluster  # type: ignore[import-not-found, unused-ignore]

    cluster = LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, local_directory=str(directory)
    )
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call, unused-ignore]
        yield lambda given: list(client.gather(client.map(increment, given, pure=False)))  # type: ignore[no-untyped-call, unused-ignore]


@contextmanager
def celery(directory: Path) -> Iterator[Layer]:
    """Celery on a real Redis, with its append-only file."""
    port = free_port()
    words = ["redis-server", "--port", str(port), "--dir", str(directory), "--appendonly", "yes", "--save", ""]
    with ExitStack() as stack, (directory / "log").open("w") as log:
        server = Popen([*words, "--bind", "127.0.0.1"], stdout=log, text=True)
        stack.callback(stop, [server])
        while not listens(port):
            time.sleep(0.02)
        os.environ["CELERY_REDIS"] = f"redis://127.0.0.1:{port}/0"
        words = ["-m", "celery", "-A", "benchmarks.celery_app", "worker", "-c", str(WORKERS), "-l", "ERROR"]
        worker = Popen([sys.executable, *words], stdout=log, stderr=log, text=True)
        stack.callback(stop, [worker])

        from benchmarks.celery_app import add_one

        yield lambda given: [each.get() for each in [add_one.delay(number) for number in given]]


@contextmanager
def dbos(directory: Path) -> Iterator[Layer]:
    """DBOS on SQLite: each task is a workflow of a queue, on a thread."""
    from dbos import DBOS  # type: ignore[import-not-found, unused-ignore]

    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{directory}/dbos.sqlite", "log_level": "ERROR"})

    @DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]
    def one(number: int) -> int:
        return increment(number)

    DBOS.launch()
    DBOS.register_queue("bench", worker_concurrency=WORKERS, polling_interval_sec=0.01)
    try:
        yield lambda given: [
            each.get_result(polling_interval_sec=0.01)
            for each in [DBOS.enqueue_workflow("bench", one, number) for number in given]
        ]
    finally:
        DBOS.destroy()


@contextmanager
def ray(directory: Path) -> Iterator[Layer]:
    """Ray, which keeps nothing."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(directory)}
    import ray as system  # type: ignore[import-not-found, unused-ignore]

    system.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    remote = system.remote(increment)
    try:
        yield lambda given: list(system.get([remote.remote(number) for number in given]))
    finally:
        system.shutdown()


PEERS = {"ProcessPoolExecutor": executor, "Dask": dask, "Celery": celery, "DBOS": dbos, "Ray": ray}


def work(layer: Layer, depth: int, width: int) -> None:
    values = [0] * width
    for _ in range(depth):
        values = layer(values)
    assert values == [depth] * width


def main() -> None:
    with PEERS[sys.argv[1]](Path(sys.argv[2])) as layer:
        work(layer, 1, 10)
        print("ready", flush=True)
        for shape in sys.stdin:
            began = time.perf_counter()
            work(layer, *SHAPES[shape.strip()])
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
