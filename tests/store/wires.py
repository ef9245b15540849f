"""Connections that a store opens, and how one ends that is cut."""

import asyncio
import socket
import struct

import pytest


def opened(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.StreamWriter]:
    """Those that will be opened from now on, the latest last."""
    writers: list[asyncio.StreamWriter] = []
    connect = asyncio.open_connection

    async def noted(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await connect(host, port)
        writers.append(writer)
        return reader, writer

    monkeypatch.setattr(asyncio, "open_connection", noted)
    return writers


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends it without a goodbye: what is under way is lost, and the other side is told so."""
    there = writer.get_extra_info("socket")
    there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
