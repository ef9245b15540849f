"""Commands about the pool itself: pool key, pool show, pool set."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titan_overlay.cli import output
from titan_overlay.cli.face import Face, command
from titan_overlay.cli.grantor import pool_key

if TYPE_CHECKING:
    from titan_overlay.client import Pool
    from titan_overlay.identity.poolrecord import PoolRecord
    from titan_overlay.pool.orders import NodeInfo

NODES_TOLD = 16
NOBODY = "none"


def register(app: typer.Typer) -> None:
    """Adds the commands to `titan`."""
    pool = typer.Typer(no_args_is_help=True, help="The pool itself: its key and its rules.")
    command(pool, connects=False)(key)
    command(pool)(show)
    command(pool, "set")(change)
    app.add_typer(pool, name="pool")


def key(
    face: Face,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Copy the secret key there, to keep off line.")
    ] = None,
) -> None:
    """Show the pool's key, or save a copy of it. Whoever has it decides who may do what in the pool."""
    key = pool_key(face)
    place = face.directory / "pool.key"
    if save is not None:
        _copy_secret(place, save)
    rows = [
        ("pool", key.public.hex()),
        ("secret key", str(place)),
        ("saved to", str(save)) if save else ("next", "titan pool key --save FILE, then keep that copy off line"),
    ]
    face.show(
        {"pool": key.public.hex(), "file": str(place), "saved": str(save) if save else None}, lambda: output.pairs(rows)
    )


def _copy_secret(place: Path, save: Path) -> None:
    """A copy that its owner alone can read. Raises FileExistsError: nothing is overwritten."""
    descriptor = os.open(save, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(place.read_bytes())
        file.flush()
        os.fsync(file.fileno())


async def show(face: Face) -> None:
    """Show the rules of the pool: what strangers may do, and what an id costs."""
    async with face.pool() as pool:
        record = await rules_of(pool)
    _show(face, record)


async def change(
    face: Face,
    strangers: Annotated[
        str | None,
        typer.Option(metavar="RIGHTS", help='What needs no grant, such as join,call. "none": a private pool.'),
    ] = None,
    puzzle_bits: Annotated[
        int | None, typer.Option(min=0, max=32, help="The id of a node that serves costs about 2^N keys.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Also where nodes that serve now may serve no longer.")] = False,
) -> None:
    """Change the rules of the pool. Needs the pool's key; nodes act on it within seconds."""
    from msgspec.structs import replace

    from titan_overlay.ambient import Ambient
    from titan_overlay.errors import ConfigError
    from titan_overlay.identity import records
    from titan_overlay.identity.grants import Right
    from titan_overlay.identity.ids import PoolId, solves_puzzle
    from titan_overlay.pool.orders import Learn, News

    signer = pool_key(face)
    async with face.pool() as pool:
        before = await rules_of(pool)
        changes: dict[str, Any] = {}
        if strangers is not None:
            changes["strangers"] = int(Right(0) if strangers == NOBODY else Right.parse(strangers))
        if puzzle_bits is not None:
            changes["puzzle_bits"] = puzzle_bits
        if not changes:
            raise typer.BadParameter("nothing to change; see: titan pool set --help")
        version = max(int(Ambient.system().wall() * 1000), before.version + 1)
        record = replace(before, version=version, **changes)
        nodes: list[NodeInfo] = await pool.census()
        out = [each for each in nodes if not solves_puzzle(bytes.fromhex(each.id), record.puzzle_bits)]
        if out and not yes:
            raise ConfigError(
                f"the keys of {len(out)} of {len(nodes)} nodes do not solve a puzzle of {record.puzzle_bits} bits: "
                "they would serve no longer; with --yes it is done all the same"
            )
        raw = records.sign(record, signer, PoolId(signer.public)).raw
        answers = await pool.multicast(nodes[:NODES_TOLD], Learn(News(raw)))
    told = sum(isinstance(answer, int) for answer in answers.values())
    face.note(f"{told} nodes told; the others hear it from them")
    _show(face, record)


async def rules_of(pool: "Pool") -> "PoolRecord":
    """The pool record, as the node nearest to nothing in particular knows it."""
    from titan_overlay.errors import Unavailable
    from titan_overlay.identity.poolrecord import PoolRecord
    from titan_overlay.identity.records import claimed
    from titan_overlay.pool.orders import News, Rules

    nodes = await pool.nearest(f"~{pool.id}/rules", 3)
    answers = await pool.multicast(nodes, Rules(-1, {}))
    # They came over links to nodes of this pool, and are only shown: who acts on a record checks it.
    found = [claimed(each.record, PoolRecord)[1] for each in answers.values() if isinstance(each, News) and each.record]
    if not found:
        raise Unavailable("no node answers what the rules of the pool are; see: titan doctor")
    return max(found, key=lambda each: each.version)


def _show(face: Face, record: "PoolRecord") -> None:
    from titan_overlay.identity.grants import words

    strangers = words(record.strangers)
    value = {
        "private": record.private,
        "strangers": strangers.split(",") if strangers else [],
        "puzzle_bits": record.puzzle_bits,
        "version": record.version,
    }
    rows = [
        ("private", "yes: only keys with a grant join" if record.private else "no"),
        ("strangers may", strangers or "nothing"),
        ("puzzle", f"{record.puzzle_bits} bits"),
        ("version", str(record.version)),
    ]
    face.show(value, lambda: output.pairs(rows))
