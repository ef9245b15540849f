"""Files that are larger than what a program, or a node, may use of memory; and programs that are killed half-way."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import titan_overlay as titan
from tests.net.commands import SECONDS
from tests.net.nodes import Nodes

MIB = 1 << 20
SIZE = 64 * MIB
MEMORY_GROWTH_MAX = 24 * MIB
"""Well below the file, and well above what buffers and chunks in flight take."""

PROGRAM = """
import sys, threading
import titan_overlay as titan

def resident():  # bytes, at most so far: VmHWM is reset by nothing but exec
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

what, argument, stop_at, *options = sys.argv[1:]
seen = []

def progress(done, total):
    seen.append(done)
    if done > float(stop_at) * total:
        print("half-way", flush=True)
        threading.Event().wait()  # until killed; nothing more is fetched or given out

policy = titan.Policy(min_copies=1)
with titan.connect_sync() as pool:
    pool.get(pool.put(bytes(3 << 20), policy=policy))
    before = resident()
    if what == "put":
        print(pool.put(argument, policy=policy, encrypt="encrypt" in options, progress=progress))
    else:
        pool.get(argument, "out", decrypt="encrypt" in options, progress=progress)
        print(min(seen))
    print(resident() - before, seen[-1])
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with Nodes(tmp_path_factory.mktemp("pool"), 2) as running:
        (running.home / "program.py").write_text(PROGRAM)
        block = b"".join(number.to_bytes(4) for number in range(MIB // 4))
        with (running.home / "in").open("wb") as file:
            for number in range(SIZE // MIB):
                file.write(number.to_bytes(4) + block[4:])
        yield running


def run(nodes: Nodes, what: str, argument: str, *options: str) -> tuple[str, int, int]:
    """What it prints first, by how much its memory grew, and the last progress."""
    first, rest = nodes.run(nodes.home / "program.py", what, argument, "inf", *options).splitlines()
    grown, done = map(int, rest.split())
    return first, grown, done


def kill_half_way(nodes: Nodes, what: str, argument: str) -> None:
    process = nodes.program(nodes.home / "program.py", what, argument, "0.5")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "half-way\n", process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.communicate()


def peak(nodes: Nodes) -> dict[str, int]:
    """The most memory that each node has used so far."""
    found = {}
    for node, running in nodes.by_id.items():
        status = Path(f"/proc/{running.process.pid}/status").read_text().splitlines()
        found[node] = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return found


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("options", [(), ("encrypt",)], ids=["plain", "encrypted"])
def test_a_large_file_takes_little_memory_at_both_ends(nodes: Nodes, options: tuple[str, ...]) -> None:
    before = peak(nodes)
    name, grown, _ = run(nodes, "put", "in", *options)
    assert (name == f"sha256:{digest(nodes.home / 'in')}") == (not options)
    assert grown < MEMORY_GROWTH_MAX
    _, grown, _ = run(nodes, "get", name, *options)
    assert grown < MEMORY_GROWTH_MAX
    assert digest(nodes.home / "out") == digest(nodes.home / "in")
    after = peak(nodes)
    assert all(after[node] - before[node] < MEMORY_GROWTH_MAX for node in before), (before, after)
    with titan.connect_sync(data=nodes.user) as pool:
        assert pool.delete(name) == "deleted"


def test_a_put_and_a_get_go_on_where_a_killed_program_stopped(nodes: Nodes) -> None:
    kill_half_way(nodes, "put", "in")
    name, _, given_out = run(nodes, "put", "in")
    assert given_out < 0.8 * SIZE, "what the node had already was not sent again"

    (nodes.home / "out").unlink(missing_ok=True)
    kill_half_way(nodes, "get", name)
    assert not (nodes.home / "out").exists()
    started_with, _, done = run(nodes, "get", name)
    assert int(started_with) > 0.3 * SIZE, "what was there already was not fetched again"
    assert done == SIZE
    assert digest(nodes.home / "out") == digest(nodes.home / "in")
