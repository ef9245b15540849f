"""TitanStore: a store that Redis clients use as they use Redis.

    titan store serve --dir ./store
    redis-cli set greeting hello

The core (`engine.py`, `keyspace.py`, `commands/`) does no I/O; `host.py` gives it a clock and a log,
`server.py` a socket.
"""
