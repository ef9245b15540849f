"""A client of etcd that costs as little as Python can: gRPC over HTTP/2 over TLS, written by hand for two calls.

`grpc.aio` spends more than 300 microseconds of CPU on a call, and on a machine of two cores takes them from the servers
that are to be measured. This one sends what etcd needs to hear (RFC 9113, RFC 7541 without compression) and no more; an
answer counts only where it brought a message, which etcd sends in the case of success alone.
"""

import asyncio
import ssl
import struct
import subprocess
from pathlib import Path

from benchmarks.echoes import Certificate

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_HEADERS, END_STREAM, ACK = 4, 1, 1
WINDOW_BYTES = 1 << 30


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field, neither indexed nor compressed (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


def _call_headers(path: bytes) -> bytes:
    # 0x83 and 0x87 are `:method POST` and `:scheme https` of the static table.
    fields = (
        (b":path", path),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
    return b"\x83\x87" + b"".join(_literal(*each) for each in fields)


PUT = _call_headers(b"/etcdserverpb.KV/Put")
RANGE = _call_headers(b"/etcdserverpb.KV/Range")


def _field(number: int, data: bytes) -> bytes:
    """A protobuf field of less than 128 bytes."""
    assert len(data) < 128
    return bytes((number << 3 | 2, len(data))) + data


class EtcdClient(asyncio.Protocol):
    """One connection; one call at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._stream = -1
        self._answer: asyncio.Future[bytes] | None = None
        self._message = b""
        self._transport: asyncio.Transport

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext) -> "EtcdClient":
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(cls, "127.0.0.1", port, ssl=context, server_hostname="localhost")
        return client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        settings = struct.pack(">HI", 4, WINDOW_BYTES)  # SETTINGS_INITIAL_WINDOW_SIZE
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0, settings)
            + _frame(WINDOW, 0, 0, struct.pack(">I", WINDOW_BYTES))
        )

    async def put(self, key: bytes, value: bytes) -> None:
        await self._call(PUT, _field(1, key) + _field(2, value))

    async def get(self, key: bytes) -> bytes:
        """The whole answer; it contains the value."""
        return await self._call(RANGE, _field(1, key))

    async def _call(self, headers: bytes, message: bytes) -> bytes:
        self._stream += 2
        self._message = b""
        self._answer = asyncio.get_running_loop().create_future()
        body = b"\x00" + struct.pack(">I", len(message)) + message
        self._transport.write(
            _frame(HEADERS, END_HEADERS, self._stream, headers) + _frame(DATA, END_STREAM, self._stream, body)
        )
        return await self._answer

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        at = 0
        while len(data) - at >= 9:
            size = int.from_bytes(data[at : at + 3], "big")
            if len(data) - at < 9 + size:
                break
            kind, flags, stream = struct.unpack_from(">BBI", data, at + 3)
            self._take(kind, flags, stream, data[at + 9 : at + 9 + size])
            at += 9 + size
        self._buffer = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._transport.write(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._transport.write(_frame(PING, ACK, 0, payload))
        elif kind == DATA and stream == self._stream:
            self._message += payload
        elif kind == GOAWAY:
            self._transport.close()
        if (kind in (DATA, HEADERS) and flags & END_STREAM) or kind == RESET:
            self._end()

    def _end(self) -> None:
        if self._answer is not None and not self._answer.done():
            if self._message:
                self._answer.set_result(self._message)
            else:
                self._answer.set_exception(RuntimeError("etcd has answered with an error"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("etcd has closed the connection"))


def start(directory: Path, certificate: Certificate, ports: list[tuple[int, int]]) -> list[subprocess.Popen[str]]:
    """Three members on loopback, TLS between them and for clients; fsync is etcd's default.

    Args:
        ports: for clients and for peers, of each member.
    """
    names = [f"m{number}" for number in range(len(ports))]
    cluster = ",".join(f"{name}=https://localhost:{peer}" for name, (_, peer) in zip(names, ports, strict=True))
    files = (certificate.chain, certificate.key)
    processes = []
    for name, (client, peer) in zip(names, ports, strict=True):
        words = ["etcd", "--name", name, "--data-dir", str(directory / name), "--log-level", "error"]
        words += ["--listen-client-urls", f"https://127.0.0.1:{client}"]
        words += ["--advertise-client-urls", f"https://localhost:{client}"]
        words += ["--listen-peer-urls", f"https://127.0.0.1:{peer}"]
        words += ["--initial-advertise-peer-urls", f"https://localhost:{peer}"]
        words += ["--initial-cluster", cluster, "--cert-file", str(files[0]), "--key-file", str(files[1])]
        words += ["--peer-cert-file", str(files[0]), "--peer-key-file", str(files[1])]
        words += ["--peer-trusted-ca-file", str(files[0])]
        log = (directory / f"{name}.log").open("w")
        processes.append(subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, text=True))
        log.close()
    return processes
