"""The commands, a module for each group of Redis's documentation, and the table that they make together."""

from titan_objects.store.commands import (
    catalogue,
    connection,
    hashes,
    keys,
    lists,
    pubsub,
    scripts,
    server,
    sets,
    stream_groups,
    streams,
    strings,
    transactions,
    zset_algebra,
    zsets,
)
from titan_objects.store.table import Table

MODULES = (
    strings,
    keys,
    lists,
    sets,
    hashes,
    zsets,
    zset_algebra,
    streams,
    stream_groups,
    pubsub,
    transactions,
    scripts,
    connection,
    server,
    catalogue,
)


def all_commands() -> Table:
    """The table of everything that this store knows."""
    return Table([module.group for module in MODULES])
