"""Sockets of both families, on ::1 and 127.0.0.1."""

import asyncio
import errno
import socket
from pathlib import Path

import pytest

import titan_overlay as titan
from tests.net.commands import NodeProcess, node_fails
from tests.net.commands import titan as run_titan
from tests.net.linking import OBJECT, now, pair
from tests.net.test_overlay import POOL, key_of, until
from titan_overlay.ambient import Ambient
from titan_overlay.cli.daemon import choose_port
from titan_overlay.config import NodeConfig
from titan_overlay.errors import ConfigError, LinkError
from titan_overlay.identity.contacts import IPV4, IPV6, Contact, family, of_addresses
from titan_overlay.identity.grants import JoinLine
from titan_overlay.identity.rights import Rights
from titan_overlay.overlay import udp
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.wire import codec

pytestmark = pytest.mark.skipif(udp.here(["::"]) == [], reason="this machine has no IPv6")


async def overlay_on(number: int, *interfaces: str) -> Overlay:
    overlay = Overlay(key_of(number), Rights(POOL), Ambient.system())
    overlay.set_serving(True)
    await overlay.listen(0, *interfaces)
    overlay.set_dialable(overlay.whereabouts.families)
    return overlay


def line_to(overlay: Overlay, wanted: int) -> JoinLine:
    host, port = next(each for each in overlay.contact.addresses if family(each[0]) == wanted)
    return JoinLine(host, port, POOL, overlay.key.id)


async def test_one_port_takes_datagrams_of_both_families() -> None:
    both = await overlay_on(0, "127.0.0.1", "::1")
    four, six = await overlay_on(1, "127.0.0.1"), await overlay_on(2, "::1")
    try:
        assert len({port for _, port in both.contact.addresses}) == 1
        assert await four.bootstrap([line_to(both, IPV4)]) == 1
        assert await six.bootstrap([line_to(both, IPV6)]) == 1
        assert {contact.id for contact in both.table} == {four.key.id, six.key.id}
        assert [contact.id for contact in await six.find_nodes(four.key.id)] == [both.key.id]
        with pytest.raises(LinkError, match="no address of a family that this node has"):
            await four.call(six.contact, "ping", b"")
    finally:
        for overlay in (both, four, six):
            overlay.stop()


async def test_a_second_address_counts_once_it_has_answered() -> None:
    one, other = await overlay_on(0, "127.0.0.1", "::1"), await overlay_on(1, "127.0.0.1", "::1")
    try:
        assert await one.bootstrap([line_to(other, IPV4)]) == 1
        for here, there in ((one, other), (other, one)):
            await until(
                lambda here=here, there=there: here.table.get(there.key.id).other == ("::1", there.contact.port)
            )
            assert here.table.get(there.key.id).address == there.contact.address
    finally:
        one.stop()
        other.stop()


async def test_an_address_that_is_only_claimed_is_not_believed() -> None:
    one, liar = await overlay_on(0, "127.0.0.1", "::1"), await overlay_on(1, "127.0.0.1")
    try:
        assert await liar.bootstrap([line_to(one, IPV4)]) == 1
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as victim:
            victim.bind(("::1", 0))
            victim.setblocking(False)
            claimed = victim.getsockname()[:2]
            await liar.prove(one.contact, claimed)
            challenge = await asyncio.get_running_loop().sock_recv(victim, 2048)
            assert len(challenge) < 48, "no longer than what asked for it"
        assert one.table.get(liar.key.id).other is None
        assert one.proven(liar.key.id) == ["127.0.0.1"]
    finally:
        one.stop()
        liar.stop()


async def test_links_come_in_on_both_families_and_a_dead_address_is_no_hindrance() -> None:
    async with pair() as two:
        await two.b.listen("::1", two.b.port)

        peer = Contact(two.b.key.id, "::1", two.b.port)
        body = await two.a.request(peer, OBJECT, "str", codec.encode("hi"), deadline=now() + 10)
        assert body == codec.encode("hi")
        assert next(iter(two.b.peers())).ip == "::1"
    async with pair() as two:
        await two.b.listen("::1", two.b.port)
        peer = of_addresses(two.b.key.id, ("127.0.0.1", 1), ("::1", two.b.port))
        body = await two.a.request(peer, OBJECT, "str", codec.encode("hi"), deadline=now() + 10)
        assert body == codec.encode("hi")


def test_an_address_of_all_interfaces_leaves_the_other_family_its_port() -> None:
    config = choose_port(NodeConfig(listen=("0.0.0.0:0", "[::]:0")), named=False)
    assert config.listen == ("0.0.0.0:0", "[::]:0")

    async def both() -> None:
        for _ in range(8):  # until a port is free in both families
            overlay = Overlay(key_of(0), Rights(POOL), Ambient.system())
            try:
                await overlay.listen(0, "0.0.0.0", "::")
            except OSError:
                continue
            assert overlay.whereabouts.families == [IPV4, IPV6]
            overlay.stop()
            return
        raise AssertionError("no port was free")

    asyncio.run(both())


def test_a_machine_without_ipv6_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnlyIPv4(socket.socket):
        def bind(self, address: tuple[str, int]) -> None:
            if self.family == socket.AF_INET6:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", OnlyIPv4)
    assert choose_port(NodeConfig(listen=("0.0.0.0:0", "[::]:0")), named=False).listen == ("0.0.0.0:0",)
    with pytest.raises(ConfigError, match="Cannot assign"):
        choose_port(NodeConfig(listen=("[2001:db8::1]:0",)), named=False)


def test_a_node_serves_a_program_over_ipv6(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "a", "--listen", "[::1]:0", "--listen", "127.0.0.1:0", listen=None)
    try:
        port = node.join_line().rpartition(":")[2]
        assert f"127.0.0.1:{port} and [::1]:{port}" in node.log

        async def main() -> str:
            async with titan.connect(f"[::1]:{port}", data=tmp_path / "a") as pool:
                return await pool.put(b"over IPv6")

        name = asyncio.run(main())
        got = run_titan("get", name, "--output", "got", "--data", "a", home=tmp_path)
        assert (got.returncode, (tmp_path / "got").read_bytes()) == (0, b"over IPv6")
    finally:
        node.stop()


def test_an_address_that_is_not_this_machines_founds_no_pool(tmp_path: Path) -> None:
    status, said = node_fails("--data", str(tmp_path / "a"), "--listen", "203.0.113.7:0", home=tmp_path)
    assert status == 2 and "cannot listen on 203.0.113.7:0" in said
    assert not (tmp_path / "a" / "pool.key").exists()
    assert "founded" not in said


@pytest.mark.parametrize(
    ("listen", "says"),
    [
        (["127.0.0.1:1", "[::1]:2"], "all addresses of a node have the same port"),
        (["127.0.0.1:1", "127.0.0.2:1"], "one address of each family"),
    ],
)
def test_addresses_that_do_not_go_together_are_refused(listen: list[str], says: str, tmp_path: Path) -> None:
    flags = [word for each in listen for word in ("--listen", each)]
    status, said = node_fails("--data", str(tmp_path / "a"), *flags, home=tmp_path)
    assert (status, says in said) == (2, True), said
