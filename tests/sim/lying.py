"""Ways of holders to lie, for tests: each takes effect from now on, on what comes over the node's links."""

import asyncio
from collections.abc import Callable
from typing import Any

from titan_overlay.links.links import Peer
from titan_overlay.testing.pool import SimulatedNode
from titan_overlay.wire import codec
from titan_overlay.wire.messages import Send

Answer = Callable[[Send], Any]
"""What a liar answers to a message: encoded bytes, an error that is raised, `SILENCE`, or None: the truth."""

SILENCE = object()


def lie(node: SimulatedNode, answer: Answer) -> None:
    """The node answers so to whatever is sent to it."""
    shared = node.running.links.shared
    honest = shared.handler

    def handler(peer: Peer, send: Send) -> Any:
        told = answer(send)
        if told is None:
            return honest(peer, send)
        if told is SILENCE:
            return _never()
        if isinstance(told, Exception):
            raise told
        return told

    shared.handler = handler


async def _never() -> bytes:
    await asyncio.get_running_loop().create_future()
    raise AssertionError("it never answers")


def to(types: tuple[str, ...], told: Any) -> Answer:
    """Lies about messages of these types alone. A value is encoded."""
    answer = told if told is SILENCE or isinstance(told, Exception | bytes) else codec.encode(told)
    return lambda send: answer if send.type in types else None
