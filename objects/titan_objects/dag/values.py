"""Values that are too large to travel: they are data of the pool, and their names stand in their place."""

import asyncio
from typing import Any

import titan_overlay as titan
from titan_objects.dag import processes

DATA = "$data"


async def there(pool: titan.Pool, value: Any) -> Any:
    """The value with data of the pool in place of its names."""
    return await _fetched(pool, value) if _is_elsewhere(value) else value


def _is_elsewhere(value: Any) -> bool:
    """Whether data of the pool is named in it. Most values name none, and need not wait for anything."""
    if isinstance(value, dict):
        return value.keys() == {DATA} or any(_is_elsewhere(each) for each in value.values())
    return isinstance(value, list | tuple) and any(_is_elsewhere(each) for each in value)


async def _fetched(pool: titan.Pool, value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {DATA}:
            return processes.decoded(await pool.get(str(value[DATA])))
        return {key: await _fetched(pool, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return list(await asyncio.gather(*(_fetched(pool, each) for each in value)))
    return value
