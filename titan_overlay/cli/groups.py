"""Mutable objects from the shell: how their members are."""

from typing import TYPE_CHECKING, Any

from titan_overlay.cli import output

if TYPE_CHECKING:
    from titan_overlay.client import Pool
    from titan_overlay.mutable.health import GroupHealth, MemberHealth


async def health_of(pool: "Pool", name: str, timeout: float) -> "GroupHealth | str":
    """How the members of a mutable object are; a text: why nobody says so."""
    from titan_overlay.errors import RemotableError

    try:
        return await pool.group(name, timeout=timeout)
    except RemotableError as why:
        return str(why)


def shown(health: "GroupHealth") -> list[Any]:
    """For people: the group, and a line for each member."""
    facts = [
        ("group", f"{health.health}: {health.says}"),
        ("epoch", health.epoch),
        ("term", health.term),
        ("leader", health.leader or "nobody"),
        ("committed", health.committed),
    ]
    if health.learners:
        facts.append(("learning", ", ".join(health.learners)))
    columns = ("member", "role", ">term", ">log", ">executed", ">lag", ">snapshot", "")
    return [output.pairs(facts), "", output.table(columns, [_row(each) for each in health.members])]


def _row(member: "MemberHealth") -> tuple[Any, ...]:
    if member.role == "silent":
        return (member.node, member.role, "", "", "", "", "", member.trouble)
    return (
        member.node,
        member.role,
        member.term,
        f"{member.first}-{member.last}",
        member.executed,
        member.lag,
        member.snapshot,
        member.trouble,
    )
