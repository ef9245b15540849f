"""Publishing by kind: a service or data is offered; a mutable object is founded, or upgraded if it is there already."""

import functools
from typing import Any

from titan_overlay.errors import BadMessage, Gone, NotFound
from titan_overlay.identity import names
from titan_overlay.identity.statements import Policy
from titan_overlay.member import Member
from titan_overlay.patience import within
from titan_overlay.pool.finding.any_holder import Request
from titan_overlay.pool.hosting.bundles import Source
from titan_overlay.pool.hosting.data import ContentSource, DataRunner
from titan_overlay.pool.keeping.publisher import Publisher, Receipt
from titan_overlay.reading import Progress


def policy_of(given: Policy | None, own: Policy) -> Policy:
    """What was given, or else the object's own. BadMessage: that is no policy."""
    if given is not None and not isinstance(given, Policy):
        raise BadMessage(f"a policy is a titan.Policy(...), not of type {type(given).__name__!r}")
    return given or own


async def publish(
    member: Member, publisher: Publisher, source: Any, name: str, policy: Policy | None, timeout: float
) -> Receipt:
    """Publishes a class under a name. Arguments and errors are those of `Pool.publish`."""
    packed = Source.of(source, member.user, member.overlay.pool)
    packed.check_name(name)
    policy = policy_of(policy, packed.policy)
    packed.check_policy(policy)
    describe = functools.partial(
        publisher.describe,
        name,
        packed.kind,
        type=packed.type,
        bundle=packed.digest,
        idempotent=packed.idempotent,
    )
    async with within(timeout, f"publishing {name!r}") as deadline:
        if packed.kind != "mutable":
            return await publisher.publish(*describe(policy), packed.runner())
        there = await _upgraded(member, name, packed, policy, deadline)
        if there is not None:
            return there
        from titan_overlay.mutable import founding  # few programs found groups

        founders = founding.Founders(member.overlay, member.links, member.ambient)
        return await founding.found(
            founders,
            publisher,
            describe,
            policy,
            member.router.object_id(name),
            packed.runner(),
        )


async def _upgraded(member: Member, name: str, packed: Source, policy: Policy, deadline: float) -> Receipt | None:
    """Where a mutable object with that name is there already, its class is replaced; None: there is none."""
    object_id = member.router.object_id(name)
    try:
        place = await member.router.places.find(object_id, name=name, deadline=deadline, fresh=True)
    except (NotFound, Gone):
        return None
    from titan_overlay.mutable.upgrading import upgrade

    once = f"upgrade/{member.ambient.token_bytes(8).hex()}"
    message = Request(object_id, "", b"", deadline, (), once=once)
    health = await upgrade(member.groups_caller, place, message, packed, policy)
    value = place.descriptor.value
    return Receipt(value.name, value.version, tuple(each.node for each in health.members), 0, "")


async def put(
    publisher: Publisher,
    source: ContentSource,
    policy: Policy,
    progress: Progress | None,
    timeout: float | None,
    key: str = "",
) -> Receipt:
    """Publishes data under the name that its content makes.

    Args:
        timeout: None: enough for 1 MiB/s.
        key: for the receipt.

    Raises:
        Unavailable: no node takes it. DeadlineExceeded: it took longer than `timeout`.
    """
    name = names.content_name(source.digest)
    size = source.content.size
    descriptor, token = publisher.describe(name, "data", policy, content=source.content)
    runner = DataRunner(source, descriptor)
    if progress is not None:
        total = size * policy.min_copies
        runner.on_read = lambda done: progress(min(done, total), total)
    if timeout is None:
        timeout = 30.0 + size / (1 << 20)
    async with within(timeout, f"putting {size} bytes"):
        return await publisher.publish(descriptor, token, runner, key)
