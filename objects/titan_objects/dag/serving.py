"""Services: commands that go on. They are up once their port answers, and what needs them may begin."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from titan_objects.dag.processes import Failed

HERE = "127.0.0.1"
LOOK_SECONDS = 0.1
"""Between two looks at the port."""
ANSWER_SECONDS = 1.0


async def serve(command: Coroutine[Any, Any, int], port: int, patience: float, up: Callable[[Any], None]) -> None:
    """Runs a command to its end, however long that is, and says where it is once its port answers.

    Args:
        patience: seconds until then.
        up: is called with `{"host": ..., "port": ...}`.

    Raises:
        Failed: the port is taken or does not answer, or the command ended badly.
    """
    if await _answers(port):
        command.close()
        raise Failed("PortTaken", f"something else answers at port {port} of {os.uname().nodename}")
    running = asyncio.create_task(command)
    try:
        async with asyncio.timeout(patience):
            while not running.done() and not await _answers(port):
                await asyncio.wait({running}, timeout=LOOK_SECONDS)
        if not running.done():
            up({"host": os.uname().nodename, "port": port})
        await running
    except TimeoutError:
        raise Failed("NotUp", f"port {port} did not answer within {patience:g} s") from None
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _answers(port: int) -> bool:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(HERE, port)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True
    return False
