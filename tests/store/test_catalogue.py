"""What COMMAND tells of the commands that both know is what a real redis-server tells."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.store.core import TABLE, Core
from tests.store.real import RealRedis, Wire, needs_redis
from titan_objects.store.key_flags import key_flags
from titan_objects.store.resp import decode

INFO = ("arity", "flags", "first", "last", "step", "classes", "tips", "specs")


def rows(found: Any) -> dict[str, dict[str, Any]]:
    """COMMAND, by full name; what has no order is sorted, and notes are left out."""
    shown = {}
    for row in found:
        facts = dict(zip(INFO, row[1:9], strict=True))
        for name in ("flags", "classes", "tips"):
            facts[name] = sorted(facts[name])
        pairs = [dict(zip(spec[::2], spec[1::2], strict=True)) for spec in facts["specs"]]
        facts["specs"] = [
            {name: sorted(each) if name == b"flags" else each for name, each in spec.items() if name != b"notes"}
            for spec in pairs
        ]
        shown |= {row[0].decode(): facts} | rows(row[9])
    return shown


def docs(flat: Any) -> dict[str, dict[bytes, Any]]:
    """COMMAND DOCS, by full name."""
    shown = {}
    for name, pairs in zip(flat[::2], flat[1::2], strict=True):
        facts = dict(zip(pairs[::2], pairs[1::2], strict=True))
        shown |= {name.decode(): facts} | docs(facts.pop(b"subcommands", []))
    return shown


@needs_redis
def test_places_flags_and_arguments_are_those_of_redis(tmp_path: Path) -> None:
    core = Core()
    with RealRedis(tmp_path) as redis, Wire(redis.port) as wire:
        theirs, ours = rows(decode(wire.ask("COMMAND"))), rows(core("COMMAND"))
        their_docs, our_docs = docs(decode(wire.ask("COMMAND", "DOCS"))), docs(core("COMMAND DOCS"))
    both = theirs.keys() & ours.keys()
    assert len(both) > 320
    # Here others go on while keys are moved, so it waits; and nobody calls the help of PUBSUB but whoever may.
    assert {name for name in both if ours[name] != theirs[name]} == {"migrate", "pubsub|help"}
    for name in both:
        told = [
            {key for key in doc if key not in (b"history", b"complexity")} for doc in (our_docs[name], their_docs[name])
        ]
        assert told[0] == told[1], name
        for key in told[0] - {b"summary"}:
            assert our_docs[name][key] == their_docs[name][key], (name, key)
        if b"complexity" in our_docs[name]:
            assert our_docs[name][b"complexity"] in their_docs[name][b"complexity"]


@pytest.mark.parametrize("version", [2, 3])
def test_when_arguments_came_is_told(version: int) -> None:
    core = Core()
    core("HELLO", version)
    found = core("COMMAND DOCS set")
    facts = found[b"set"] if isinstance(found, dict) else docs(found)["set"]
    assert [since for since, _ in facts[b"history"]] == [b"2.6.12", b"6.0.0", b"6.2.0"]
    assert facts[b"history"][2][1] == b"Added `GET`, `EXAT`, `PXAT`."
    assert facts[b"complexity"] == b"O(1)"


def test_keys_are_found_in_any_words_whatever() -> None:
    chance = Random(1)
    some = [b"", b"k", b"-1", b"2", b"99999999999999999999", b"STREAMS", b"STORE", b"KEYS", b"\xff"]
    for command in TABLE:
        for each in (command, *command.subcommands.values()):
            for count in range(1, each.low + 6):
                args = [each.name.encode(), *chance.choices(some, k=count)]
                keys = each.keys(args)
                assert len(key_flags(each, args, len(keys))) == len(keys), (each.name, args)


def test_a_command_whose_keys_cannot_be_found_has_its_own_error() -> None:
    core = Core()
    core("ACL SETUSER ann on nopass +@all ~k")
    ann = core.connect()
    ann("AUTH ann x")
    assert str(ann("XREAD COUNT 1 k 0")) == "ERR syntax error"
