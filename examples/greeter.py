"""A service of the user's own: `titan publish examples/greeter.py:Greeter --name greeter`."""

import titan_overlay as titan


@titan.service("greeter", policy=titan.Policy(min_copies=3))
class Greeter:
    """Greets."""

    @titan.idempotent
    async def greet(self, name: str) -> str:
        """`hello` to whoever is named."""
        return f"hello, {name}"
