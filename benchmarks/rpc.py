"""CPU per request: the overlay's authenticated calls beside the stock `rpcudp`, in the same run.

    python -m benchmarks.rpc [--calls 20000] [--in-flight 16] [--rounds 5] [--json FILE] [--report]

Both do the same: a `ping` whose body is a 32-byte id, answered with a 32-byte id, over real sockets on 127.0.0.1. CPU
time covers both ends and the median round counts. In one process the rounds of the two alternate; with two processes
one follows the other, each end is measured by itself, and the sum is shown.
"""

import argparse
import asyncio
import gc
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rpcudp.protocol import RPCProtocol

from benchmarks import report
from titan_overlay.ambient import Ambient
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.rights import Rights
from titan_overlay.overlay.overlay import Overlay

ID = bytes(range(32))
POOL = PoolId(SigningKey(sha256(b"pool").digest()).public)

Ping = Callable[[], Awaitable[object]]


class StockServer(RPCProtocol):  # type: ignore[misc]
    def rpc_ping(self, sender: tuple[str, int], nodeid: bytes) -> bytes:
        return ID


async def stock_server() -> tuple[int, Callable[[], None]]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(StockServer, local_addr=("127.0.0.1", 0))
    return transport.get_extra_info("sockname")[1], transport.close


async def stock_client(port: int) -> tuple[Ping, Callable[[], None]]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        RPCProtocol, local_addr=("127.0.0.1", 0)
    )

    async def ping() -> None:
        happened, answer = await protocol.ping(("127.0.0.1", port), ID)
        assert happened and answer == ID

    return ping, transport.close


async def our_server() -> tuple[int, Callable[[], None]]:
    overlay = Overlay(SigningKey(sha256(b"server").digest()), Rights(POOL), Ambient.system())
    overlay.set_serving(True)
    overlay.serve("ping", lambda contact, body: ID)
    await overlay.listen(0, "127.0.0.1")
    return overlay.contact.port, overlay.stop


async def our_client(port: int) -> tuple[Ping, Callable[[], None]]:
    overlay = Overlay(SigningKey(sha256(b"client").digest()), Rights(POOL), Ambient.system())
    await overlay.listen(0, "127.0.0.1")
    to = (await overlay.protocol.open(("127.0.0.1", port), None)).contact

    async def ping() -> None:
        assert await overlay.call(to, "ping", ID) == ID

    return ping, overlay.stop


ENDS: dict[str, tuple[Callable[[], Any], Callable[[int], Any]]] = {
    "rpcudp": (stock_server, stock_client),
    "overlay": (our_server, our_client),
}


async def drive(ping: Ping, calls: int, in_flight: int) -> None:
    async def one(count: int) -> None:
        for _ in range(count):
            await ping()

    await asyncio.gather(*(one(calls // in_flight) for _ in range(in_flight)))


async def one_process(options: argparse.Namespace) -> dict[str, list[float]]:
    """CPU microseconds per call, both ends, by round."""
    clients = {}
    closers = []
    for name, (server, client) in ENDS.items():
        port, close_server = await server()
        clients[name], close_client = await client(port)
        closers += [close_server, close_client]
        await drive(clients[name], 200, options.in_flight)
    spent: dict[str, list[float]] = {name: [] for name in ENDS}
    for _ in range(options.rounds):
        for name, ping in clients.items():
            gc.collect()
            begun = time.process_time()
            await drive(ping, options.calls, options.in_flight)
            spent[name].append((time.process_time() - begun) / options.calls * 1e6)
    for close in closers:
        close()
    return spent


def server_process(name: str, pipe: Connection) -> None:
    """Serves; answers every message on the pipe with the CPU seconds spent so far."""

    async def serve() -> None:
        port, close = await ENDS[name][0]()
        done = asyncio.Event()

        def answer() -> None:
            if pipe.recv():
                pipe.send(time.process_time())
            else:
                done.set()

        asyncio.get_running_loop().add_reader(pipe.fileno(), answer)
        pipe.send(port)
        await done.wait()
        close()

    asyncio.run(serve())


async def two_processes(options: argparse.Namespace) -> dict[str, list[float]]:
    context = multiprocessing.get_context("spawn")
    spent: dict[str, list[float]] = {}
    for name, (_, client) in ENDS.items():
        pipe, theirs = context.Pipe()
        process = context.Process(target=server_process, args=(name, theirs), daemon=True)
        process.start()
        ping, close = await client(pipe.recv())
        await drive(ping, 200, options.in_flight)
        spent[name] = []
        for _ in range(options.rounds):
            pipe.send(True)
            there, here = pipe.recv(), time.process_time()
            await drive(ping, options.calls, options.in_flight)
            here = time.process_time() - here
            pipe.send(True)
            spent[name].append((here + pipe.recv() - there) / options.calls * 1e6)
        close()
        pipe.send(False)
        process.join()
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20000)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    options = parser.parse_args()
    result: dict[str, Any] = {"calls": options.calls, "in_flight": options.in_flight, "rounds": options.rounds}
    for where, spent in (
        ("one_process", asyncio.run(one_process(options))),
        ("two_processes", asyncio.run(two_processes(options))),
    ):
        for name, rounds in spent.items():
            result[f"{name}_cpu_us_{where}"] = statistics.median(rounds)
        ratios = [ours / stock for ours, stock in zip(spent["overlay"], spent["rpcudp"], strict=True)]
        result[f"ratio_{where}"] = statistics.median(ratios)
    report.publish("rpc", TABLE, result, options)


TABLE = (
    ("calls in flight", "in_flight", "{}"),
    ("stock rpcudp, one process: CPU microseconds per call, both ends", "rpcudp_cpu_us_one_process", "{:.1f}"),
    ("overlay (authenticated), one process", "overlay_cpu_us_one_process", "{:.1f}"),
    ("share of the stock's CPU, one process", "ratio_one_process", "{:.2f}"),
    ("stock rpcudp, two processes, sum of both", "rpcudp_cpu_us_two_processes", "{:.1f}"),
    ("overlay (authenticated), two processes, sum of both", "overlay_cpu_us_two_processes", "{:.1f}"),
    ("share of the stock's CPU, two processes", "ratio_two_processes", "{:.2f}"),
)

if __name__ == "__main__":
    main()
