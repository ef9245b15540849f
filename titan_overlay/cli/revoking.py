"""Commands that take rights back: grants, revoke. What they need of the pool is asked of a few nodes."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from titan_overlay.cli import output
from titan_overlay.cli.face import Face, command
from titan_overlay.cli.grant_text import GRANT_PREFIX, decode_grant, grant_facts
from titan_overlay.cli.grantor import Grantor, any_grantor
from titan_overlay.cli.trust import grantee_of

if TYPE_CHECKING:
    from titan_overlay.client import Pool
    from titan_overlay.identity.records import Signed
    from titan_overlay.identity.revocations import Entry, RevocationList

NODES_ASKED = 16
"""That are asked for what they know, and told; gossip does the rest."""
SHORTEST_ID = 8
"""Digits of a grant's id that have to be given."""


def register(app: typer.Typer) -> None:
    """Adds the commands to `titan`."""
    command(app, connects=False)(grants)
    command(app)(revoke)


def grants(face: Face) -> None:
    """List the grants that you have signed from here: to whom, for what, until when, and whether you took them back."""
    from titan_overlay.ambient import Ambient
    from titan_overlay.storage.directory import DataDirectory

    now = Ambient.system().wall()
    gone = _taken_back(face)
    found = []
    for raw in DataDirectory.read_issued(face.directory):
        facts = grant_facts(raw, now)
        if facts["state"] == "valid" and _is_gone(facts, raw, gone):
            facts["state"] = "revoked"
        found.append(facts)
    head = ("id", "state", "rights", "names", "to", "days left")
    face.show(
        found,
        lambda: output.table(
            head,
            [
                (
                    each["id"],
                    each["state"],
                    ",".join(each["rights"]),
                    each["names"],
                    f"node:{each['grantee'][:12]}",
                    f"{each['days_left']:g}",
                )
                for each in found
                if each["state"] != "unreadable"
            ],
        ),
    )


def _taken_back(face: Face) -> "list[Entry]":
    from titan_overlay.storage.directory import DataDirectory

    entries: list[Entry] = []
    for raw in DataDirectory.read_revocations(face.directory):
        signed = _read_list(raw)
        entries += signed.value.entries if signed else ()
    return entries


def _is_gone(facts: dict[str, Any], raw: bytes, gone: "list[Entry]") -> bool:
    from titan_overlay.identity.grants import chain, claimed_pool
    from titan_overlay.identity.ids import NodeId
    from titan_overlay.identity.revocations import mark_of_grant, mark_of_key

    issued = chain(raw, claimed_pool(raw))[-1].value.issued
    key = mark_of_key(NodeId(bytes.fromhex(facts["grantee"])))
    return any(
        each.what == mark_of_grant(raw) if not each.before else each.what == key and issued <= each.before
        for each in gone
    )


def _read_list(raw: bytes) -> "Signed[RevocationList] | None":
    """A list that this user signed at some time, whatever the pool."""
    from titan_overlay.errors import BadMessage
    from titan_overlay.identity.records import Signed, claimed
    from titan_overlay.identity.revocations import RevocationList

    try:
        public, value = claimed(raw, RevocationList)
    except BadMessage:
        return None
    return Signed(value, public, raw)


async def revoke(
    face: Face,
    what: Annotated[
        str, typer.Argument(help="A key (or node:ID): all that you gave to it. Or one grant: its id, or its text.")
    ],
) -> None:
    """Take rights back before they end, and with them what was passed on from them. It spreads within seconds."""
    from titan_overlay.ambient import Ambient
    from titan_overlay.identity import records
    from titan_overlay.identity.revocations import amended
    from titan_overlay.storage.directory import DataDirectory

    now = Ambient.system().wall()
    signer = any_grantor(face)
    entry = _entry(face, what, now)
    async with face.pool() as pool:
        nodes = await _some_nodes(pool)
        before = await _latest(face, pool, nodes, signer)
        value = amended(before, [entry], now, signer.parent)
        signed = records.sign(value, signer.key, signer.pool)
        DataDirectory.save_revocations(face.directory, signer.key.id, signed.raw)
        told = await _tell(pool, nodes, signed.raw)
    kind = "key" if entry.before else "grant"
    face.show(
        {
            "revoked": kind,
            "what": entry.what.hex(),
            "number": value.number,
            "entries": len(value.entries),
            "told": told,
        },
        lambda: f"revoked {kind} {entry.what.hex()}; {told} nodes told, the others hear it from them",
    )


def _entry(face: Face, what: str, now: float) -> "Entry":
    """What to write into the list. Raises ConfigError."""
    from titan_overlay.errors import ConfigError
    from titan_overlay.identity.grants import chain, claimed_pool
    from titan_overlay.identity.ids import NodeId
    from titan_overlay.identity.revocations import grant_entry, key_entry, mark_of_grant
    from titan_overlay.storage.directory import DataDirectory

    if what.startswith(GRANT_PREFIX):
        raws = [decode_grant(what)]
    elif len(what.removeprefix("node:")) == 64:
        return key_entry(NodeId(grantee_of(what)), now)
    else:
        issued = DataDirectory.read_issued(face.directory) if len(what) >= SHORTEST_ID else []
        raws = [raw for raw in issued if mark_of_grant(raw).hex().startswith(what.lower())]
    if len(raws) != 1:
        raise ConfigError(
            f"{what[:40]!r} is neither a key nor {'one grant only' if raws else 'a grant that was signed here'}; "
            "see: titan grants"
        )
    value = chain(raws[0], claimed_pool(raws[0]))[-1].value
    return grant_entry(raws[0], value)


async def _some_nodes(pool: "Pool") -> list[str]:
    return await pool.nearest(f"~{pool.id}/revocations", NODES_ASKED)


async def _latest(face: Face, pool: "Pool", nodes: list[str], signer: Grantor) -> "RevocationList | None":
    """The newest list of this grantor, of those kept here and those that the nodes know."""
    from titan_overlay.pool.orders import News, Rules
    from titan_overlay.storage.directory import DataDirectory

    answers = await pool.multicast(nodes, Rules(-1, {}))
    raws = [raw for answer in answers.values() if isinstance(answer, News) for raw in answer.lists]
    lists = [_read_list(raw) for raw in (*DataDirectory.read_revocations(face.directory), *raws)]
    mine = [each.value for each in lists if each and each.public == signer.key.public and _holds(each.raw, signer)]
    return max(mine, key=lambda each: each.number, default=None)


def _holds(raw: bytes, signer: Grantor) -> bool:
    from titan_overlay.errors import BadMessage
    from titan_overlay.identity.records import check
    from titan_overlay.identity.revocations import RevocationList

    try:
        check(raw, RevocationList, signer.pool)
    except BadMessage:
        return False
    return True


async def _tell(pool: "Pool", nodes: list[str], raw: bytes) -> int:
    """How many nodes know it now."""
    from titan_overlay.pool.orders import Learn, News

    answers = await pool.multicast(nodes, Learn(News(b"", [raw])))
    return sum(isinstance(answer, int) for answer in answers.values())
