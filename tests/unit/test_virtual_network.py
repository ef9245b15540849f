"""The memory network: hosts, faults, queues, traffic."""

import asyncio
import errno
import socket

import pytest

from titan_overlay import testing


class Inbox(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = []
        self.lost = []

    def datagram_received(self, data, addr):
        self.received.append((asyncio.get_running_loop().time(), data, addr))

    def connection_lost(self, exc):
        self.lost.append(exc)


async def endpoint(ip, port=4747):
    loop = asyncio.get_running_loop()
    with loop.network.on_host(ip):
        return await loop.create_datagram_endpoint(Inbox, local_addr=(None, port))


A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"


async def three():
    made = [await endpoint(ip) for ip in (A, B, C)]
    return asyncio.get_running_loop().network, [m[0] for m in made], [m[1] for m in made]


def on(network, main):
    return testing.run(main, network=network)


def fixed(**options):
    return testing.MemoryNetwork(latency=testing.Fixed(0.05), **options)


def test_each_host_has_its_own_ports():
    async def main():
        _network, transports, inboxes = await three()
        assert [t.get_extra_info("sockname") for t in transports] == [(A, 4747), (B, 4747), (C, 4747)]
        transports[0].sendto(b"x", (B, 4747))
        await asyncio.sleep(1)
        assert inboxes[1].received == [(0.05, b"x", (A, 4747))]
        assert inboxes[2].received == []

    on(fixed(), main)


def test_code_on_a_host_cannot_use_anothers_address_and_loopback_is_its_own():
    async def main():
        loop = asyncio.get_running_loop()
        with loop.network.on_host(A):
            with pytest.raises(OSError, match="has no address") as caught:
                await loop.create_datagram_endpoint(Inbox, local_addr=(B, 1))
            assert caught.value.errno == errno.EADDRNOTAVAIL
            transport, inbox = await loop.create_datagram_endpoint(Inbox, local_addr=("0.0.0.0", 0))
            transport.sendto(b"me", ("127.0.0.1", transport.get_extra_info("sockname")[1]))
            await asyncio.sleep(1)
            assert inbox.received[0][2][0] == A

            async def inherits():
                made, _ = await loop.create_datagram_endpoint(Inbox, local_addr=("127.0.0.1", 0))
                return made.get_extra_info("sockname")

            task = asyncio.create_task(inherits())
        first, second = transport.get_extra_info("sockname"), await task
        assert second[0] == A
        assert first[1] != second[1]

    on(fixed(), main)


def test_a_closed_port_swallows_and_can_be_bound_again():
    async def main():
        _, transports, inboxes = await three()
        transports[0].sendto(b"too late", (B, 4747))
        transports[1].close()
        _again, inbox = await endpoint(B)
        transports[1].sendto(b"from a closed port", (A, 4747))
        await asyncio.sleep(1)
        assert inboxes[1].received == []
        assert inboxes[1].lost == [None]
        assert [data for _, data, _ in inbox.received] == [b"too late"]
        assert inboxes[0].received == []

    on(fixed(), main)


def test_loss_duplication_and_reordering_happen_as_often_as_asked():
    async def main():
        _, transports, inboxes = await three()
        for number in range(4000):
            transports[0].sendto(number.to_bytes(2, "big"), (B, 4747))
            await asyncio.sleep(0.02)
        await asyncio.sleep(5)
        return [int.from_bytes(data, "big") for _, data, _ in inboxes[1].received]

    clean = on(fixed(), main)
    assert clean == list(range(4000))
    lossy = on(fixed(loss=0.1), main)
    assert 3500 < len(lossy) < 3700
    assert lossy == sorted(set(lossy))
    doubled = on(fixed(duplicate=0.1), main)
    assert 4300 < len(doubled) < 4500
    assert set(doubled) == set(range(4000))
    shuffled = on(fixed(reorder=0.1), main)
    assert shuffled != sorted(shuffled) == list(range(4000))


def test_a_partition_separates_groups_until_healed():
    async def main():
        network, transports, inboxes = await three()

        async def everyone_to_everyone():
            for inbox in inboxes:
                inbox.received.clear()
            for transport in transports:
                for ip in (A, B, C):
                    transport.sendto(b"x", (ip, 4747))
            await asyncio.sleep(1)
            return [sorted(addr[0] for _, _, addr in inbox.received) for inbox in inboxes]

        assert await everyone_to_everyone() == [[A, B, C]] * 3
        network.partition([[A], [B]])
        assert await everyone_to_everyone() == [[A], [B], [C]]
        network.partition([[A, B]])
        assert await everyone_to_everyone() == [[A, B], [A, B], [C]]
        network.heal()
        assert await everyone_to_everyone() == [[A, B, C]] * 3

    on(fixed(), main)


def test_a_filter_blocks_one_direction():
    async def main():
        network, transports, inboxes = await three()
        network.blocked = lambda source, destination: (source, destination) == (A, B)
        transports[0].sendto(b"x", (B, 4747))
        transports[1].sendto(b"y", (A, 4747))
        await asyncio.sleep(1)
        assert inboxes[1].received == []
        assert len(inboxes[0].received) == 1

    on(fixed(), main)


def test_a_delayed_host_is_late_both_ways():
    async def main():
        network, transports, inboxes = await three()
        network.delay(A, 2.0)
        transports[0].sendto(b"x", (B, 4747))
        transports[1].sendto(b"y", (A, 4747))
        transports[1].sendto(b"z", (C, 4747))
        await asyncio.sleep(5)
        return [inbox.received[0][0] for inbox in inboxes]

    assert on(fixed(), main) == pytest.approx([2.05, 2.05, 0.05])


def test_a_power_cut_is_silent_and_a_revived_host_starts_empty():
    async def main():
        network, transports, inboxes = await three()
        network.kill(B)
        transports[0].sendto(b"to the dead", (B, 4747))
        transports[1].sendto(b"from the dead", (A, 4747))
        await asyncio.sleep(1)
        assert inboxes[0].received == inboxes[1].received == inboxes[1].lost == []
        with pytest.raises(OSError, match="is down") as caught:
            await endpoint(B)
        assert caught.value.errno == errno.ENETDOWN
        network.revive(B)
        _, inbox = await endpoint(B)
        transports[0].sendto(b"to the living", (B, 4747))
        await asyncio.sleep(1)
        assert [data for _, data, _ in inbox.received] == [b"to the living"]

    on(fixed(), main)


def test_a_slow_line_spaces_datagrams_and_its_full_queue_drops_them():
    async def main():
        network, transports, inboxes = await three()
        network.host(A, upload=10_280.0, queue_bytes=50_000)
        for _number in range(100):
            transports[0].sendto(bytes(1000), (B, 4747))
        await asyncio.sleep(60)
        times = [when for when, _, _ in inboxes[1].received]
        assert times[0] == pytest.approx(0.15)
        assert times[9] - times[0] == pytest.approx(0.9)
        assert 45 <= len(times) <= 50
        network.host(C, download=5_140.0)
        for _number in range(10):
            transports[1].sendto(bytes(1000), (C, 4747))
        await asyncio.sleep(60)
        times = [when for when, _, _ in inboxes[2].received]
        assert times[9] - times[0] == pytest.approx(1.8)

    on(fixed(), main)


def test_traffic_is_counted_at_both_ends():
    async def main():
        network, transports, _ = await three()
        transports[0].sendto(bytes(100), (B, 4747))
        transports[0].sendto(bytes(50), ("10.9.9.9", 1))
        await asyncio.sleep(1)
        assert network.hosts[A].traffic == testing.Traffic(2, 0, 150, 0, 0, 0)
        assert network.hosts[B].traffic == testing.Traffic(0, 1, 0, 100, 0, 0)
        assert (network.delivered, network.dropped) == (1, 1)

    on(fixed(), main)


def test_observers_see_every_fate():
    async def main():
        network, transports, _ = await three()
        seen = []
        network.observers.append(seen.append)
        transports[0].sendto(b"x", (B, 4747))
        transports[0].sendto(b"y", (B, 1))
        transports[0].sendto(b"z", ("10.9.9.9", 1))
        network.partition([[A]])
        transports[0].sendto(b"w", (B, 4747))
        await asyncio.sleep(1)
        return [(event.fate, event.data) for event in seen]

    assert on(fixed(), main) == [
        ("send", b"x"),
        ("send", b"y"),
        ("send", b"z"),
        ("no host", b"z"),
        ("send", b"w"),
        ("blocked", b"w"),
        ("deliver", b"x"),
        ("no port", b"y"),
    ]


def test_the_trace_hash_depends_on_seed_bytes_and_nothing_else():
    def once(seed, payload):
        async def main():
            _, transports, _ = await three()
            for _ in range(50):
                transports[0].sendto(payload, (B, 4747))
                await asyncio.sleep(0.01)
            await asyncio.sleep(1)

        network = testing.MemoryNetwork(loss=0.1)
        testing.run(main, seed=seed, network=network)
        return network.trace_hash

    assert once(1, b"x") == once(1, b"x")
    assert len({once(1, b"x"), once(2, b"x"), once(1, b"y")}) == 3


def test_the_plane_gives_round_trips_like_the_internets():
    network = testing.MemoryNetwork()

    async def main():
        hosts = [network.host() for _ in range(200)]
        assert len({host.ip for host in hosts}) == 200
        trips = sorted(
            network.way(one, two) + network.way(two, one) for one in hosts[:50] for two in hosts[50:] if one is not two
        )
        here, there = hosts[:2]
        same = [network.way(here, there) for _ in range(100)]
        return trips[len(trips) // 2], trips[-1], max(same) / min(same)

    median, longest, jitter = on(network, main)
    assert 0.05 < median < 0.12
    assert 0.15 < longest < 0.6
    assert 1.0 < jitter < 2.0


def test_a_protocol_that_raises_does_not_stop_the_network():
    class Raises(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            raise LookupError(data)

    async def main():
        loop = asyncio.get_running_loop()
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
        transport, _ = await loop.create_datagram_endpoint(Raises, local_addr=(A, 1))
        for data in (b"1", b"2"):
            transport.sendto(data, (A, 1))
        await asyncio.sleep(1)
        return [error.args for error in reports]

    assert on(fixed(), main) == [(b"1",), (b"2",)]


def test_a_network_serves_one_run():
    network = testing.MemoryNetwork()
    testing.run(lambda: asyncio.sleep(0), network=network)
    with pytest.raises(RuntimeError, match="make a new one"):
        testing.run(lambda: asyncio.sleep(0), network=network)


def test_the_tasks_of_a_host_are_known_oldest_first():
    async def main():
        network = asyncio.get_running_loop().network

        async def works():
            await asyncio.gather(*(asyncio.sleep(100) for _ in range(3)))

        with network.on_host(A):
            first = asyncio.create_task(works())
        with network.on_host(B):
            other = asyncio.create_task(works())
        await asyncio.sleep(1)
        tasks = network.tasks_on(A)
        assert len(tasks) == 4
        assert tasks[0] is first
        network.kill(A)
        for task in tasks:
            task.cancel()
        await asyncio.sleep(1)
        assert network.tasks_on(A) == []
        assert not other.done()

    on(fixed(), main)


def test_an_unknown_name_is_a_gaierror():
    async def main():
        loop = asyncio.get_running_loop()
        loop.network.names["b.example"] = B
        await loop.create_server(asyncio.Protocol, "b.example", 1)
        transport, _ = await loop.create_connection(asyncio.Protocol, "b.example", 1)
        assert transport.get_extra_info("peername") == (B, 1)
        with pytest.raises(socket.gaierror):
            await loop.create_connection(asyncio.Protocol, "nobody.example", 1)

    on(fixed(), main)
