"""Opening UDP sockets, on the loops that nodes run on."""

import asyncio
import errno

import pytest

from titan_overlay.overlay import udp

pytestmark = pytest.mark.loops("real", "node")


@pytest.mark.filterwarnings("ignore:unclosed resource:ResourceWarning")  # uvloop leaves it to be collected
@pytest.mark.parametrize("interface", ["127.0.0.1", "0.0.0.0", "::"])
async def test_a_port_that_is_taken_is_said_to_be(interface: str) -> None:
    """A node that chose the port by itself tries another one then."""
    if not udp.here([interface]):
        pytest.skip("this machine has no IPv6")
    first = await udp.open_udp(asyncio.DatagramProtocol, interface, 0)
    with pytest.raises(OSError, match="Address already in use") as caught:
        await udp.open_udp(asyncio.DatagramProtocol, interface, first.get_extra_info("sockname")[1])
    assert caught.value.errno == errno.EADDRINUSE
    first.close()
    await asyncio.sleep(0)
