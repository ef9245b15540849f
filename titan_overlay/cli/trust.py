"""Commands about keys and rights: id, grant, invite."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from titan_overlay.cli import output
from titan_overlay.cli.face import Face, command
from titan_overlay.cli.grant_text import DAY, decode_grant, encode_grant, grant_facts, grant_line
from titan_overlay.cli.grantor import grantor, pattern_of
from titan_overlay.cli.nodes import ask_node, local_node
from titan_overlay.cli.pool import rules_of

if TYPE_CHECKING:
    from titan_overlay.identity.grants import Right

DaysOption = Annotated[float, typer.Option("--days", min=0.001, max=366, help="How long it holds.")]
NamesOption = Annotated[str, typer.Option("--names", metavar="PATTERN", help="Names it covers, such as weather/*.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `titan`."""
    command(app, "id", connects=False)(show_id)
    command(app, connects=False)(grant)
    command(app, connects=False)(invite)


def show_id(face: Face) -> None:
    """Show your key: what others grant rights to, and where your own names begin."""
    from titan_overlay.ambient import Ambient
    from titan_overlay.identity.ids import fingerprint
    from titan_overlay.storage.directory import DataDirectory

    ambient = Ambient.system()
    key = DataDirectory.user_key(face.directory, ambient)
    node = DataDirectory.read_node_id(face.directory)
    grants = [grant_facts(raw, ambient.wall()) for raw in DataDirectory.read_grants(face.directory)]
    for each in grants:
        each["for"] = {key.id.hex(): "you", node.hex() if node else "": "your node"}.get(each.get("grantee", "-"), "")
    value = {
        "key": key.public.hex(),
        "fingerprint": fingerprint(key.public),
        "prefix": f"~{fingerprint(key.public)}/",
        "node": node.hex() if node else None,
        "data": str(face.directory),
        "grants": grants,
    }
    rows = [
        ("key", value["key"]),
        ("fingerprint", value["fingerprint"]),
        ("your names", f"{value['prefix']}... (~me/... for short)"),
        *([("your node", f"node:{value['node']}")] if node else []),
        ("kept in", value["data"]),
        *((f"grant for {each['for'] or 'others'}", grant_line(each)) for each in grants),
    ]
    face.show(value, lambda: output.pairs(rows))


async def grant(
    face: Face,
    key: Annotated[str, typer.Argument(help='Who gets it: the key that their `titan id` shows. Or "import".')],
    rights: Annotated[
        str, typer.Argument(help="join, call, host, publish, delete, administer; with commas. Or the text to import.")
    ],
    names: NamesOption = "*",
    days: DaysOption = 7.0,
    delegable: Annotated[
        bool, typer.Option("--delegable", help="They may pass it on, as it is or narrower, and invite by it.")
    ] = False,
) -> None:
    """Sign a right, with the pool's key or by a grant that you may pass on; they run: titan grant import TEXT."""
    if key == "import":
        await _import_grant(face, rights)
        return
    from titan_overlay.ambient import Ambient
    from titan_overlay.identity.grants import Right, issue
    from titan_overlay.storage.directory import DataDirectory

    wanted = Right.parse(rights)
    if not wanted:
        raise typer.BadParameter("no right is named", param_hint="RIGHTS")
    grantee, names = grantee_of(key), pattern_of(face, names)
    signer = grantor(face, wanted, names, 1 if delegable else 0)
    now = Ambient.system().wall()
    expires = min(now + days * DAY, signer.until)
    depth = signer.depth if delegable else 0
    signed = issue(
        signer.key,
        signer.pool,
        grantee,
        wanted,
        now=now,
        expires=expires,
        pattern=names,
        depth=depth,
        parent=signer.parent,
    )
    DataDirectory.note_issued(face.directory, signed.raw)
    text = encode_grant(signed.raw)
    facts = grant_facts(signed.raw, now)
    if expires < now + days * DAY:
        face.note(f"it ends in {facts['days_left']:g} days, with the grant that you pass on")
    face.note(f"{rights} on {names} for {(expires - now) / DAY:.3g} days; they run: titan grant import TEXT")
    face.show({"grant": text, **facts}, lambda: text)


async def invite(
    face: Face,
    rights: Annotated[str, typer.Option("--rights", help="What the bearer may do, such as publish,host.")] = "",
    names: NamesOption = "*",
    days: DaysOption = 7.0,
    trust_me: Annotated[bool, typer.Option("--trust-me", help="Their node is to run code that you sign.")] = False,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Where others dial your node.")
    ] = None,
) -> None:
    """Print a join line; with --rights or --trust-me it carries an invitation, so give it to those you mean only."""
    from titan_overlay.errors import ConfigError
    from titan_overlay.identity.grants import JoinLine, Right
    from titan_overlay.values import parse_address

    names = pattern_of(face, names)
    line = local_node(face)
    async with face.pool(str(line)) as pool:
        wanted = Right.parse(rights)
        if (await rules_of(pool)).private:
            wanted |= Right.JOIN | Right.CALL
        if address is None:
            here = await ask_node(pool, f"node:{line.node.hex()}")
            if not here.serving:
                raise ConfigError(f"nobody could join through this node: {here.reason}, or here with --address")
            address = here.address
    if trust_me and not wanted:
        wanted = Right.JOIN
    invitation = _invitation(face, wanted, names, days, trust_me) if wanted else b""
    try:
        host, port = parse_address(address)
    except ValueError as why:
        raise ConfigError(f"--address: {why}") from None
    join = JoinLine(host, port, line.pool, line.node, invitation)
    face.show({"join": str(join), "rights": rights, "names": names, "days": days}, lambda: str(join))


