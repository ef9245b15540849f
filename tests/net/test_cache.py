"""The cache's gateway on real sockets, with a client that knows nothing but the wire."""

import socket
import struct
import subprocess
from pathlib import Path

from tests.net.commands import BIN, environment, titan
from tests.net.nodes import Nodes


class Client:
    """Speaks the protocol by hand."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)

    def exchange(self, sent: bytes, count: int) -> bytes:
        self.socket.sendall(sent)
        return self.receive(count)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                break
            data += more
        return data

    def close(self) -> None:
        self.socket.close()


def field(data: bytes) -> bytes:
    return struct.pack("<i", len(data)) + data


def set_command(key: bytes, value: bytes, ttl: int = 0) -> bytes:
    return b"\x01" + field(key) + field(value) + struct.pack("<i", ttl)


def get_command(key: bytes) -> bytes:
    return b"\x02" + field(key)


def test_programs_of_the_raft_cache_find_a_cache_in_the_pool(tmp_path: Path) -> None:
    with Nodes(tmp_path, 3) as nodes:
        here = {"TITAN_BOOTSTRAP": nodes.line}
        publish = ("publish", "cache", "--name", "cache/main", "--data", "node0")
        titan(*publish, home=tmp_path, **here)
        again = titan(*publish, home=tmp_path, status=1, **here)
        assert b"'cache/main' is there already" in again.stderr
        door = nodes.add("--cache", "cache/main", "--cache-listen", "127.0.0.1:0")
        nodes.by_id[door].wait_for_log("is served on")
        by_node = nodes.by_id[door].log.partition("is served on ")[2].split()[0]
        words = [BIN / "titan", "cache", "serve", "cache/main", "--listen", "127.0.0.1:0", "--data", "node0"]
        program = subprocess.Popen(
            words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment(tmp_path, **here)
        )
        try:
            assert program.stdout is not None
            first, second = Client(program.stdout.readline().split()[-1]), Client(by_node)
            many = b"".join(set_command(b"key%d" % n, b"value%d" % n) for n in range(200))
            assert first.exchange(many, 200) == b"\x01" * 200
            gets = b"".join(get_command(b"key%d" % n) for n in range(200))
            expected = b"".join(b"\x01" + field(b"value%d" % n) for n in range(200))
            assert second.exchange(gets, len(expected)) == expected
            assert second.exchange(set_command(b"key0", b"new"), 1) == b"\x01", "any gateway takes a SET"
            assert first.exchange(get_command(b"key0") + get_command(b"none"), 13) == b"\x01" + field(
                b"new"
            ) + b"\x03" + field(b"")
            join = b"\x03" + field(door.encode()) + field(nodes.address(door).encode())
            assert first.exchange(join, 1) == b"\x01"
            assert second.exchange(join, 1) == b"\x02", "a node that did not publish it names no members"
            assert first.exchange(b"\x07", 9) == b"\x02", "status 2, and the end"
            first.close()
            second.close()
        finally:
            program.kill()
            program.wait()
            if program.stdout is not None:
                program.stdout.close()
        assert titan("cache", "get", "cache/main", "key0", "--data", "node0", home=tmp_path, **here).stdout == b"new\n"
        missing = titan("cache", "get", "cache/main", "x", "--data", "node0", home=tmp_path, status=1, **here)
        assert b"has no 'x'" in missing.stderr
