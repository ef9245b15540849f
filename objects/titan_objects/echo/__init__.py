"""Echo: answers with what it is sent. Also the template for an object type of your own: copy this file, change it.

    titan publish echo --name my/echo
    titan send my/echo '"hello"'

What makes it an installed type is one line in pyproject.toml, under [project.entry-points."titan_overlay.objects"]:
`echo = "titan_objects.echo:Echo"`.
"""

from collections.abc import AsyncIterator

import titan_overlay as titan


class Count(titan.Message[int], namespace="echo"):
    """Asks for the numbers below `up_to`, one by one."""

    up_to: int


@titan.service(policy=titan.Policy(min_copies=2))
class Echo:
    """Takes texts and bytes; a handler is found by the type of its message."""

    @titan.idempotent
    async def text(self, message: str) -> str:
        """The same text."""
        return message

    @titan.idempotent
    async def data(self, message: bytes) -> bytes:
        """The same bytes."""
        return message

    @titan.idempotent
    async def count(self, message: Count, ctx: titan.Context) -> AsyncIterator[int]:
        """A stream of numbers."""
        ctx.log.debug("counting to %d for %s", message.up_to, ctx.sender.id.hex()[:12])
        for number in range(message.up_to):
            yield number
