"""Commands about keys and rights: id, grant, invite, pool key."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from titan_overlay.cli import output
from titan_overlay.cli.face import Face, command
from titan_overlay.cli.nodes import ask_node, local_node

if TYPE_CHECKING:
    from titan_overlay.identity.keys import SigningKey

GRANT_PREFIX = "titan-grant:"
DAY = 86400.0

DaysOption = Annotated[float, typer.Option("--days", min=0.001, max=3650, help="How long it holds.")]
NamesOption = Annotated[str, typer.Option("--names", metavar="PATTERN", help="Names it covers, such as weather/*.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `titan`."""
    command(app, "id", connects=False)(show_id)
    command(app, connects=False)(grant)
    command(app, connects=False)(invite)
    pool = typer.Typer(no_args_is_help=True, help="The pool itself, on its founder's machine.")
    command(pool, "key", connects=False)(pool_key)
    app.add_typer(pool, name="pool")


def show_id(face: Face) -> None:
    """Show your key: what others grant rights to, and where your own names begin."""
    from titan_overlay.ambient import Ambient
    from titan_overlay.identity.ids import fingerprint
    from titan_overlay.storage.directory import DataDirectory

    ambient = Ambient.system()
    key = DataDirectory.user_key(face.directory, ambient)
    grants = [grant_facts(raw, ambient.wall()) for raw in DataDirectory.read_grants(face.directory)]
    value = {
        "key": key.public.hex(),
        "fingerprint": fingerprint(key.public),
        "prefix": f"~{fingerprint(key.public)}/",
        "data": str(face.directory),
        "grants": grants,
    }
    rows = [
        ("key", value["key"]),
        ("fingerprint", value["fingerprint"]),
        ("your names", f"{value['prefix']}... (~me/... for short)"),
        ("kept in", value["data"]),
        *(("grant", _grant_line(each)) for each in grants),
    ]
    face.show(value, lambda: output.pairs(rows))


def grant(
    face: Face,
    key: Annotated[str, typer.Argument(help='Who gets it: the key that their `titan id` shows. Or "import".')],
    rights: Annotated[
        str, typer.Argument(help="join, call, host, publish, delete, administer; with commas. Or the text to import.")
    ],
    names: NamesOption = "*",
    days: DaysOption = 7.0,
) -> None:
    """Sign a right with the pool's key; the text that is printed is for `titan grant import TEXT` over there."""
    if key == "import":
        _import_grant(face, rights)
        return
    from titan_overlay.ambient import Ambient
    from titan_overlay.identity.grants import Right, issue
    from titan_overlay.identity.ids import PoolId

    wanted = Right.parse(rights)
    if not wanted:
        raise typer.BadParameter("no right is named", param_hint="RIGHTS")
    signer = _pool_key(face)
    expires = Ambient.system().wall() + days * DAY
    signed = issue(signer, PoolId(signer.public), _grantee(key), wanted, expires=expires, pattern=names)
    text = encode_grant(signed.raw)
    face.note(f"{rights} on {names} for {days:g} days; they run: titan grant import TEXT")
    face.show({"grant": text, **grant_facts(signed.raw, 0.0)}, lambda: text)


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
    from titan_overlay.identity.grants import JoinLine
    from titan_overlay.values import parse_address

    invitation = _invitation(face, rights, names, days, trust_me) if rights or trust_me else b""
    line = local_node(face)
    if address is None:
        async with face.pool(str(line)) as pool:
            address = (await ask_node(pool, f"node:{line.node.hex()}")).address
    host, port = parse_address(address)
    join = JoinLine(host, port, line.pool, line.node, invitation)
    face.show({"join": str(join), "rights": rights, "names": names, "days": days}, lambda: str(join))


def _invitation(face: Face, rights: str, names: str, days: float, trust_me: bool) -> bytes:
    from titan_overlay.ambient import Ambient
    from titan_overlay.identity.grants import BEARER, Right, issue
    from titan_overlay.identity.ids import PoolId
    from titan_overlay.storage.directory import DataDirectory

    ambient = Ambient.system()
    wanted = Right.parse(rights) or Right.JOIN
    trust = DataDirectory.user_key(face.directory, ambient).public if trust_me else b""
    signer = _pool_key(face)
    expires = ambient.wall() + days * DAY
    return issue(signer, PoolId(signer.public), BEARER, wanted, expires=expires, pattern=names, trust=trust).raw


