"""The commands, a module for each group of Redis's documentation, and the table that they make together."""

from titan_objects.store.commands import (
    bitmaps,
    catalogue,
    connection,
    dumps,
    expiry,
    functions,
    geo,
    hash_expiry,
    hashes,
    hyperloglogs,
    keys,
    latency,
    lists,
    migrate,
    pubsub,
    replication,
    scans,
    scripts,
    server,
    sets,
    sorting,
    stream_groups,
    stream_info,
    streams,
    strings,
    tracking,
    transactions,
    users,
    zset_algebra,
    zsets,
)
from titan_objects.store.table import Table, helpers

MODULES = (
    strings,
    bitmaps,
    keys,
    expiry,
    scans,
    sorting,
    dumps,
    migrate,
    lists,
    sets,
    hashes,
    hash_expiry,
    zsets,
    zset_algebra,
    geo,
    hyperloglogs,
    streams,
    stream_groups,
    stream_info,
    pubsub,
    transactions,
    scripts,
    functions,
    connection,
    tracking,
    server,
    latency,
    replication,
    users,
    catalogue,
)


def all_commands() -> Table:
    """The table of everything that this store knows."""
    groups = [module.group for module in MODULES]
    return Table([*groups, helpers(groups)])
