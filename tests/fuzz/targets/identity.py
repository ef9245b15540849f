"""Who is who: names, join lines, rights, signed records, what they allow."""

from contextlib import suppress
from itertools import pairwise
from typing import Any

from tests.fuzz.target import Drawn, story, target
from tests.fuzz.world import (
    DATA_NAME,
    KEYS,
    NODES,
    NOW,
    OWN_NAME,
    OWNER,
    POOL,
    POOL_KEY,
    POOL_NAME,
    RIGHTS,
    TOKEN,
    advertisement,
    descriptor,
    granted,
    node,
    object_id,
    signed,
    tombstone,
)
from titan_overlay.cli.grant_text import decode_grant, encode_grant, grant_facts, grant_line
from titan_overlay.cli.trust import grantee_of
from titan_overlay.errors import BadMessage, ConfigError, Forbidden
from titan_overlay.identity import credentials, grants, invitations, lineage, names, records
from titan_overlay.identity.credentials import Delegate
from titan_overlay.identity.grants import Grant, JoinLine, Right
from titan_overlay.identity.ids import NodeId
from titan_overlay.identity.keys import verify_record
from titan_overlay.identity.poolrecord import PoolRecord
from titan_overlay.identity.records import Record, Signed
from titan_overlay.identity.revocations import RevocationList, grant_entry, key_entry
from titan_overlay.identity.rights import Rights
from titan_overlay.identity.statements import (
    Advertisement,
    Descriptor,
    Tombstone,
    check_clock,
    check_descriptor,
    check_tombstone,
    newer,
    tombstone_seconds,
)
from titan_overlay.pool.hosting.packing import BundleSignature
from titan_overlay.wire import codec

RECORDS: list[type[Record]] = [
    Grant,
    Delegate,
    Descriptor,
    Advertisement,
    Tombstone,
    BundleSignature,
    PoolRecord,
    RevocationList,
]


# --- text -----------------------------------------------------------------------------------------------------


@target(BadMessage, UnicodeDecodeError, seeds=lambda: [n.encode() for n in (OWN_NAME, POOL_NAME, DATA_NAME, "~me/ä")])
def name(data: bytes) -> None:
    """A name as anybody may write it."""
    names.object_id.cache_clear()  # what is remembered is not looked at again
    text = names.check(data.decode())
    assert 0 < len(data) <= names.MAX_NAME_BYTES
    assert text.isprintable() or any(not c.isprintable() for c in text), text
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in text), "a control character steers a terminal"
    full = names.resolve(text, OWNER.public)
    assert names.resolve(full, KEYS[3].public) == full, "a full name means the same to everybody"
    assert len(names.object_id(POOL, full)) == 32
    assert names.covers("*", full) and names.covers(full, full)


@target(
    ConfigError,
    UnicodeDecodeError,
    seeds=lambda: [
        str(JoinLine("example.org", 4747)).encode(),
        str(JoinLine("::1", 1, POOL, node(1), b"invitation")).encode(),
    ],
)
def join_line(data: bytes) -> None:
    """The line that leads into a pool: what it says can be said again, and nothing else was in it."""
    line = JoinLine.parse(data.decode())
    assert JoinLine.parse(str(line)) == line
    assert 0 < line.port < 65536 and line.host.isprintable() and " " not in line.host
    assert len(line.pool) in (0, 32) and len(line.node) in (0, 32)


def _asked() -> bytes:
    return lineage.begin(OWNER, POOL, object_id(), 1, node(1))


@target(BadMessage, seeds=lambda: [_asked(), lineage.extend(_asked(), NODES[1], POOL, object_id(), 1, node(2))])
def led(data: bytes) -> None:
    """By whom a holder says that it was asked: nobody else is led to by it."""
    reached = set()
    for holder in (node(1), node(2)):
        with suppress(BadMessage):
            assert lineage.path(data, OWNER.public, POOL, object_id(), 1, holder)[-1] == holder
            reached.add(holder)
    if not reached:
        raise BadMessage("it leads nowhere")
    assert len(reached) == 1


@target(ConfigError, UnicodeDecodeError, seeds=lambda: [b"publish,host", b" JOIN "])
def rights(data: bytes) -> None:
    """Rights as a person lists them."""
    assert 0 <= Right.parse(data.decode()) < 64


