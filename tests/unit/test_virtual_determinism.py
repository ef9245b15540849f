"""The same seed tells the same story in every process, whatever the hash seed."""

import os
import subprocess
import sys

PROGRAM = """
import asyncio, os, random, secrets, time, uuid
from titan_overlay import testing
from titan_overlay.ambient import Ambient

class Gossip(asyncio.DatagramProtocol):
    def __init__(self, ambient, peers):
        self.ambient, self.peers, self.heard = ambient, peers, set()
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, addr):
        if data not in self.heard:
            self.heard.add(data)
            for ip in self.ambient.random.sample(self.peers, 3):
                self.transport.sendto(data, (ip, 4747))

async def node(network, ip, peers):
    loop = asyncio.get_running_loop()
    with network.on_host(ip):
        gossip = Gossip(Ambient.seeded(f"1/{ip}", loop), peers)
        await loop.create_datagram_endpoint(lambda: gossip, local_addr=(ip, 4747))
        async def echo(reader, writer):
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
            writer.close()
        await asyncio.start_server(echo, ip, 4747)
        async def life():
            for _ in range(20):
                await asyncio.sleep(random.random())
                gossip.transport.sendto(secrets.token_bytes(8) + uuid.uuid4().bytes, (random.choice(peers), 4747))
                reader, writer = await asyncio.open_connection(random.choice(peers), 4747)
                writer.write(repr((time.time(), os.urandom(4))).encode())
                await reader.read(1000)
                writer.close()
        return asyncio.create_task(life())

async def main():
    network = asyncio.get_running_loop().network
    peers = [f"10.0.0.{number}" for number in range(1, 31)]
    network.host(peers[0], upload=20_000.0, download=50_000.0)
    tasks = {await node(network, ip, peers) for ip in peers}
    while tasks:
        done, tasks = await asyncio.wait(tasks, timeout=1)
        for task in done:
            network.hosts[peers[0]].endpoints[4747].sendto(task.get_name().encode(), (random.choice(peers), 4747))
    await asyncio.sleep(10)

network = testing.MemoryNetwork(loss=0.02, duplicate=0.01, reorder=0.05)
testing.run(main, seed={seed}, network=network)
print(network.delivered, network.trace_hash)
"""


def story(hash_seed: str, seed: int = 1) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{seed}", str(seed))],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_trace_is_the_same_in_every_process_and_differs_by_seed():
    first = story("0")
    assert int(first.split()[0]) > 1000
    assert [story("1"), story("4294967295"), story("random")] == [first] * 3
    assert story("0", seed=2) != first
