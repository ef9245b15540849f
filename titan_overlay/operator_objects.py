"""The objects that a node's operator sets up in its configuration: bound to this node, published by its user."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from titan_overlay.errors import ConfigError, Forbidden
from titan_overlay.identity import names, records
from titan_overlay.identity.grants import Right
from titan_overlay.identity.ids import NodeId, PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.records import Signed
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import Descriptor, Policy

ENTRY_POINT_GROUP = "titan_overlay.objects"


@dataclass(frozen=True, slots=True)
class OperatorObject:
    """One table of the configuration, made into an object."""

    section: str
    """Of the configuration, and its object type."""
    name: str
    instance: Any

    def __str__(self) -> str:
        return f"[[{self.section}]] {self.name}"


def load(sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[OperatorObject]:
    """The objects of the configuration, one after the other.

    Raises:
        ConfigError: no such object type is installed, or a table is wrong.
    """
    for section, tables in sections.items():
        from importlib.metadata import entry_points  # most nodes have no such objects, and need not load it

        found = entry_points(group=ENTRY_POINT_GROUP, name=section)
        if not found:
            raise ConfigError(f"[[{section}]]: no such object type is installed here")
        kind = next(iter(found)).load()
        for table in tables:
            name = table.get("name")
            if not isinstance(name, str):
                raise ConfigError(f'[[{section}]]: each needs a name, as in name = "~me/thermometer"')
            yield OperatorObject(section, name, kind.from_config(table))


def describe(
    made: OperatorObject, node: NodeId, owner: SigningKey, held: Sequence[bytes], rights: Rights, now: float
) -> Signed[Descriptor]:
    """The descriptor of an operator's object, signed by the node's user.

    Args:
        held: grants, of which one may be needed for the name. now: wall clock.

    Raises:
        ConfigError: the user may not publish that name.
    """
    full = names.one(made.name, owner.public)
    grant = rights.best(held, owner.id, Right.PUBLISH, full, now)
    try:
        rights.check_publish(owner.public, full, grant, now)
    except Forbidden as why:
        raise ConfigError(f"{made}: {why}") from None
    return bound_to(node, full, made.section, owner, rights.pool, now, grant)


def bound_to(
    node: NodeId, name: str, type: str, key: SigningKey, pool: PoolId, now: float, grant: bytes = b""
) -> Signed[Descriptor]:
    """The descriptor of a service that lives on one node and is never copied."""
    policy = Policy(min_copies=1, max_copies=1, bound=True, requires={"node": node.hex()})
    return records.sign(Descriptor(name, "service", type, int(now * 1000), now, policy, grant=grant), key, pool)
