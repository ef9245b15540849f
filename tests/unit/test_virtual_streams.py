"""Byte streams when hosts and wires fail: as TCP, they are whole or they break, in the time TCP takes."""

import asyncio
import errno

import pytest

from titan_overlay import testing

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"


class Side(asyncio.Protocol):
    def __init__(self):
        self.data = bytearray()
        self.kinds = set()
        self.eof = False
        self.lost = asyncio.get_running_loop().create_future()
        self.arrivals = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data
        self.kinds.add(type(data))
        self.arrivals.append(asyncio.get_running_loop().time())

    def eof_received(self):
        self.eof = True

    def connection_lost(self, exc):
        self.lost.set_result((exc, asyncio.get_running_loop().time()))


async def connected(**line):
    """(network, the client's side, the server's side), on hosts of their own."""
    loop = asyncio.get_running_loop()
    network, accepted = loop.network, []

    def accept():
        accepted.append(Side())
        return accepted[-1]

    with network.on_host(SERVER) as host:
        if line:
            network.host(SERVER, **line)
        await loop.create_server(accept, host.ip, 4747)
    with network.on_host(CLIENT):
        _, client = await loop.create_connection(Side, SERVER, 4747)
    await asyncio.sleep(1)
    return network, client, accepted[0]


def run(main, **options):
    return testing.run(main, network=testing.MemoryNetwork(latency=testing.Fixed(0.05), **options))


def test_bytes_stay_in_order_on_a_wire_that_jitters_and_loses():
    async def main():
        _, client, server = await connected()
        for number in range(1000):
            client.transport.write(b"%04d" % number)
            await asyncio.sleep(0.001)
        client.transport.close()
        exc, _ = await server.lost
        assert exc is None
        return server.data

    network = testing.MemoryNetwork(latency=testing.Uniform(0.01, 0.2), loss=0.05, duplicate=0.1, reorder=0.1)
    assert testing.run(main, network=network) == b"".join(b"%04d" % number for number in range(1000))
    assert network.dropped > 0


def test_connecting_takes_a_round_trip_and_says_where_to():
    async def main():
        loop = asyncio.get_running_loop()
        await loop.create_server(Side, SERVER, 4747)
        with loop.network.on_host(CLIENT):
            before = loop.time()
            transport, _ = await loop.create_connection(Side, SERVER, 4747)
        assert loop.time() - before == pytest.approx(0.1)
        assert transport.get_extra_info("peername") == (SERVER, 4747)
        assert transport.get_extra_info("sockname")[0] == CLIENT

    run(main)


@pytest.mark.parametrize(
    ("why", "number", "seconds"),
    [
        ("nobody listens", errno.ECONNREFUSED, 0.1),
        ("no such host", errno.EHOSTUNREACH, 3.0),
        ("no power", errno.ETIMEDOUT, 127.0),
        ("partition", errno.ETIMEDOUT, 127.0),
        ("process killed", errno.ECONNREFUSED, 0.1),
    ],
)
def test_a_connection_that_cannot_be_made_fails_as_on_linux(why, number, seconds):
    async def main():
        loop = asyncio.get_running_loop()
        network = loop.network
        if why != "no such host":
            network.host(SERVER)
        if why in ("no power", "partition", "process killed"):
            with network.on_host(SERVER):
                await loop.create_server(Side, SERVER, 4747)
        if why == "partition":
            network.partition([[SERVER]])
        elif why == "no power":
            network.kill(SERVER)
        elif why == "process killed":
            network.kill(SERVER, reset=True)
        before = loop.time()
        with network.on_host(CLIENT), pytest.raises(OSError, match="Connect call failed") as caught:
            await loop.create_connection(Side, SERVER, 4747)
        assert caught.value.errno == number
        assert loop.time() - before == pytest.approx(seconds)

    run(main)


def test_dialling_gets_through_when_the_partition_heals_in_time():
    async def main():
        loop = asyncio.get_running_loop()
        await loop.create_server(Side, SERVER, 4747)
        loop.network.partition([[SERVER]])
        loop.call_later(10, loop.network.heal)
        with loop.network.on_host(CLIENT):
            await loop.create_connection(Side, SERVER, 4747)
        return loop.time()

    assert run(main) == pytest.approx(15.1)  # the retransmission at 1 + 2 + 4 + 8 s