@target(ConfigError, UnicodeDecodeError, seeds=lambda: [encode_grant(b"grant").encode(), node(2).hex().encode()])
def grant_text(data: bytes) -> None:
    """A grant that came by mail, a key that was read out."""
    try:
        assert len(grantee_of(data.decode())) == 32
    except ConfigError:
        raw = decode_grant(data.decode())
        assert decode_grant(encode_grant(raw)) == raw


# --- records --------------------------------------------------------------------------------------------------


def _record_seeds() -> list[bytes]:
    grant = granted(Right.PUBLISH | Right.DELETE, "weather/*", depth=2)
    passed_on = grants.issue(
        OWNER, POOL, node(3), Right.PUBLISH, now=NOW, expires=NOW + 500, pattern="weather/berlin", parent=grant.raw
    )
    delegate = records.sign(Delegate(node(2), NOW + 1000), OWNER, POOL)
    taken = key_entry(OWNER.id, NOW), grant_entry(grant.raw, grant.value)
    made: list[Signed[Any]] = [
        grant,
        passed_on,
        delegate,
        descriptor(),
        descriptor(DATA_NAME),
        descriptor(POOL_NAME),
        advertisement(),
        tombstone(),
        tombstone(key=KEYS[3], token=TOKEN),
        records.sign(PoolRecord(3, 8, 0), POOL_KEY, POOL),
        records.sign(RevocationList(7, taken), POOL_KEY, POOL),
        records.sign(RevocationList(7, (key_entry(node(3), NOW),), grant.raw), OWNER, POOL),
    ]
    return [each.raw for each in made]


@target(BadMessage, Forbidden, seeds=_record_seeds)
def record(data: bytes) -> None:
    """A record as it came: at most of one kind, and no second form of it passes."""
    passed: list[Signed[Any]] = []
    for kind in RECORDS:
        try:
            passed.append(records.check(data, kind, POOL))
        except BadMessage:
            continue
    assert len(passed) < 2, "a record of one kind passed for another"
    for each in passed:
        assert each.raw == data and len(data) <= type(each.value).LIMIT
        assert records.claimed_key(data) == each.public
    _use(data)
    if not passed:
        raise BadMessage("of no kind")


def _body_seeds() -> list[bytes]:
    made = []
    for raw in _record_seeds():
        public, _, body = codec.decode(raw, tuple[bytes, bytes, bytes])
        kind = next(number for number, each in enumerate(RECORDS) if _is(raw, each))
        made.append(bytes((kind, [key.public for key in KEYS].index(public))) + body)
    return made


def _is(raw: bytes, kind: type[Record]) -> bool:
    try:
        records.check(raw, kind, POOL)
    except BadMessage:
        return False
    return True


@target(BadMessage, Forbidden, seeds=_body_seeds)
def record_body(data: bytes) -> None:
    """What a signer may have signed: two bytes choose the kind and the key, the rest is the body."""
    draw = Drawn(data)
    kind, key = RECORDS[draw.below(len(RECORDS))], KEYS[draw.below(len(KEYS))]
    raw = signed(draw.rest(), kind.LABEL, key)
    value = records.check(raw, kind, POOL)
    assert value.signer == key.id
    _use(raw)


def _use(raw: bytes) -> None:
    """All that is ever asked about a record."""
    names.object_id.cache_clear()  # what is remembered is not looked at again
    grant_line(grant_facts(raw, NOW))
    for check in (_descriptor, _tombstone, _grant, _rules):
        try:
            check(raw)
        except (BadMessage, Forbidden):
            continue


def _descriptor(raw: bytes) -> None:
    found = check_descriptor(raw, None, RIGHTS)
    assert found.value.kind != "data" or found.value.name.startswith("sha256:")
    assert newer(found, descriptor()) != newer(descriptor(), found) or found.raw == descriptor().raw
    if found.value.name.startswith("~"):
        assert found.value.name[1:33] == found.signer.hex()[:32], "a name under another's key"
    check_clock(found.value, NOW)


def _tombstone(raw: bytes) -> None:
    found = check_tombstone(raw, RIGHTS, NOW)
    buried = check_descriptor(found.value.descriptor, None, RIGHTS)
    assert NOW - 400 < found.value.expires <= NOW + tombstone_seconds(buried.value.policy) + 400
    may = found.public in (buried.public, POOL) or found.value.grant or found.value.token
    assert may, "neither the publisher, nor a grant, nor a token"


