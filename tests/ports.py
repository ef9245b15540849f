"""Ports for servers that a test or a benchmark starts, or starts again, by number."""

import itertools
import random
import socket

NEVER_HANDED_OUT = range(20_000, 32_768)
"""Below those that a system hands out by itself (Linux from 32768, others from 49152 by RFC 6335, section 6): of these,
any may belong to somebody's connection when the server comes to bind it."""

_tried = itertools.cycle(random.sample(NEVER_HANDED_OUT, len(NEVER_HANDED_OUT)))


def free_port() -> int:
    """One that is free on 127.0.0.1 for TCP and UDP, and that no connection takes meanwhile."""
    return next(port for port in itertools.islice(_tried, len(NEVER_HANDED_OUT)) if _is_free(port))


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