def test_a_dial_that_is_given_up_leaves_no_connection_behind():
    async def main():
        loop = asyncio.get_running_loop()
        accepted = []
        with loop.network.on_host(SERVER):
            await loop.create_server(lambda: accepted.append(Side()) or accepted[-1], SERVER, 4747)
        with loop.network.on_host(CLIENT), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.07):  # between SYN's arrival and the answer's
                await loop.create_connection(Side, SERVER, 4747)
        exc, _ = await accepted[0].lost
        assert isinstance(exc, ConnectionResetError)
        assert not loop.network.hosts[CLIENT].connections
        assert not loop.network.hosts[SERVER].connections

    run(main)


def test_abort_resets_the_peer():
    async def main():
        _, client, server = await connected()
        client.transport.abort()
        assert (await client.lost)[0] is None
        assert isinstance((await server.lost)[0], ConnectionResetError)

    run(main)


def test_a_peer_of_a_power_cut_sees_nothing_and_gives_up_after_a_quarter_of_an_hour():
    async def main():
        network, client, server = await connected()
        network.kill(SERVER)
        await asyncio.sleep(10_000)
        assert not client.lost.done()
        before = asyncio.get_running_loop().time()
        client.transport.write(b"anyone?")
        exc, when = await client.lost
        assert exc.errno == errno.ETIMEDOUT
        assert 900 < when - before < 1000
        assert not server.lost.done()
        assert server.data == b""

    run(main)


def test_a_peer_of_a_killed_process_sees_a_reset_at_once():
    async def main():
        network, client, server = await connected()
        before = asyncio.get_running_loop().time()
        network.kill(SERVER, reset=True)
        exc, when = await client.lost
        assert isinstance(exc, ConnectionResetError)
        assert when - before == pytest.approx(0.05)
        assert not server.lost.done()

    run(main)


def test_a_revived_host_resets_connections_it_does_not_know():
    async def main():
        network, client, _ = await connected()
        network.kill(SERVER)
        client.transport.write(b"into the dark")
        await asyncio.sleep(20)
        assert not client.lost.done()
        network.revive(SERVER)
        exc, _ = await client.lost
        assert isinstance(exc, ConnectionResetError)

    run(main)


def test_a_partition_stalls_a_stream_and_healing_delivers_everything_once():
    async def main():
        network, client, server = await connected()
        client.transport.write(b"before ")
        await asyncio.sleep(1)
        network.partition([[CLIENT]])
        client.transport.write(b"during ")
        server.transport.write(b"answer")
        await asyncio.sleep(60)
        assert (server.data, client.data) == (b"before ", b"")
        network.heal()
        await asyncio.sleep(120)
        client.transport.write(b"after")
        await asyncio.sleep(1)
        assert (server.data, client.data) == (b"before during after", b"answer")

    run(main)


def test_close_during_a_partition_delivers_what_was_written_first():
    async def main():
        network, client, server = await connected()
        network.partition([[CLIENT]])
        client.transport.write(b"last words")
        client.transport.close()
        await asyncio.sleep(5)
        assert not client.lost.done()
        network.heal()
        assert (await client.lost)[0] is None
        assert (await server.lost)[0] is None
        assert server.data == b"last words"

    run(main)


def test_a_reset_breaks_both_ends():
    async def main():
        network, client, server = await connected()
        network.reset(CLIENT)
        assert isinstance((await client.lost)[0], ConnectionResetError)
        assert isinstance((await server.lost)[0], ConnectionResetError)

    run(main)


def test_writing_to_a_closed_peer_is_a_reset():
    async def main():
        class KeepsOpen(Side):
            def eof_received(self):
                return True

        loop = asyncio.get_running_loop()
        accepted = []
        with loop.network.on_host(SERVER):
            await loop.create_server(lambda: accepted.append(Side()) or accepted[-1], SERVER, 4747)
        with loop.network.on_host(CLIENT):
            _, client = await loop.create_connection(KeepsOpen, SERVER, 4747)
        accepted[0].transport.close()
        await asyncio.sleep(1)
        client.transport.write(b"still there?")
        assert isinstance((await client.lost)[0], ConnectionResetError)

    run(main)


