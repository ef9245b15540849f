import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from titan_overlay.cli.notify import sd_notify


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket, and what it puts into NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        if request.param == "file":
            receiver.bind(str(tmp_path / "notify"))
            yield receiver, receiver.getsockname()
        else:
            receiver.bind("")  # Linux chooses a free abstract name
            yield receiver, "@" + receiver.getsockname()[1:].decode()


def test_the_service_manager_hears_that_the_node_is_ready(manager: tuple[socket.socket, str]):
    receiver, address = manager
    assert sd_notify("READY=1\nSTATUS=serving", {"NOTIFY_SOCKET": address})
    assert receiver.recv(4096) == b"READY=1\nSTATUS=serving"


@pytest.mark.parametrize(
    "address", [None, "", "relative", "/no/such/socket", "@no-such-name", "/a\0b", "/" + "x" * 200]
)
def test_a_node_without_a_service_manager_goes_on(address: str | None):
    assert not sd_notify("READY=1", {} if address is None else {"NOTIFY_SOCKET": address})


def test_a_service_manager_that_does_not_read_holds_nothing_up(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        assert not all(sd_notify("WATCHDOG=1", environment) for _ in range(10_000))
