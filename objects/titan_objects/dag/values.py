"""Values that are too large to travel: they are data of the pool, and their names stand in their place."""

import asyncio
from pathlib import Path
from typing import Any, Protocol

import msgspec

from titan_objects.dag import processes
from titan_objects.dag.messages import Results
from titan_objects.dag.references import DATA
from titan_objects.dag.steps import RESULTS, TOGETHER, together


class Data(Protocol):
    """Where code, large values and files lie: a pool, or something in its place."""

    async def get(self, name: str, /) -> bytes:
        """The data with this name."""

    async def put(self, source: bytes | Path, /) -> str:
        """Keeps data; gives its name."""

    async def read(self, name: str, message: Any, /) -> Any:
        """Asks a run for results that are too many to travel."""

    async def unpack(self, bundle: bytes, /) -> dict[str, bytes]:
        """The files of a bundle. Raises Forbidden: its code may not run here."""


async def there(data: Data, value: Any) -> Any:
    """The value with data in place of its names."""
    return await _fetched(data, value) if _is_elsewhere(value) else value


def _is_elsewhere(value: Any) -> bool:
    """Whether data of the pool is named in it. Most values name none, and need not wait for anything."""
    if isinstance(value, dict):
        return value.keys() in ({DATA}, {TOGETHER}, {RESULTS}) or any(_is_elsewhere(each) for each in value.values())
    return isinstance(value, list | tuple) and any(_is_elsewhere(each) for each in value)


async def _fetched(data: Data, value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {DATA}:
            return processes.decoded(await data.get(str(value[DATA])))
        if value.keys() == {TOGETHER}:
            return together(await _fetched(data, value[TOGETHER]))
        if value.keys() == {RESULTS}:
            return await _fetched(data, await _results(data, *_place(value[RESULTS])))
        return {key: await _fetched(data, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return list(await asyncio.gather(*(_fetched(data, each) for each in value)))
    return value


async def _results(data: Data, run: str, task: str) -> list[Any]:
    """The results of a map, asked for a piece at a time."""
    found: list[Any] = []
    while piece := await data.read(run, Results(task, len(found))):
        found += piece
    return found


def _place(value: Any) -> tuple[str, str]:
    """Name of a run, and of a task there. Raises Failed: it is none."""
    try:
        return msgspec.convert(value, tuple[str, str])
    except msgspec.ValidationError as why:
        raise processes.Failed("Garbage", f"a value that cannot be read: {why}") from None
