"""Commands about objects: publish, put, get, ls, locate, describe, rm, move."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titan_overlay.cli import output
from titan_overlay.cli.conduct import conduct, seen_of
from titan_overlay.cli.face import Face, command
from titan_overlay.cli.groups import health_of, shown
from titan_overlay.cli.nodes import node_name

if TYPE_CHECKING:
    from titan_overlay.client import Located, Pool, Receipt
    from titan_overlay.identity.statements import Policy
    from titan_overlay.mutable.health import GroupHealth
    from titan_overlay.pool.hosting.bundles import Source
    from titan_overlay.pool.orders import Holding, NodeInfo

NameArgument = Annotated[str, typer.Argument(help="Name of the object.")]
MinOption = Annotated[int | None, typer.Option("--min-copies", help="Copies below which new ones are made.")]
MaxOption = Annotated[int | None, typer.Option("--max-copies", help="Copies above which some step down.")]
TtlOption = Annotated[
    str | None, typer.Option("--ttl", metavar="TIME", help="How long it lives: 12h, 7d; 0: for ever.")
]
TimeoutOption = Annotated[float | None, typer.Option(min=0.01, help="Seconds for the whole of it.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `titan`."""
    for function in (publish, put, get, locate, describe, rm, move):
        command(app)(function)
    command(app, "ls")(list_objects)


async def publish(
    face: Face,
    source: Annotated[str, typer.Argument(metavar="FILE:CLASS", help="A service class, or an installed type's name.")],
    name: Annotated[str, typer.Option("--name", "-n", help="Name to publish it under; ~me/... is always yours.")],
    min_copies: MinOption = None,
    max_copies: MaxOption = None,
    ttl: TtlOption = None,
    votes: Annotated[
        int | None,
        typer.Option(
            "--votes", min=1, help="Holders that are asked at once, twice as many where two differ; most must agree."
        ),
    ] = None,
    faults: Annotated[
        int | None, typer.Option("--faults", min=0, help="Of a mutable object: members that may fail at once.")
    ] = None,
    timeout: TimeoutOption = None,
) -> None:
    """Publish a service: its code travels as a signed bundle to the nodes that trust your key."""
    changed = any(flag is not None for flag in (min_copies, max_copies, ttl, votes, faults))
    packed = _packed(source)
    policy = _policy(packed.policy, min_copies, max_copies, ttl, votes, faults)
    async with face.pool() as pool:
        receipt = await pool.publish(source, name, policy=policy if changed else None, timeout=timeout or 30.0)
        if len(receipt.holders) < policy.min_copies:
            nodes = len(await pool.nearest(name, policy.min_copies))
            face.note(f"{len(receipt.holders)} of {policy.min_copies} copies so far: {_missing(packed, policy, nodes)}")
    takes_text = "str" in packed.runner().types
    then = f"titan send {receipt.name} TEXT" if takes_text else f"titan describe {receipt.name}"
    face.show(receipt, lambda: _receipt(receipt, then))


async def put(
    face: Face,
    file: Annotated[Path, typer.Argument(help="File to store.", exists=True, dir_okay=False, readable=True)],
    min_copies: MinOption = None,
    max_copies: MaxOption = None,
    ttl: TtlOption = None,
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Seal it: holders and readers see only sealed bytes.")
    ] = False,
    timeout: TimeoutOption = None,
) -> None:
    """Store a file; its name is made of its content."""
    from titan_overlay.identity.statements import Policy

    policy = _policy(Policy(), min_copies, max_copies, ttl)
    async with face.pool() as pool:
        with output.progress(file.name, quiet=face.json) as progress:
            receipt = await pool.put_receipt(file, policy=policy, encrypt=encrypt, progress=progress, timeout=timeout)
    then = f"titan get {receipt.name} -o {file.name}{' --decrypt' if encrypt else ''}"
    face.show(receipt, lambda: _receipt(receipt, then))


async def get(
    face: Face,
    name: NameArgument,
    to: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="File to write; goes on where an interrupted one stopped."),
    ] = None,
    decrypt: Annotated[bool, typer.Option("--decrypt", help="Open what you have put with --encrypt.")] = False,
    key: Annotated[str, typer.Option("--key", metavar="HEX", help="Open what somebody gave you the key of.")] = "",
    timeout: TimeoutOption = None,
) -> None:
    """Fetch data, verified; to standard output without -o, or with -o -."""
    from titan_overlay.errors import ConfigError

    printed = to is None or to == Path("-")
    if face.json and printed:
        raise ConfigError("--json needs -o FILE: the data itself goes to standard output otherwise")
    with TemporaryDirectory(prefix="titan-") as place:
        # However much it is, it does not go through memory, and nothing is printed that is not verified.
        file = Path(place) / "data" if to is None or printed else to
        if file.is_dir():
            file = file / name.rpartition(":")[2].rpartition("/")[2]
        async with face.pool() as pool:
            with output.progress(name[:24], quiet=face.json) as progress:
                await pool.get(name, file, decrypt=key or decrypt, progress=progress, timeout=timeout)
        if printed:
            output.print_file(file)
        else:
            face.show({"name": name, "file": str(file), "size": file.stat().st_size}, lambda: None)


