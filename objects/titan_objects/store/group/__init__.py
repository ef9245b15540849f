"""The store as a group keeps it: a mutable object of the pool, and doors to it that any node can open.

    titan store create store/main --faults 1
    titan-node --redis 6379 --store store/main

`replicated.py` is the object. Its members run the same engine as a store on one node, over batches of commands that
stand in the group's log; no append-only file is written beside it. `door.py` is what a Redis client talks to: it keeps
what belongs to a connection, and has everything else ordered, or read.
"""
