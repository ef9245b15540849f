"""Tell the service manager how this process is doing (sd_notify(3), Type=notify in systemd units).

The protocol is one datagram of text lines to the Unix socket named by NOTIFY_SOCKET; no library is needed.
"""

import socket
from collections.abc import Mapping
from typing import Final

_MESSAGE_BYTES_MAX: Final = 4096


def sd_notify(state: str, environment: Mapping[str, str]) -> bool:
    """Send `state`, such as "READY=1" or "STOPPING=1\\nSTATUS=handing over 3 replicas". True: it was sent.

    Without NOTIFY_SOCKET (no service manager), or when it cannot be reached, nothing happens: a node must not
    fail for want of somebody to tell. `environment` is the process's own (`os.environ`).
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract sockets have no file
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)  # a manager that does not read must not hold the node up
            sender.sendto(state.encode()[:_MESSAGE_BYTES_MAX], address)
    except (OSError, ValueError):  # ValueError: a NUL within the path
        return False
    return True