def _grant(raw: bytes) -> None:
    RIGHTS.ends(raw)
    links = grants.chain(raw, POOL)
    assert links[0].public == POOL, "nobody but the pool's key gives rights"
    for earlier, later in pairwise(links):
        assert later.signer == earlier.value.grantee and later.value.depth < earlier.value.depth
        assert not later.value.rights & ~earlier.value.rights and later.value.expires <= earlier.value.expires
    last = links[-1].value
    for right in (Right.HOST, Right.PUBLISH | Right.DELETE):
        if RIGHTS.granted([raw], NodeId(last.grantee), right, POOL_NAME, NOW):
            assert names.covers(last.pattern, POOL_NAME) and last.rights & right == right
            assert last.expires + 400 >= NOW


def _rules(raw: bytes) -> None:
    """The pool record and lists of revocations: numbered, and believed of those alone who may."""
    rights = Rights(POOL)
    try:
        if rights.learn_record(raw):
            assert records.claimed_key(raw) == POOL
    except BadMessage:
        assert not rights.raw_record
    if rights.learn_list(raw, NOW):
        assert not rights.learn_list(raw, NOW), "the same list was news twice"
        (kept,) = rights.revocations
        assert kept.public == POOL or kept.value.grant


# --- what is shown --------------------------------------------------------------------------------------------


def _credentials() -> list[bytes]:
    delegation = records.sign(Delegate(node(2), NOW + 1000), OWNER, POOL).raw
    shown = [granted(Right.JOIN).raw, granted(Right.CALL, "weather/*").raw]
    return [credentials.pack(delegation, shown, 8192), credentials.pack(b"", shown[:1], 760), b""]


@target(Forbidden, seeds=_credentials, limit=8192)
def shown(data: bytes) -> None:
    """The credentials that a peer shows in a handshake and on a link: it speaks for itself, or for who says so."""
    who = RIGHTS.speaker(data, NodeId(node(2)), KEYS[4].public, NOW)
    assert who.public in {key.public for key in KEYS} and len(who.grants) <= credentials.GRANTS_MAX
    private = Rights(POOL)
    private.learn_record(records.sign(PoolRecord(1, 0, 0), POOL_KEY, POOL).raw)
    private.check_join(data, NodeId(node(2)), KEYS[4].public, NOW)
    assert who.public == OWNER.public, "nobody else has a grant"


def _invitations() -> list[bytes]:
    seed = b"i" * 32
    made = invitations.invite(POOL_KEY, POOL, Right.JOIN | Right.HOST, seed=seed, now=NOW, expires=NOW + 1000)
    return [made, codec.encode(invitations.Invitation(b"x" * 32, granted(Right.JOIN).raw))]


@target(BadMessage, Forbidden, seeds=_invitations)
def invitation(data: bytes) -> None:
    """What a join line carries: rights for whoever has its secret, no more than it says."""
    grant = invitations.redeem(data, POOL, node(2))
    links = grants.chain(grant.raw, POOL)
    assert links[-1].value.grantee == node(2) and not links[-1].value.rights & ~links[-2].value.rights


@target(seeds=lambda: [story(b"k" * 32, b"s" * 64, b"m"), story(OWNER.public, OWNER.sign(b"message")) + b"message"])
def signature(data: bytes) -> None:
    """A key, a signature and a message of any length."""
    draw = Drawn(data)
    public, mark, message = draw.piece(), draw.piece(), draw.rest()
    if verify_record(public, mark, message):
        assert len(public) == 32 and len(mark) == 64


def _publish_seeds() -> list[bytes]:
    grant = granted(Right.PUBLISH, "weather/*").raw
    return [bytes((0,)) + story(each.encode()) + grant for each in (OWN_NAME, POOL_NAME, DATA_NAME)]


@target(BadMessage, Forbidden, UnicodeDecodeError, seeds=_publish_seeds)
def may_publish(data: bytes) -> None:
    """Who may publish which name: nobody under another's key, nobody a name of the pool without the pool's grant."""
    draw = Drawn(data)
    key, text, raw = KEYS[1 + draw.below(len(KEYS) - 1)], names.check(draw.piece().decode()), draw.rest()
    RIGHTS.check_publish(key.public, text, raw, NOW)
    space = names.space(text)
    if space is names.Space.OWNER:
        assert text[1:].startswith(key.id.hex()[:32] + "/")
    elif space is names.Space.POOL:
        assert grants.chain(raw, POOL)[-1].value.grantee == key.id
    elif space is names.Space.NODE:
        assert text == names.node_name(key.id)
    assert object_id() != names.object_id(POOL, text) or text == OWN_NAME
