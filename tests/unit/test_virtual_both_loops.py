"""The same programs on the real and on the virtual loop: what asyncio promises holds on both."""

import asyncio
import errno
import socket

import pytest

pytestmark = pytest.mark.loops("real", "virtual")


async def _listen(handler):
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def test_an_echo_comes_back_whole_under_back_pressure():
    async def echo(reader, writer):
        while data := await reader.read(50_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    server, port = await _listen(echo)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = bytes(range(256)) * 8192
    reading = asyncio.create_task(reader.read(-1))
    for start in range(0, len(sent), 100_000):
        writer.write(sent[start : start + 100_000])
        await writer.drain()
    writer.write_eof()
    assert await reading == sent
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_a_writer_is_paused_until_the_reader_reads():
    paused = asyncio.get_running_loop().create_future()
    resumed = asyncio.get_running_loop().create_future()
    accepted = asyncio.get_running_loop().create_future()

    class Reader(asyncio.Protocol):
        def connection_made(self, transport):
            transport.pause_reading()
            accepted.set_result(transport)

    class Writer(asyncio.Protocol):
        def pause_writing(self):
            if not paused.done():
                paused.set_result(None)

        def resume_writing(self):
            if not resumed.done():
                resumed.set_result(None)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Reader, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(Writer, "127.0.0.1", port)
    while not paused.done():
        transport.write(bytes(1 << 20))
    assert transport.get_write_buffer_size() > 0
    assert not resumed.done()
    receiver = await accepted
    receiver.resume_reading()
    await asyncio.wait_for(resumed, 30)
    transport.abort()
    receiver.abort()
    server.close()


async def test_end_of_file_leaves_the_other_direction_open():
    async def answer_after_eof(reader, writer):
        writer.write(b"got " + await reader.read(-1))
        writer.close()

    server, port = await _listen(answer_after_eof)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"all")
    writer.write_eof()
    assert await reader.read(-1) == b"got all"
    with pytest.raises(RuntimeError):
        writer.write(b"more")
    writer.close()
    server.close()


async def test_connection_lost_is_called_once_on_both_sides():
    lost = []
    both = asyncio.Event()

    class Side(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def connection_lost(self, exc):
            lost.append(exc)
            if len(lost) == 2:
                both.set()

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Side, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await loop.create_connection(Side, "127.0.0.1", port)
    transport.write(b"bye")
    transport.close()
    transport.close()
    assert transport.is_closing()
    await asyncio.wait_for(both.wait(), 10)
    assert lost == [None, None]
    server.close()


async def test_a_buffered_protocol_gets_every_byte():
    received = bytearray()
    done = asyncio.get_running_loop().create_future()

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self):
            self.buffer = bytearray(10)

        def get_buffer(self, sizehint):
            return self.buffer

        def buffer_updated(self, count):
            received.extend(self.buffer[:count])

        def eof_received(self):
            done.set_result(None)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Buffered, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    writer.write(b"0123456789" * 100 + b"end")
    writer.close()
    await asyncio.wait_for(done, 10)
    assert received == b"0123456789" * 100 + b"end"
    server.close()


async def test_nobody_listening_is_connection_refused():
    server, port = await _listen(lambda reader, writer: None)
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectionRefusedError) as caught:
        await asyncio.open_connection("127.0.0.1", port)
    assert caught.value.errno == errno.ECONNREFUSED


async def test_a_port_in_use_is_eaddrinuse():
    loop = asyncio.get_running_loop()
    server, port = await _listen(lambda reader, writer: None)
    with pytest.raises(OSError, match="in use") as caught:
        await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", port)
    assert caught.value.errno == errno.EADDRINUSE
    server.close()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    taken = transport.get_extra_info("sockname")
    with pytest.raises(OSError, match="in use") as caught:
        await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=taken)
    assert caught.value.errno == errno.EADDRINUSE
    transport.close()


class _Inbox(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = asyncio.Queue()
        self.lost = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, addr):
        self.received.put_nowait((data, addr))

    def error_received(self, exc):
        self.received.put_nowait((exc, None))

    def connection_lost(self, exc):
        self.lost.set_result(exc)


async def test_datagrams_reach_the_port_they_are_sent_to_with_their_source():
    loop = asyncio.get_running_loop()
    one, inbox_one = await loop.create_datagram_endpoint(_Inbox, local_addr=("127.0.0.1", 0))
    two, inbox_two = await loop.create_datagram_endpoint(_Inbox, local_addr=("127.0.0.1", 0))
    one.sendto(bytearray(b"hello"), two.get_extra_info("sockname"))
    data, source = await asyncio.wait_for(inbox_two.received.get(), 10)
    assert (data, source) == (b"hello", one.get_extra_info("sockname"))
    connected, inbox = await loop.create_datagram_endpoint(_Inbox, remote_addr=one.get_extra_info("sockname"))
    connected.sendto(b"no address needed")
    assert (await asyncio.wait_for(inbox_one.received.get(), 10))[0] == b"no address needed"
    assert connected.get_extra_info("socket").family == socket.AF_INET
    one.close()
    assert await inbox_one.lost is None
    connected.sendto(b"to nobody")
    error, _ = await asyncio.wait_for(inbox.received.get(), 10)
    assert isinstance(error, ConnectionRefusedError)
    connected.close()
    two.close()


async def test_a_datagram_that_is_too_large_is_an_error_not_a_crash():
    loop = asyncio.get_running_loop()
    transport, inbox = await loop.create_datagram_endpoint(_Inbox, local_addr=("127.0.0.1", 0))
    transport.sendto(bytes(70_000), ("127.0.0.1", 9))
    error, _ = await asyncio.wait_for(inbox.received.get(), 10)
    assert error.errno == errno.EMSGSIZE
    transport.close()


async def test_sleeping_and_timeouts_keep_their_order():
    order = []

    async def sleeper(seconds):
        await asyncio.sleep(seconds)
        order.append(seconds)

    async with asyncio.TaskGroup() as group:
        for seconds in (0.03, 0.01, 0.02):
            group.create_task(sleeper(seconds))
    assert order == [0.01, 0.02, 0.03]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.get_running_loop().create_future()
