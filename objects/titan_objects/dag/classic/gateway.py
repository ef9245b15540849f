"""The server: connections of programs that speak the Titan orchestrator's protocol.

It runs code that is submitted to it as this user's, so it listens on loopback alone, unless a token is required: then
the first frame of each connection is AUTH. The protocol is not encrypted; beyond one machine it belongs into a tunnel.
"""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import titan_overlay as titan
from titan_objects.dag.classic.desk import Desk, Failed
from titan_objects.dag.classic.opcodes import AUTH, OPCODES
from titan_objects.dag.classic.wire import ACK, BODY_BYTES_MAX, ERROR, BadFrame, Decoder, Frame, encode
from titan_objects.doors import door, drain, is_loopback, receive

log = logging.getLogger("titan")

PORT = 9090
CONNECTIONS_MAX = 64
TOKEN_BYTES_MAX = 1024
TOKEN_LENGTH_MIN = 16


class Gateway:
    """See the module.

    Args:
        token: that clients have to show first; nothing: none is required.
    """

    def __init__(self, desk: Desk, token: str = "") -> None:
        self._desk = desk
        self._token = token.encode()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        decoder = Decoder(TOKEN_BYTES_MAX if self._token else BODY_BYTES_MAX)
        known = not self._token
        while data := await receive(reader):
            decoder.feed(data)
            while (frame := decoder.next()) is not None:
                if isinstance(frame, BadFrame):
                    writer.write(encode(ERROR, f"ERROR: {frame.why}".encode()))
                    return
                if not known:
                    known = frame.opcode == AUTH and hmac.compare_digest(frame.body, self._token)
                    if not known:
                        writer.write(
                            encode(ERROR, b"ERROR: AUTH_REQUIRED: the first frame is AUTH (0x5F), with the token")
                        )
                        return
                    decoder.body_bytes_max = BODY_BYTES_MAX
                writer.write(await self.answer(frame))
                await drain(writer)

    async def answer(self, frame: Frame) -> bytes:
        """The reply to a request, as a frame."""
        meaning = OPCODES.get(frame.opcode)
        if meaning is None:
            return encode(ERROR, f"UNKNOWN_OPCODE: {frame.opcode}".encode())
        if not meaning.answered:
            return encode(ERROR, f"ERROR: {meaning.name} is refused: {meaning.text}".encode())
        if frame.opcode == AUTH:
            return encode(ACK, b"OK")
        try:
            return encode(ACK, (await self._desk.answer(frame.opcode, frame.body.decode())).encode())
        except Failed as why:
            return encode(ERROR, str(why).encode())
        except UnicodeDecodeError:
            return encode(ERROR, b"ERROR: the body is no UTF-8")
        except (titan.TitanError, ValueError) as why:
            log.debug("a classic client: %s", why)
            return encode(ERROR, f"ERROR: {why}".encode())


@asynccontextmanager
async def gateway(
    pool: titan.Pool, queue: str, store: str = "", token: str = "", host: str = "127.0.0.1", port: int = PORT
) -> AsyncIterator[tuple[str, int]]:
    """Serves the protocol on an address until left; gives the address (port 0: any that is free).

    Raises:
        ConfigError: the address cannot be listened on, or others reach it and no token is required.
    """
    if not token and not is_loopback(host):
        raise titan.ConfigError(
            f"other machines reach {host}, and whoever reaches the gateway runs code as you: require a token "
            "(--token-file FILE; of a node: --classic-token FILE)"
        )
    full = encode(ERROR, f"ERROR: {CONNECTIONS_MAX} connections are open, and no more are taken".encode())
    made = Gateway(Desk(pool, queue, store), token)
    async with door(made.converse, "the classic gateway", host, port, most=CONNECTIONS_MAX, full=full) as bound:
        yield bound


def read_token(file: Path) -> str:
    """The token in a file. Raises ConfigError: there is none, or it is easily guessed."""
    try:
        token = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as why:
        raise titan.ConfigError(f"{file}: {getattr(why, 'strerror', None) or 'is no text'}") from None
    if not TOKEN_LENGTH_MIN <= len(token.encode()) <= TOKEN_BYTES_MAX:
        raise titan.ConfigError(f"{file}: a token has {TOKEN_LENGTH_MIN} to {TOKEN_BYTES_MAX} bytes")
    return token
