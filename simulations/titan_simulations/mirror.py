"""A service that can be voted on: published as a signed bundle of this one file."""

import titan_overlay as titan


@titan.service("simulated/*")
@titan.idempotent
class Mirror:
    """Answers with what it is sent."""

    async def data(self, message: bytes) -> bytes:
        """The same bytes."""
        return message
