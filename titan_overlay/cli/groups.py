"""Mutable objects from the shell: how their members are, and what to do when too many are lost."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titan_overlay.cli import output
from titan_overlay.cli.face import Face, command

if TYPE_CHECKING:
    from titan_overlay.client import Pool
    from titan_overlay.mutable.health import GroupHealth, MemberHealth
    from titan_overlay.mutable.recovery import RecoveryPlan


def register(app: typer.Typer) -> None:
    """Adds the command to `titan`."""
    command(app)(recover)


async def recover(
    face: Face,
    name: Annotated[str, typer.Argument(help="Name of the object.")],
    owner_key: Annotated[
        Path | None,
        typer.Option("--owner-key", metavar="FILE", help="Key that published it. [your client.key]"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking, whatever may be lost.")] = False,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds.")] = 60.0,
) -> None:
    """Have a mutable object go on that has lost its quorum for good; says first what may be lost."""
    from titan_overlay.errors import ConfigError
    from titan_overlay.storage.directory import DataDirectory

    key = DataDirectory.read_key(owner_key.expanduser()) if owner_key is not None else None
    if owner_key is not None and key is None:
        raise ConfigError(f"there is no key in {owner_key}")

    def confirm(plan: "RecoveryPlan") -> bool:
        face.note(plan.says)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigError("nothing was done: repeat it with --yes if this is what you want")
        return typer.confirm(f"Recover {name}?", err=True)

    async with face.pool() as pool:
        epoch = await pool.recover(name, confirm, key=key, timeout=timeout)
        health = await health_of(pool, name, timeout) if epoch else "nothing was done"
    if isinstance(health, str):
        face.note(health)
        raise typer.Exit(0 if epoch else 1)
    face.show(health, lambda: _together(shown(health)))


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


def _together(parts: list[Any]) -> Any:
    from rich.console import Group

    return Group(*parts)
