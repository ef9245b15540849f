"""Who may do what in one pool: `Rights`, the one place that answers. No I/O.

It knows the pool's id, the pool record and the revocations; everybody who needs an answer asks it with what a peer
has shown. Nothing is asked of anybody else: what an offline verifier risks ends when the grant does.
"""

from collections.abc import Callable, Iterable, Sequence

from titan_overlay.errors import BadMessage, ConfigError, Forbidden
from titan_overlay.identity import credentials, grants, names, records
from titan_overlay.identity.credentials import Speaker
from titan_overlay.identity.grants import CLOCK_TOLERANCE, LONGEST_SECONDS, Chain, Right, words
from titan_overlay.identity.ids import NodeId, PoolId, fingerprint, node_id, solves_puzzle
from titan_overlay.identity.poolrecord import PoolRecord, check_record
from titan_overlay.identity.records import Signed
from titan_overlay.identity.revocations import RevocationList, Revocations


class Rights:
    """The rights in one pool.

    Args:
        pool: None until it is known (trust on first use): `found` says so once.
        record: the pool record as signed, if there is one already.

    Raises:
        BadMessage: the record is not this pool's.
    """

    def __init__(self, pool: PoolId | None = None, record: bytes = b"") -> None:
        self._pool = pool
        self.revocations = Revocations()
        self.changed: list[Callable[[], None]] = []
        """Called after each change: what was allowed may be so no longer."""
        self.raw_record = b""
        """The pool record as signed; empty where none is known."""
        self._use(PoolRecord())
        if record:
            self.learn_record(record)

    def _use(self, record: PoolRecord) -> None:
        self.record = record
        self.anyone_calls = bool(record.strangers & Right.CALL)
        """Whether sending needs no grant (asked for every message)."""

    # ---- what it knows ---------------------------------------------------------------------------------------

    @property
    def pool(self) -> PoolId:
        """The pool's id. ConfigError: not known before the first contact."""
        if self._pool is None:
            raise ConfigError("this node is in no pool yet; bootstrap it first")
        return self._pool

    @property
    def known_pool(self) -> PoolId | None:
        """The pool's id, if it is known."""
        return self._pool

    def found(self, pool: PoolId) -> None:
        """It is this pool. ConfigError: it was another before."""
        if self._pool not in (None, pool):
            raise ConfigError(f"this node is in pool {self.pool.hex()[:12]}, not in {pool.hex()[:12]}")
        self._pool = pool

    def learn_record(self, raw: bytes) -> bool:
        """Acts on a pool record that is newer than the one known. Whether it was.

        Raises:
            BadMessage: the pool's key did not sign it.
        """
        signed = check_record(raw, self._pool)
        if self.raw_record and signed.value.version <= self.record.version:
            return False
        self._pool = PoolId(signed.public)
        self.raw_record = raw
        self._use(signed.value)
        self._tell()
        return True

    def learn_list(self, raw: bytes, now: float) -> bool:
        """Acts on a list of revocations that is newer than the one known. Whether it was.

        Raises:
            BadMessage, Forbidden: whoever signed it gives no rights in this pool.
        """
        grantor, claimed = records.claimed(raw, RevocationList)
        known = self.revocations.of(grantor)
        if known is not None and known.number >= claimed.number:
            return False  # whoever says so: that costs no look at the signature
        signed = records.check(raw, RevocationList, self.pool)
        links = self._way_to(signed, now)
        root = links[0].value.grantee if links else b""
        if not self.revocations.add(signed, len(links), root):
            return False
        for each in list(self.revocations):
            try:
                self._way_to(each, now)
            except Forbidden:  # taken back by this list: what it gave is void without it
                self.revocations.drop(each.public)
        self._tell()
        return True

    def _way_to(self, signed: Signed[RevocationList], now: float) -> Chain:
        """The links between the pool's key and who signed this list. Forbidden: none lead there.

        What was published by a right outlives it, and that of its grantor: so does the list that takes it back.
        """
        if signed.public == self.pool:
            return ()
        links = grants.chain(signed.value.grant, self.pool)
        last = links[-1].value
        if last.grantee != signed.signer or not last.depth:
            raise Forbidden("a list of revocations by a key that may not pass its rights on")
        if not grants.holds_at(links, now - LONGEST_SECONDS) or self.revocations.void(links):
            raise Forbidden("a list of revocations by a key whose grant was revoked, or ended long ago")
        return links

    def _tell(self) -> None:
        for changed in self.changed:
            changed()

    def anyone_may(self, right: Right) -> bool:
        """Whether a right needs no grant in this pool."""
        return self.record.strangers & right == right

    # ---- grants ----------------------------------------------------------------------------------------------

    def check_grant(self, raw: bytes, now: float) -> Chain:
        """The chain of a grant that holds now.

        Raises:
            Forbidden: it does not come from the pool's key, has ended, or was revoked. BadMessage: malformed.
        """
        links = grants.chain(raw, self.pool)
        if not grants.holds_at(links, now):
            raise Forbidden("this grant has expired; ask for a new one: titan grant KEY RIGHTS")
        if self.revocations.void(links):
            raise Forbidden("this grant was revoked; ask whoever gave it: titan grant KEY RIGHTS")
        return links

    def granted(self, raws: Iterable[bytes], who: NodeId, right: Right, name: str | None, now: float) -> bytes:
        """The first of these grants that gives `who` this right on this name, as signed; b"" where none does."""
        for raw in raws:
            try:
                links = self.check_grant(raw, now)
            except (Forbidden, BadMessage):
                continue
            if links[-1].value.grantee == who and grants.gives(links, right, name):
                return raw
        return b""

    def best(self, raws: Iterable[bytes], who: NodeId, right: Right, name: str | None, now: float) -> bytes:
        """As `granted`, of one's own grants the one that lasts longest."""
        good = [raw for raw in raws if self.granted((raw,), who, right, name, now)]
        return max(good, key=self.ends, default=b"")

    def allows(self, raws: Iterable[bytes], who: NodeId, right: Right, name: str | None, now: float) -> bool:
        """Whether `who` may: because anybody may, by a grant, or as the pool itself."""
        if self.anyone_may(right) or who == node_id(self.pool):
            return True
        return bool(self.granted(raws, who, right, name, now))

    def ends(self, raw: bytes) -> float:
        """When nobody takes this grant any more (unix seconds). BadMessage, Forbidden: it is none."""
        return grants.chain(raw, self.pool)[-1].value.expires + CLOCK_TOLERANCE

    # ---- questions -------------------------------------------------------------------------------------------

    def may_serve(self, node: NodeId) -> bool:
        """Whether this id has done the work that the pool asks of nodes."""
        return solves_puzzle(node, self.record.puzzle_bits)

    def speaker(self, shown: bytes, agent: NodeId, public: bytes, now: float) -> Speaker:
        """For whom a peer speaks, by the credentials that it shows."""
        return credentials.speaker(shown, agent, public, self.pool, now)

    def check_join(self, shown: bytes, agent: NodeId, public: bytes, now: float) -> None:
        """Whether this peer may be in the pool, by the credentials that it shows.

        Raises:
            Forbidden: names the command that helps.
        """
        if not self.record.private:
            return
        who = self.speaker(shown, agent, public, now)
        if not self.allows(who.grants, who.id, Right.JOIN, None, now):
            raise Forbidden(
                f"this pool is private, and key {fingerprint(who.public)} has no grant to join it; "
                f"{ask_for(who.public, Right.JOIN)}"
            )

    def may_publish(self, public: bytes, name: str, raw: bytes, at: float) -> bool:
        """Whether the key may publish a name, at that time, by this grant or without one."""
        kind, who = names.space(name), node_id(public)
        if public == self.pool or kind is names.Space.CONTENT:
            return True
        if kind is names.Space.OWNER and name[1:].partition("/")[0] == fingerprint(public):
            return True
        if kind is names.Space.NODE and name == names.node_name(who):
            return True
        return kind is names.Space.POOL and self.allows((raw,), who, Right.PUBLISH, name, at)

    def check_publish(self, public: bytes, name: str, raw: bytes, at: float) -> None:
        """Whether the key may publish a name, at that time. What was revoked since counts as well.

        Raises:
            Forbidden: says which name would be allowed and which command grants this one.
        """
        if self.may_publish(public, name, raw, at):
            return
        mine = name.rpartition("/")[2] if names.space(name) is names.Space.OWNER else name
        raise Forbidden(
            f"key {fingerprint(public)} may not publish {name!r}; publish it as '~me/{mine}', "
            f"or {ask_for(public, Right.PUBLISH, name)}"
        )

    def check_call(self, raws: Sequence[bytes], public: bytes, name: str, now: float, *, granted: bool) -> None:
        """Whether the key may send to the object with this name. Who may host it holds it in common with others.

        Args:
            granted: the object wants a grant of everybody, whatever strangers may do in this pool.

        Raises:
            Forbidden: names the command that helps.
        """
        ask, who = self.granted if granted else self.allows, node_id(public)
        if not (ask(raws, who, Right.CALL, name, now) or self.granted(raws, who, Right.HOST, name, now)):
            raise Forbidden(f"key {fingerprint(public)} may not send to {name!r}; {ask_for(public, Right.CALL, name)}")


def ask_for(public: bytes, right: Right, name: str = "") -> str:
    """What to tell whom a right is missing."""
    names_option = f" --names '{name}'" if name else ""
    return f"let the holder of the pool's key run: titan grant {public.hex()} {words(right)}{names_option}"
