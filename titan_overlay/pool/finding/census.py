"""Counting the nodes of a pool: walk the routing tables, ask every node who it is."""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from titan_overlay.errors import BadMessage, LinkError, RemotableError
from titan_overlay.identity import names
from titan_overlay.identity.contacts import Contact, format_address, is_dialable, of_addresses
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.subnets import nameable
from titan_overlay.links.links import Links
from titan_overlay.overlay.overlay import Overlay
from titan_overlay.pool.finding.router import Router
from titan_overlay.pool.orders import Census, Neighbours, NodeInfo
from titan_overlay.values import parse_address
from titan_overlay.wire import codec

CONCURRENCY = 32
NODES_MAX = 20_000
ASK_SECONDS = 3.0

_CONDITION = re.compile(r"\s*([\w.-]+)\s*(>=|<=|!=|=|>|<)\s*(.+?)\s*")
_UNITS = {"": 1, "k": 1e3, "kib": 2**10, "m": 1e6, "mib": 2**20, "g": 1e9, "gib": 2**30, "t": 1e12, "tib": 2**40}
_MEASURED = {"memory", "free", *(each.name for each in msgspec.structs.fields(NodeInfo) if each.type in (int, float))}
FACTS = frozenset({"memory", "free", *NodeInfo.__struct_fields__})
"""What a condition finds in a node's description; a label of such a name is not asked for."""
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def condition(text: str) -> Callable[[NodeInfo], bool]:
    """`cores>=4`, `memory>=8GiB`, `region=eu` as a test of a node: of what it measured, else of its label of that name.

    Raises:
        BadMessage: not a condition.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise BadMessage(f"cannot read {text!r}; a condition looks like cores>=4 or region=eu")
    key, operator, value = match.groups()
    compare, wanted = _COMPARE[operator], _number(value)
    if wanted is None and key in _MEASURED:
        raise BadMessage(f"{key} is a number, and {value!r} is none; a condition looks like cores>=4 or region=eu")

    def holds(info: NodeInfo) -> bool:
        figures = {
            **msgspec.structs.asdict(info),
            "memory": info.memory_bytes,
            "free": info.max_bytes - info.used_bytes,
        }
        fact: Any = figures.get(key, info.labels.get(key))
        if fact is None:
            return False
        there = _number(str(fact))
        if there is None:
            return isinstance(fact, str) and compare(fact, value)
        return wanted is not None and compare(there[0], wanted[0])

    return holds


def _number(text: str) -> tuple[float] | None:
    match = re.fullmatch(r"([0-9.]+)\s*([a-z]*)", text.lower())
    if match is None or (match.group(2).removesuffix("b") not in _UNITS and match.group(2) not in _UNITS):
        return None
    unit = match.group(2) if match.group(2) in _UNITS else match.group(2).removesuffix("b")
    try:
        return (float(match.group(1)) * _UNITS[unit],)
    except ValueError:
        return None


async def ask(router: Router, name: str, timeout: float) -> NodeInfo:
    """What the node with this name (`node:<id>`) says of itself."""
    deadline = asyncio.get_running_loop().time() + timeout
    body = await router.call(name, "titan.Census", codec.encode(Census()), deadline=deadline)
    info = codec.decode(body, NodeInfo)
    if names.node_name(NodeId(router.object_id(name))) != f"node:{info.id}":
        raise BadMessage(f"{name} answers as another node")
    return info


async def take(overlay: Overlay, links: Links, where: Sequence[str], timeout: float) -> list[NodeInfo]:
    """Every node that answers within `timeout` and meets all conditions, ordered by id."""
    tests = [condition(text) for text in where]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    waiting = deque(await overlay.find_nodes(overlay.contact.id, 20))
    seen: set[NodeId] = {each.id for each in waiting}
    infos: list[NodeInfo] = []

    async def visit(contact: Contact) -> None:
        until = min(deadline, loop.time() + ASK_SECONDS)
        try:
            body = await links.request(contact, contact.id, "titan.Census", codec.encode(Census()), deadline=until)
            info = codec.decode(body, NodeInfo)
            if info.id != contact.id.hex():
                return  # it speaks for another, over a link of its own
            infos.append(info)
            near = await links.request(
                contact, contact.id, "titan.Neighbours", codec.encode(Neighbours()), deadline=until
            )
            for text in codec.decode(near, list[str]):
                found = _named(text, contact)
                if found is not None and found.id not in seen and len(seen) < NODES_MAX:
                    seen.add(found.id)
                    waiting.append(found)
        except (LinkError, RemotableError):
            return  # a node that does not answer is not counted

    while waiting and loop.time() < deadline:
        wave = [waiting.popleft() for _ in range(min(CONCURRENCY, len(waiting)))]
        await asyncio.gather(*(visit(each) for each in wave))
    return sorted((each for each in infos if all(test(each) for test in tests)), key=lambda each: each.id)


def _named(text: str, by: Contact) -> Contact | None:
    """Whom a node names, as far as it may send others there."""
    found = parse_contact(text)
    addresses = [] if found is None else nameable(by.ip, found.addresses)
    return of_addresses(found.id, *addresses) if found is not None and addresses else None


def format_contact(contact: Contact) -> str:
    """`id@ip:port`, with an address of each family `id@ip:port@[ip]:port`."""
    return "@".join((contact.id.hex(), *map(format_address, contact.addresses)))


def parse_contact(text: str) -> Contact | None:
    """What `format_contact` wrote, or None: a peer may send anything."""
    node, *written = text.split("@")
    try:
        addresses = [parse_address(each, 0) for each in written]
        if len(node) != 64 or not addresses or not all(is_dialable(*each) for each in addresses):
            return None
        return of_addresses(NodeId(bytes.fromhex(node)), *addresses)
    except (ValueError, OSError):
        return None