def pool_key(
    face: Face,
    save: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Copy the secret key there, to keep off line.")
    ] = None,
) -> None:
    """Show the pool's key, or save a copy of it. Whoever has it decides who may do what in the pool."""
    key = _pool_key(face)
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


def _pool_key(face: Face) -> "SigningKey":
    """The pool's secret key. Raises ConfigError: it is not here."""
    from titan_overlay.errors import ConfigError
    from titan_overlay.storage.directory import DataDirectory

    key = DataDirectory.read_pool_key(face.directory)
    if key is None:
        raise ConfigError(
            f"the pool's key is not in {face.directory}; run this on the founder's machine, or put pool.key back there"
        )
    return key


def _grantee(text: str) -> bytes:
    """Id of a key written as its 64 hexadecimal digits, or of a node as `node:<id>`."""
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


# ---- grants as text --------------------------------------------------------------------------------------------


def encode_grant(raw: bytes) -> str:
    """A grant as a text that can be mailed."""
    import base64

    return GRANT_PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_grant(text: str) -> bytes:
    """The grant in a text; an invitation in a join line counts too. Raises ConfigError where there is none."""
    import base64
    import binascii

    from titan_overlay.errors import ConfigError
    from titan_overlay.identity.grants import JoinLine

    text = "".join(text.split())
    if text.startswith("titan://"):
        invitation = JoinLine.parse(text).invitation
        if invitation:
            return invitation
    elif text.startswith(GRANT_PREFIX):
        body = text.removeprefix(GRANT_PREFIX)
        try:
            return base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            pass
    raise ConfigError(f"{text[:40]!r} holds no grant; it begins with {GRANT_PREFIX}, as `titan grant` prints it")


def _import_grant(face: Face, text: str) -> None:
    from titan_overlay.ambient import Ambient
    from titan_overlay.errors import BadMessage, ConfigError, Forbidden
    from titan_overlay.identity.grants import BEARER, check
    from titan_overlay.identity.ids import PoolId
    from titan_overlay.identity.records import claimed_key
    from titan_overlay.storage.directory import DataDirectory

    ambient = Ambient.system()
    raw = decode_grant(text)
    try:
        signed = check(raw, PoolId(claimed_key(raw)), ambient.wall())
    except (BadMessage, Forbidden) as why:
        raise ConfigError(f"this grant does not hold: {why}") from None
    ours = {DataDirectory.user_key(face.directory, ambient).id, DataDirectory.read_node_id(face.directory), BEARER}
    if signed.value.grantee not in ours:
        raise ConfigError(
            "this grant is for another key than yours and your node's; `titan id` shows the key to ask it for"
        )
    DataDirectory.add_grant(face.directory, raw)
    facts = grant_facts(raw, ambient.wall())
    face.note("a node that is running takes it up when it starts again")
    face.show(facts, lambda: f"kept: {_grant_line(facts)}")


def grant_facts(raw: bytes, now: float) -> dict[str, Any]:
    """What a grant says, for people. `state`: "valid", "expired" or "unreadable"."""
    from titan_overlay.errors import BadMessage
    from titan_overlay.identity.grants import CLOCK_TOLERANCE, Grant, Right
    from titan_overlay.identity.ids import PoolId
    from titan_overlay.identity.records import check, claimed_key

    try:
        pool = PoolId(claimed_key(raw))
        value: Grant = check(raw, Grant, pool).value
    except BadMessage:
        return {"state": "unreadable"}
    rights = [str(right.name).lower() for right in Right if value.rights & right]
    return {
        "state": "expired" if value.expires + CLOCK_TOLERANCE < now else "valid",
        "rights": rights,
        "names": value.pattern,
        "grantee": value.grantee.hex(),
        "expires": value.expires,
        "days_left": round((value.expires - now) / DAY, 2) if now else None,
        "pool": pool.hex(),
    }


def _grant_line(facts: dict[str, Any]) -> str:
    if facts["state"] == "unreadable":
        return "unreadable"
    left = f"{facts['days_left']:g} days left" if facts["state"] == "valid" else "expired: ask for a new one"
    return f"{','.join(facts['rights'])} on {facts['names']} in pool {facts['pool'][:12]}, {left}"
