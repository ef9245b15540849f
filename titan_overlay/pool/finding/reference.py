"""An object as if it were here: method calls that are messages."""

from typing import Any

from titan_overlay.errors import BadMessage
from titan_overlay.pool.hosting.object import service_type
from titan_overlay.pool.message import encode_message


class Reference:
    """Method-call sugar over `send`, and over `stream` for handlers that answer with one.

    Args:
        pool: a `Pool` or its blocking twin; what its `send` gives is given.
    """

    def __init__(self, pool: Any, type: type[Any], name: str) -> None:
        self._pool = pool
        self._type = type
        self._name = name

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):  # no handler; and whoever copies asks before there is anything in it
            raise AttributeError(method)
        handler = next((each for each in service_type(self._type).handlers.values() if each.method == method), None)
        if handler is None:
            raise AttributeError(f"{self._type.__name__} has no handler {method!r}")
        accepted = handler.type
        way = self._pool.stream if handler.streams else self._pool.send

        def call(message: Any, **options: Any) -> Any:
            if encode_message(message)[0] != accepted:
                raise BadMessage(f"{self._type.__name__}.{method} takes a {accepted}, not {message!r}")
            return way(self._name, message, **options)

        return call
