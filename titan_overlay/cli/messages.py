"""`titan send`: a message to a name, from the shell."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titan_overlay.cli import output
from titan_overlay.cli.face import Face, command

if TYPE_CHECKING:
    from titan_overlay.client import Answer, Pool

_JSON_TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "list": list, "dict": dict}
BUILTINS = ("str", "bytes", *_JSON_TYPES)


def register(app: typer.Typer) -> None:
    """Adds the command to `titan`."""
    command(app)(send)


async def send(
    face: Face,
    name: Annotated[str, typer.Argument(help="Name of the object.")],
    text: Annotated[str | None, typer.Argument(help='The message; "-" reads it from standard input.')] = None,
    type: Annotated[
        str | None,
        typer.Option("--type", "-t", help="Type of the message: str (default), int, ..., or one of the object's own."),
    ] = None,
    message: Annotated[
        str | None, typer.Option("--json-message", "-m", metavar="JSON", help="A typed message as JSON.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print each reply of a stream as it comes.")] = False,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds to wait for the answer.")] = 10.0,
) -> None:
    """Send a message to a name and print the reply.

    A text is printed as text, bytes as they are, anything else as JSON. `titan describe NAME` shows the types that an
    object takes. Of a service that is voted on, --json prints the value together with how many holders agreed.
    """
    async with face.pool() as pool:
        type_name, body = await _encoded(pool, name, type, text, message, timeout)
        if stream:
            async for item in pool.stream_raw(name, type_name, body, timeout=timeout):
                _print_reply(face, item)
                sys.stdout.flush()
        else:
            _print_answer(face, await pool.ask_raw(name, type_name, body, timeout=timeout))


def _print_answer(face: Face, answer: "Answer[bytes]") -> None:
    """The reply; of what was voted on also how many agreed."""
    from titan_overlay.wire import codec

    if answer.needed == 1:
        _print_reply(face, answer.value)
    elif face.json:
        figures = ("asked", "answered", "agreed", "needed")
        value: Any = codec.decode(answer.value, Any)
        output.print_json({"value": value, **{name: getattr(answer, name) for name in figures}})
    else:
        _print_reply(face, answer.value)
        face.note(f"{answer.agreed} of {answer.answered} holders that answered agree")


def _print_reply(face: Face, body: bytes) -> None:
    from titan_overlay.wire import codec

    value: Any = codec.decode(body, Any)
    if face.json:
        output.print_json(value)
    else:
        output.print_value(value)


async def _encoded(
    pool: "Pool", name: str, type: str | None, text: str | None, message: str | None, timeout: float
) -> tuple[str, bytes]:
    """Type name and body of what the options say."""
    from titan_overlay.errors import ConfigError
    from titan_overlay.wire import codec

    if text is not None and message is not None:
        raise ConfigError("give the message as TEXT or as --json-message, not both")
    kind = type or "str"
    if kind in BUILTINS and message is None:
        return kind, codec.encode(_builtin(kind, _text(text)))
    if type is None:
        raise ConfigError("--json-message needs --type; see the types of an object with: titan describe NAME")
    return type, await _from_json(pool, name, type, message or text or "{}", timeout)


def _text(text: str | None) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    return (text or "").encode("utf-8", "surrogateescape")


def _builtin(kind: str, data: bytes) -> Any:
    """The value of a builtin type that a text stands for.

    Raises:
        ConfigError: it stands for none.
    """
    import msgspec

    from titan_overlay.errors import ConfigError
    from titan_overlay.wire import codec

    if kind == "bytes":
        return data
    try:
        if kind == "str":
            return data.decode()
        value = msgspec.json.decode(data or b"null", type=_JSON_TYPES[kind])
        codec.encode(value)  # JSON has larger numbers than a message
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        raise ConfigError(f"{data.decode(errors='replace')[:40]!r} is no {kind}") from None
    return value


async def _from_json(pool: "Pool", name: str, type: str, text: str, timeout: float) -> bytes:
    """A typed message out of JSON; the object's own schema says which of its texts are base64 of bytes."""
    from titan_overlay.errors import RemotableError
    from titan_overlay.pool.message import body_from_json
    from titan_overlay.pool.questions import Schema

    schema = None
    if type not in BUILTINS and '"' in text.replace("{}", ""):
        try:
            known = (await pool.send(name, Schema(), timeout=timeout)).get(type)
            schema = known.message if known is not None else None
        except RemotableError:
            schema = None  # the message itself will meet the same trouble, and say so
    return body_from_json(text, schema)