async def list_objects(
    face: Face,
    mine: Annotated[bool, typer.Option("--mine", help="Only what you have published.")] = False,
    node: Annotated[
        str | None, typer.Option("--node", metavar="ID", help='Only what this node holds; "here": yours.')
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds to ask around.")] = 10.0,
) -> None:
    """List objects, by asking the nodes what they hold."""
    async with face.pool() as pool:
        nodes = [await node_name(face, pool, node)] if node else _names_of(await pool.census(timeout=timeout))
        held = await _holdings(pool, nodes, timeout)
        owner = pool.id
    rows = sorted((row for row in held if not mine or row["owner"] == owner), key=lambda row: str(row["name"]))
    face.show(
        rows,
        lambda: output.table(
            ("name", "kind", "type", ">size", ">copies", "owner"),
            [
                (
                    r["name"],
                    r["kind"],
                    r["type"],
                    output.size(r["size"]) if r["kind"] == "data" else "",
                    r["copies"],
                    _short(r["owner"], owner),
                )
                for r in rows
            ],
        ),
    )


async def locate(
    face: Face, name: NameArgument, timeout: Annotated[float, typer.Option(min=0.01, help="Seconds.")] = 10.0
) -> None:
    """Show which nodes hold an object."""
    async with face.pool() as pool:
        held = await pool.locate(name, timeout=timeout)
    face.show(
        held,
        lambda: output.table(
            ("node", "address", ">version", ""),
            [(each.node, each.address, each.version, _standing(each)) for each in held],
        ),
    )


def _standing(holder: "Located") -> str:
    if not holder.answers:
        return "does not answer"
    return "passing cache" if holder.passing else ""


async def describe(
    face: Face, name: NameArgument, timeout: Annotated[float, typer.Option(min=0.01, help="Seconds.")] = 10.0
) -> None:
    """Show what an object is, and which messages it takes; of a mutable one how its members are, of a node also how it
    has behaved towards yours.
    """
    from titan_overlay.client import Description
    from titan_overlay.errors import RemotableError
    from titan_overlay.pool.questions import Schema

    async with face.pool() as pool:
        seen = await seen_of(face, pool, name)
        try:
            described = await pool.describe(name, timeout=timeout)
        except RemotableError as why:
            if seen is None or not seen.misdeeds:
                raise
            face.note(str(why))
            face.show({"name": name, "conduct": seen}, lambda: output.pairs([("conduct", conduct(seen))]))
            return
        try:
            schema = await pool.send(name, Schema(), timeout=timeout)
        except RemotableError as why:
            schema = {}
            face.note(f"no holder says which messages it takes: {why}")
        health = None
        if isinstance(described, Description) and described.kind == "mutable":
            health = await health_of(pool, name, timeout)
    import msgspec

    value = {**msgspec.to_builtins(described), "messages": msgspec.to_builtins(schema)}
    if isinstance(described, Description):
        value["policy"] = msgspec.structs.asdict(described.policy)
    if isinstance(health, str):
        face.note(f"its members are not known: {health}")
    elif health is not None:
        value["group"] = msgspec.to_builtins(health)
        face.show(value, lambda: _described(value, health))
        return
    if seen is None:
        face.show(value, lambda: _described(value))
    else:
        face.show({**value, "conduct": seen}, lambda: _described({**value, "conduct": conduct(seen)}))


async def rm(
    face: Face,
    name: NameArgument,
    token: Annotated[
        str, typer.Option("--token", help="The token that publish printed; without it, your key decides.")
    ] = "",
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds.")] = 10.0,
) -> None:
    """Delete an object (of data: your pin on it)."""
    from titan_overlay.errors import Forbidden

    async with face.pool() as pool:
        outcome = await pool.delete(name, token, timeout=timeout)
    if outcome == "wrong token":
        raise Forbidden(
            f"wrong token: {name!r} was not deleted; use the one that its publish printed, or its owner's key"
        )
    face.show({"name": name, "outcome": outcome}, lambda: outcome)


async def move(
    face: Face,
    name: NameArgument,
    node: Annotated[str, typer.Argument(help='Id of the node, or its first digits; "here": yours.')],
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds.")] = 30.0,
) -> None:
    """Move one copy of an object to a node."""
    async with face.pool() as pool:
        receipt = await pool.move(name, await node_name(face, pool, node), timeout=timeout)
    face.show(receipt, lambda: f"{receipt.name} is now at {', '.join(each[:12] for each in receipt.holders)}")


def _policy(
    base: "Policy",
    min_copies: int | None,
    max_copies: int | None,
    ttl: str | None,
    votes: int | None = None,
    faults: int | None = None,
) -> "Policy":
    """The policy with what the flags say. Raises ConfigError where that makes no sense."""
    import msgspec

    from titan_overlay.errors import ConfigError
    from titan_overlay.identity.statements import COPIES_MAX
    from titan_overlay.values import parse_duration

    changes: dict[str, Any] = {} if faults is None else {"faults": faults}
    if min_copies is not None:
        changes |= {"min_copies": min_copies, "max_copies": max(base.max_copies, min_copies)}
    if votes is not None:
        if min_copies is not None and votes > min_copies:
            raise ConfigError(f"--votes {votes} needs as many copies: --min-copies is {min_copies}")
        asked = min(2 * votes, COPIES_MAX)  # where two differ
        least = changes.get("min_copies", max(asked, base.min_copies))
        changes |= {"votes": votes, "min_copies": least, "max_copies": max(least, base.max_copies)}
    if max_copies is not None:
        changes |= {"max_copies": max_copies, "min_copies": min(changes.get("min_copies", base.min_copies), max_copies)}
    if min_copies is not None and max_copies is not None and min_copies > max_copies:
        raise ConfigError(f"--min-copies {min_copies} is more than --max-copies {max_copies}")
    try:
        if ttl is not None:
            changes["ttl"] = parse_duration(ttl)
        return msgspec.structs.replace(base, **changes)
    except ValueError as why:
        raise ConfigError(str(why)) from None


def _packed(source: str) -> "Source":
    """What the class itself says; only read here, so any key will do to pack it."""
    from titan_overlay.identity.ids import PoolId
    from titan_overlay.identity.keys import KEY_BYTES, SigningKey
    from titan_overlay.pool.hosting.bundles import Source

    return Source.of(source, SigningKey(bytes(KEY_BYTES)), PoolId(bytes(KEY_BYTES)))


def _missing(source: "Source", policy: "Policy", nodes: int) -> str:
    """What more copies need, in a pool of at least so many nodes."""
    if nodes < policy.min_copies:
        return f"the pool has {nodes} {'node' if nodes == 1 else 'nodes'}; more follow when others join (titan invite)"
    may = "have the right to host (titan invite --rights host)"
    if not source.bundle:
        return f"others must have the type {source.type!r} installed, and {may}"
    return f"others must trust your key (titan-node --trust KEY) and {may}"


def _receipt(receipt: "Receipt", then: str) -> Any:
    rows: list[tuple[str, Any]] = [
        ("name", receipt.name),
        ("version", receipt.version),
        ("copies", f"{len(receipt.holders)}: {', '.join(each[:12] for each in receipt.holders)}"),
        ("known to", f"{receipt.directory} directory nodes"),
    ]
    if receipt.token:
        rows.append(("delete token", f"{receipt.token}  (keep it: titan rm {receipt.name} --token ...)"))
    if receipt.key:
        rows.append(("key", f"{receipt.key}  (for others who may read it: titan get {receipt.name} --key ...)"))
    return output.pairs([*rows, ("next", then)])


def _names_of(infos: "list[NodeInfo]") -> list[str]:
    return [f"node:{info.id}" for info in infos]


async def _holdings(pool: "Pool", nodes: list[str], timeout: float) -> list[dict[str, Any]]:
    """What these nodes hold, one row an object. Raises the error of a node where it is the only one asked."""
    from titan_overlay.pool.orders import Holdings

    answers = await pool.multicast(nodes, Holdings(), timeout=timeout)
    found: dict[str, dict[str, Any]] = {}
    for answer in answers.values():
        if isinstance(answer, BaseException):
            if len(nodes) == 1:
                raise answer
            continue
        for holding in answer:
            _add_holding(found, holding)
    if len(nodes) > 1:
        # Everybody was asked: what they hold is newer than what each of them has heard of the others.
        for row in found.values():
            row["copies"] = row["seen"]
    return list(found.values())


def _add_holding(found: dict[str, dict[str, Any]], holding: "Holding") -> None:
    import msgspec

    row = found.setdefault(holding.name, {**msgspec.to_builtins(holding), "seen": 0})
    row["seen"] += not holding.passing
    row["copies"] = max(row["copies"], holding.copies)
    if holding.version > row["version"]:
        row.update(version=holding.version, type=holding.type, owner=holding.owner)


def _short(owner: str, me: str) -> str:
    return "you" if owner == me else owner[:12]


def _described(value: dict[str, Any], health: "GroupHealth | None" = None) -> Any:
    from rich.console import Group

    left_out = ("messages",) if value.get("kind") == "data" else ("messages", "size", "group")
    facts = [(key, _fact(item)) for key, item in value.items() if key not in left_out and item not in ("", {}, [])]
    messages = [
        (kind, each.get("text") or "", "stream" if each.get("stream") else "", _fields(each.get("message", {})))
        for kind, each in sorted(value["messages"].items())
    ]
    members = ["", *shown(health)] if health is not None else []
    if not messages:
        return Group(output.pairs(facts), *members)
    return Group(output.pairs(facts), *members, "", output.table(("message", "what for", "", "fields"), messages))


def _fact(item: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in item.items()) if isinstance(item, dict) else str(item)


def _fields(schema: dict[str, Any]) -> str:
    """Names and types of a message's fields, out of its JSON schema."""
    named = schema.get("$defs", {}).get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    return ", ".join(f"{key}: {each.get('type', 'any')}" for key, each in named.get("properties", {}).items())