def _invitation(face: Face, wanted: "Right", names: str, days: float, trust_me: bool) -> bytes:
    from titan_overlay.ambient import Ambient
    from titan_overlay.identity.invitations import Invitation, invite
    from titan_overlay.identity.keys import KEY_BYTES
    from titan_overlay.storage.directory import DataDirectory
    from titan_overlay.wire import codec

    ambient = Ambient.system()
    trust = DataDirectory.user_key(face.directory, ambient).public if trust_me else b""
    signer = grantor(face, wanted, names, 1)
    now = ambient.wall()
    raw = invite(
        signer.key,
        signer.pool,
        wanted,
        seed=ambient.token_bytes(KEY_BYTES),
        now=now,
        expires=min(now + days * DAY, signer.until),
        pattern=names,
        trust=trust,
        parent=signer.parent,
    )
    DataDirectory.note_issued(face.directory, codec.decode(raw, Invitation).grant)
    return raw


def grantee_of(text: str) -> bytes:
    """Id of a key written as its 64 hexadecimal digits, or of a node as `node:<id>`. Raises ConfigError."""
    from titan_overlay.errors import ConfigError
    from titan_overlay.identity.ids import node_id

    digits = text.removeprefix("node:")
    try:
        if len(digits) != 64:
            raise ValueError
        data = bytes.fromhex(digits)
    except ValueError:
        raise ConfigError(f"{text!r} is no key; it has 64 hexadecimal digits, and `titan id` shows it") from None
    return data if text.startswith("node:") else node_id(data)


async def _import_grant(face: Face, text: str) -> None:
    from titan_overlay.ambient import Ambient
    from titan_overlay.errors import BadMessage, ConfigError, Forbidden
    from titan_overlay.identity.rights import Rights
    from titan_overlay.storage.directory import DataDirectory

    ambient = Ambient.system()
    try:
        found = _grants_in(face, text)
        for raw, pool in found:
            Rights(pool).check_grant(raw, ambient.wall())
    except (BadMessage, Forbidden) as why:
        raise ConfigError(f"this grant does not hold: {why}; was it copied whole?") from None
    facts = [grant_facts(raw, ambient.wall()) for raw, _ in found]
    ours = {DataDirectory.user_key(face.directory, ambient).id, DataDirectory.read_node_id(face.directory)}
    if any(bytes.fromhex(each["grantee"]) not in ours for each in facts):
        raise ConfigError(
            "this grant is for another key than yours and your node's; `titan id` shows the key to ask it for"
        )
    for raw, _ in found:
        DataDirectory.add_grant(face.directory, raw)
    if DataDirectory.running(face.directory) is not None:
        await _tell_node(face, [raw for raw, _ in found])
    face.show(facts[0], lambda: f"kept: {grant_line(facts[0])}")


def _grants_in(face: Face, text: str) -> list[Any]:
    """The grants in a text, each with its pool; an invitation in a join line is redeemed for the user and the node."""
    from titan_overlay.ambient import Ambient
    from titan_overlay.errors import ConfigError
    from titan_overlay.identity import grants
    from titan_overlay.identity.grants import JoinLine
    from titan_overlay.identity.ids import PoolId
    from titan_overlay.identity.invitations import redeem
    from titan_overlay.storage.directory import DataDirectory

    text = "".join(text.split())
    if not text.startswith("titan://"):
        raw = decode_grant(text)
        return [(raw, grants.claimed_pool(raw))]
    line = JoinLine.parse(text)
    if not line.invitation:
        raise ConfigError("this join line carries no invitation, so it holds no grant")
    pool = PoolId(line.pool)
    user, node = DataDirectory.user_key(face.directory, Ambient.system()).id, DataDirectory.read_node_id(face.directory)
    return [(redeem(line.invitation, pool, key).raw, pool) for key in (user, node) if key is not None]


async def _tell_node(face: Face, raws: list[bytes]) -> None:
    """The node that runs here uses them from now on."""
    from titan_overlay.errors import TitanError
    from titan_overlay.pool.orders import HoldGrant

    line = local_node(face)
    try:
        async with face.pool(str(line)) as pool:
            for raw in raws:
                await pool.send(f"node:{line.node.hex()}", HoldGrant(raw))
    except TitanError as why:
        face.note(f"your node takes it up when it starts again: {why}")