def test_a_stream_takes_the_time_its_line_needs_and_leaves_room_for_datagrams():
    async def main():
        network, client, server = await connected(download=100_000.0)
        network.host(CLIENT, upload=200_000.0)
        loop = asyncio.get_running_loop()
        before = loop.time()
        client.transport.write(bytes(1_000_000))

        class Inbox(asyncio.DatagramProtocol):
            received = 0

            def datagram_received(self, data, addr):
                Inbox.received += 1

        with network.on_host(SERVER):
            await loop.create_datagram_endpoint(Inbox, local_addr=(SERVER, 1))
        with network.on_host(CLIENT):
            transport, _ = await loop.create_datagram_endpoint(Inbox, local_addr=(CLIENT, 1))
        for _ in range(10):
            transport.sendto(b"x", (SERVER, 1))
            await asyncio.sleep(0.1)
        client.transport.close()
        _, when = await server.lost
        assert len(server.data) == 1_000_000
        assert when - before == pytest.approx(10.3 + 0.1, abs=0.3)
        assert Inbox.received >= 5

    run(main)


def test_a_protocol_that_raises_loses_its_connection_only():
    class Raises(Side):
        def data_received(self, data):
            raise LookupError

    async def main():
        loop = asyncio.get_running_loop()
        reports = []
        loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
        server = await loop.create_server(Raises, SERVER, 4747)
        with loop.network.on_host(CLIENT):
            _, client = await loop.create_connection(Side, SERVER, 4747)
        client.transport.write(b"x")
        assert isinstance((await client.lost)[0], ConnectionResetError)
        assert [type(error) for error in reports] == [LookupError]
        assert server.is_serving()

    run(main)


def test_tls_and_ready_made_sockets_are_refused():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match="no TLS"):
            await loop.create_connection(Side, SERVER, 1, ssl=True)
        with pytest.raises(ValueError, match="no socket"):
            await loop.create_server(Side, sock=object())
        server = await loop.create_server(Side, SERVER, 1, ssl=None)
        server.close()

    run(main)


def test_what_the_server_says_first_reaches_the_dialling_program():
    class Greets(Side):
        def connection_made(self, transport):
            transport.write(b"welcome")

    async def main():
        loop = asyncio.get_running_loop()
        await loop.create_server(Greets, SERVER, 4747)
        with loop.network.on_host(CLIENT):
            _, client = await loop.create_connection(Side, SERVER, 4747)
        await asyncio.sleep(1)
        return client.data

    assert run(main) == b"welcome"


@pytest.mark.parametrize("cut", [False, True])
def test_closing_with_unread_bytes_resets_a_writer_that_waits_for_room(cut):
    async def main():
        network, client, server = await connected()
        server.transport.pause_reading()
        client.transport.write(bytes(1 << 20))
        await asyncio.sleep(1)
        assert client.transport.get_write_buffer_size() > 0
        if cut:
            network.partition([[CLIENT]])
        server.transport.close()
        await asyncio.sleep(5)
        assert client.lost.done() is not cut
        network.heal()
        assert isinstance((await client.lost)[0], ConnectionResetError)
        await server.lost
        assert not network.hosts[CLIENT].connections
        assert not network.hosts[SERVER].connections

    run(main)


def test_a_long_write_arrives_whole():
    async def main():
        _, client, server = await connected(upload=1e9)
        sent = bytes(range(256)) * 40_000
        client.transport.write(sent)
        client.transport.close()
        await server.lost
        assert server.kinds == {bytes}
        return server.data == sent

    assert run(main)


def test_a_dial_cancelled_at_the_instant_of_the_answer_leaves_no_connection_behind():
    async def main():
        loop = asyncio.get_running_loop()
        with loop.network.on_host(SERVER):
            await loop.create_server(Side, SERVER, 4747)
        with loop.network.on_host(CLIENT):
            dial = asyncio.create_task(loop.create_connection(Side, SERVER, 4747))
        await asyncio.sleep(0.07)
        assert loop.network.hosts[CLIENT].connections
        loop.call_at(0.1, dial.cancel)  # in the round in which the answer arrives, after it
        await asyncio.wait((dial,))
        assert dial.cancelled()
        await asyncio.sleep(1)
        assert not loop.network.hosts[CLIENT].connections
        assert not loop.network.hosts[SERVER].connections

    run(main)
