"""Handshake and sessions: who can make one, what is kept, what is believed."""

from hashlib import sha256
from random import Random

import pytest

from titan_overlay.buckets import Limit
from titan_overlay.identity import credentials, records
from titan_overlay.identity.grants import Right, issue
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.identity.poolrecord import PoolRecord
from titan_overlay.identity.revocations import RevocationList, key_entry
from titan_overlay.identity.rights import Rights
from titan_overlay.meters import PEERS_OF_A_SUBNET
from titan_overlay.overlay import handshake, packets, sessiontable
from titan_overlay.overlay.bodies import contact
from titan_overlay.overlay.handshake import ARRIVALS, UNSHOWN_SECONDS, Handshakes
from titan_overlay.overlay.openings import Step
from titan_overlay.overlay.sessions import HEAD, KEY_BYTES, REQUESTS, Session

POOL_KEY = SigningKey(sha256(b"pool").digest())
POOL = PoolId(POOL_KEY.public)
PRIVATE = PoolRecord(version=1, strangers=0)
A, B = ("10.0.0.1", 1111), ("10.0.0.2", 2222)


def keys() -> list[SigningKey]:
    """Sorted by id: the first is the lower."""
    return sorted((SigningKey(sha256(b"key %d" % n).digest()) for n in range(3)), key=lambda key: key.id)


LOW, MIDDLE, HIGH = keys()


NOW = 1.7e9


def party(key: SigningKey, pool: PoolId | None = POOL, rules: PoolRecord | None = None) -> Handshakes:
    record = records.sign(rules, POOL_KEY, POOL).raw if rules else b""
    made = Handshakes(key, Rights(pool, record), Random(key.public).randbytes, lambda: NOW)
    made.role = packets.SERVING
    return made


def shake(one: Handshakes, other: Handshakes, now: float = 100.0) -> tuple[Session, Session, list[bytes]]:
    """The whole handshake; returns both sessions and the four datagrams."""
    opening, new = one.begin(B, other.key.id, now)
    assert new
    hello = opening.datagram
    cookie = other.receive(hello, A, now).reply
    init = one.receive(cookie, B, now).reply
    answer = other.receive(init, A, now)
    done = one.receive(answer.reply, B, now + 0.1)
    assert done.session is not None and answer.session is not None
    return done.session, answer.session, [hello, cookie, init, answer.reply]


def turned(keys: bytes) -> bytes:
    """As the other side has them."""
    return keys[KEY_BYTES:] + keys[:KEY_BYTES]


def counter_of(datagram: bytes) -> int:
    return HEAD.unpack_from(datagram)[2]


def test_a_handshake_gives_both_sides_the_same_keys_crosswise() -> None:
    ours, theirs, _ = shake(party(LOW), party(HIGH))
    assert (ours.contact, theirs.contact) == (contact(HIGH.id, *B), contact(LOW.id, *A))
    assert ours.keys == turned(theirs.keys) != theirs.keys
    assert ours.serving and theirs.serving
    datagram = ours.seal(0, 1, b"hi")
    assert theirs.opens(datagram, counter_of(datagram))
    assert ours.timeout() == pytest.approx(0.3)  # 0.1 s + 4 x 0.05 s: measured by the handshake


def test_a_stranger_costs_the_responder_no_memory_and_gains_no_bytes() -> None:
    responder = party(HIGH)
    tables = (responder.sessions, responder.by_peer, responder.openings, responder._unconfirmed)
    for number in range(1000):
        opening, _ = party(LOW).begin(B, None, 0.0)
        step = responder.receive(opening.datagram, (f"10.9.{number // 250}.{number % 250}", 9), 0.0)
        assert 0 < len(step.reply) <= len(opening.datagram)
    assert not any(tables)


def test_a_hello_without_its_padding_is_not_answered() -> None:
    opening, _ = party(LOW).begin(B, None, 0.0)
    assert party(HIGH).receive(opening.datagram[:-1], A, 0.0).reply == b""


@pytest.mark.parametrize(
    ("address", "later", "event"),
    [(("10.0.0.9", 1111), 0.0, "bad_cookie"), (("10.0.0.1", 1112), 0.0, "bad_cookie"), (A, 31.0, "stale_cookie")],
)
def test_a_cookie_holds_for_its_address_and_half_a_minute(address: tuple[str, int], later: float, event: str) -> None:
    one, other = party(LOW), party(HIGH)
    opening, _ = one.begin(B, None, 100.0)
    init = one.receive(other.receive(opening.datagram, A, 100.0).reply, B, 100.0).reply
    step = other.receive(init, address, 100.0 + later)
    assert (step.event, step.session, step.reply) == (event, None, b"")


def test_no_bit_of_the_signed_messages_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "ARRIVALS", Limit(5.0, 1000))
    one, other = party(LOW), party(HIGH)
    opening, _ = one.begin(B, other.key.id, 100.0)
    init = one.receive(other.receive(opening.datagram, A, 100.0).reply, B, 100.0).reply
    for bit in range(0, 8 * len(init), 7):
        assert other.receive(_flipped(init, bit), A, 100.0).session is None, bit
    resp = other.receive(init, A, 100.0).reply
    for bit in range(0, 8 * len(resp), 7):
        assert one.receive(_flipped(resp, bit), B, 100.0).session is None, bit
    assert one.receive(resp, B, 100.0).session is not None


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_cookie_that_was_tampered_with_makes_no_session() -> None:
    """The COOKIE carries no signature; what it says is covered by those of INIT and RESP."""
    for bit in range(8, 8 * 127, 5):
        one, other = party(LOW), party(HIGH)
        opening, _ = one.begin(B, other.key.id, 100.0)
        cookie = _flipped(other.receive(opening.datagram, A, 100.0).reply, bit)
        init = one.receive(cookie, B, 100.0).reply
        assert not init or other.receive(init, A, 100.0).session is None, bit


def test_a_joiner_without_a_pool_learns_it_from_the_signed_answer() -> None:
    joiner = party(LOW, None)
    shake(joiner, party(HIGH))
    assert joiner.pool == POOL


def test_a_node_without_a_pool_answers_nobody() -> None:
    opening, _ = party(LOW).begin(B, None, 0.0)
    assert party(HIGH, None).receive(opening.datagram, A, 0.0).reply == b""


def test_another_pools_hello_gets_a_small_clear_answer() -> None:
    one, other = party(LOW, PoolId(MIDDLE.public)), party(HIGH)
    opening, _ = one.begin(B, None, 0.0)
    step = other.receive(opening.datagram, A, 0.0)
    assert step.event == "wrong_pool" and len(step.reply) < len(opening.datagram)
    told = one.receive(step.reply, B, 0.0)
    assert (told.opening, told.failure, told.pool) == (opening, packets.WRONG_POOL, POOL)


def credentials_of(key: SigningKey) -> bytes:
    joins = issue(POOL_KEY, POOL, key.id, Right.JOIN, now=NOW, expires=NOW + 60).raw
    return credentials.pack(b"", [joins], credentials.DATAGRAM_BYTES)


def refused(one: Handshakes, other: Handshakes) -> int:
    """Why `one`, that opens to `other`, gets no session."""
    opening, _ = one.begin(B, None, 0.0)
    step = one.receive(other.receive(opening.datagram, A, 0.0).reply, B, 0.0)
    if not step.failure:
        answer = other.receive(step.reply, A, 0.0)
        step = one.receive(answer.reply, B, 0.0)
    assert step.session is None and not one.by_peer
    return step.failure


def test_who_is_not_admitted_is_told() -> None:
    assert refused(party(LOW, rules=PRIVATE), party(HIGH, rules=PRIVATE)) == packets.NOT_ADMITTED


def test_who_has_no_right_to_be_in_a_private_pool_is_not_believed_either() -> None:
    joiner = party(LOW, rules=PRIVATE)
    joiner.credentials = credentials_of(LOW)
    assert refused(joiner, party(HIGH)) == packets.INTRUDER


def test_in_a_private_pool_both_sides_show_their_right_to_join() -> None:
    one, other = party(LOW, rules=PRIVATE), party(HIGH, rules=PRIVATE)
    one.credentials, other.credentials = credentials_of(LOW), credentials_of(HIGH)
    ours, theirs, _ = shake(one, other)
    assert (ours.credentials, theirs.credentials) == (other.credentials, one.credentials)


def test_another_keys_credentials_open_no_session() -> None:
    one, other = party(LOW, rules=PRIVATE), party(HIGH, rules=PRIVATE)
    one.credentials, other.credentials = credentials_of(MIDDLE), credentials_of(HIGH)
    assert refused(one, other) == packets.NOT_ADMITTED


def test_who_loses_the_right_to_join_loses_its_session() -> None:
    one, other = party(LOW, rules=PRIVATE), party(HIGH, rules=PRIVATE)
    one.credentials, other.credentials = credentials_of(LOW), credentials_of(HIGH)
    _, theirs, _ = shake(one, other)
    assert other.revise(0.0) == []
    taken_back = RevocationList(1, (key_entry(LOW.id, NOW),))
    other.rights.learn_list(records.sign(taken_back, POOL_KEY, POOL).raw, NOW)
    assert other.revise(0.0) == [theirs] and not other.by_peer and not other.sessions


def test_who_was_asked_for_nothing_keeps_its_session_until_the_news_can_have_reached_it() -> None:
    one, other = party(LOW), party(HIGH)
    _, theirs, _ = shake(one, other)
    other.confirm(theirs, 101.0)
    other.rights.learn_record(records.sign(PoolRecord(version=9, strangers=0), POOL_KEY, POOL).raw)
    assert other.revise(101.0) == []
    other.revise(300.0)  # hearing more gives no more time
    theirs.heard = 101.0 + UNSHOWN_SECONDS
    other.sweep(101.0 + UNSHOWN_SECONDS)
    assert other.by_peer == {LOW.id: theirs}
    other.sweep(101.1 + UNSHOWN_SECONDS)
    assert not other.by_peer and not other.sessions


HARD = PoolRecord(version=1, puzzle_bits=32)


def test_who_serves_has_solved_the_puzzle_and_who_does_not_need_not() -> None:
    assert refused(party(LOW), party(HIGH, rules=HARD)) == packets.UNSOLVED
    assert refused(party(LOW, rules=HARD), party(HIGH)) == packets.CHEAP
    client = party(LOW)
    client.role = packets.CLIENT
    shake(client, party(HIGH, rules=HARD))


def test_the_rules_of_the_pool_are_told_to_strangers_in_no_more_bytes_than_they_send() -> None:
    other = party(HIGH, rules=PRIVATE)
    ask = packets.ASK_FORM.pack(packets.ASK, packets.VERSION, b"8 bytes.").ljust(packets.ASK_BYTES, b"\0")
    step = other.receive(ask, A, 0.0)
    assert step.reply == packets.RULES_FORM.pack(packets.RULES, b"8 bytes.") + other.rights.raw_record
    assert len(step.reply) <= len(ask) and not other.sessions and not other.openings
    assert not other.receive(ask[:-1], A, 0.0).reply, "padded, or not answered"
    assert not party(HIGH).receive(ask, A, 0.0).reply, "no record, no answer"


def test_an_answer_that_was_lost_is_repeated_and_not_made_anew() -> None:
    one, other = party(LOW), party(HIGH)
    _, session, (_, _, init, resp) = shake(one, other)
    again = other.receive(init, A, 101.0)
    assert (again.reply, again.session) == (resp, None)
    assert other.by_peer[LOW.id] is session


def test_a_replayed_init_makes_nothing_and_takes_nothing() -> None:
    one, other = party(LOW), party(HIGH)
    _, theirs, (_, _, init, _) = shake(one, other)
    other.confirm(theirs, 101.0)
    for number in range(2 * int(ARRIVALS.burst)):
        step = other.receive(init, A, 102.0 + number / 1000)
        assert (step.event, step.session, step.reply) == ("replayed", None, b"")
    assert list(other.sessions.values()) == [theirs] and other.by_peer[LOW.id] is theirs
    shake(one, other, now=103.0)  # its subnet may still open sessions
    assert other.receive(init, A, 140.0).event == "stale_cookie"


def test_few_spent_cookies_are_remembered_and_not_for_longer_than_they_would_be_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handshake, "MAX_SPENT", 4)
    one, other = party(LOW), party(HIGH)
    for number in range(8):
        shake(one, other, now=100.0 + number)
    assert len(other._spent) == 4
    shake(one, other, now=150.0)
    assert len(other._spent) == 1


def test_when_both_open_at_once_the_lower_ids_init_wins() -> None:
    low, high = party(LOW), party(HIGH)
    from_low, _ = low.begin(B, HIGH.id, 100.0)
    from_high, _ = high.begin(A, LOW.id, 100.0)
    init_low = low.receive(high.receive(from_low.datagram, A, 100.0).reply, B, 100.0).reply
    init_high = high.receive(low.receive(from_high.datagram, B, 100.0).reply, A, 100.0).reply
    assert low.receive(init_high, B, 100.1).event == "crossed"
    won: Step = high.receive(init_low, A, 100.1)
    assert won.opening is from_high, "what waited for the higher's opening goes to the lower's session"
    assert low.receive(won.reply, B, 100.2).session is not None
    assert len(low.sessions) == len(high.sessions) == 1
    assert low.by_peer[HIGH.id].keys == turned(high.by_peer[LOW.id].keys)


def test_a_datagram_is_taken_once_in_any_order_within_the_window() -> None:
    ours, theirs, _ = shake(party(LOW), party(HIGH))
    sent = [ours.seal(0, number, b"x") for number in range(200)]
    order = [0, 5, 3, 5, 4, 100, 40, 36, 35, 100]  # 100 - 64 = 36 is just outside
    taken = [theirs.opens(sent[i], counter_of(sent[i])) for i in order]
    assert taken == [True, True, True, False, True, True, True, False, False, False]


def test_a_datagram_with_a_wrong_tag_moves_no_window() -> None:
    ours, theirs, _ = shake(party(LOW), party(HIGH))
    good = ours.seal(0, 1, b"x")
    forged = HEAD.pack(0x10, ours.send_id, 1 << 31, 0, 1) + b"x" + bytes(16)
    assert not theirs.opens(forged, 1 << 31)
    assert theirs.opens(good, counter_of(good))


def test_a_new_address_gets_no_more_than_it_sent_until_it_has_echoed() -> None:
    session, _, _ = shake(party(LOW), party(HIGH))
    elsewhere = ("10.7.7.7", 7)
    session.moved(elsewhere, 100)
    assert session.may_send(elsewhere, 60) and not session.may_send(elsewhere, 60)
    assert session.may_send(elsewhere, 40) and not session.may_send(elsewhere, 1)
    assert not session.proves(elsewhere, b""), "it has not been challenged yet"
    assert session.unproven is not None
    session.unproven.challenge = b"challenge"
    session.moved(elsewhere, 50)
    assert session.proves(elsewhere, b"challenge") and not session.proves(("10.8.8.8", 8), b"challenge")
    assert session.may_send(session.address, 10_000)
    assert not session.may_send(("10.8.8.8", 8), 1)


def test_timeouts_follow_the_round_trips_within_bounds() -> None:
    session, _, _ = shake(party(LOW), party(HIGH))
    for _ in range(50):
        session.measured(0.001)
    assert session.timeout() == 0.2
    for _ in range(50):
        session.measured(9.0)
    assert session.timeout() == 3.0


def test_every_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessiontable, "MAX_SESSIONS", 64)
    monkeypatch.setattr(handshake, "ARRIVALS", Limit(5.0, 1000))
    responder = party(HIGH)
    for number in range(200):
        one = party(SigningKey(sha256(b"many %d" % number).digest()))
        ours, theirs, _ = shake(one, responder)
        datagram = ours.seal(0, 1, b"")
        assert theirs.opens(datagram, counter_of(datagram))
        responder.confirm(theirs, 100.0)
        assert len(responder.sessions) <= 64 and len(responder.by_peer) <= 64
    opener = party(LOW)
    begun = [opener.begin((f"10.1.{n // 250}.{n % 250}", 1), None, 0.0) for n in range(400)]
    assert begun.count(None) == 400 - handshake.MAX_OPENINGS


def test_a_subnet_opens_only_so_many_sessions_and_leaves_others_theirs() -> None:
    responder = party(HIGH)

    def arrive(number: int, address: tuple[str, int], now: float) -> str:
        one = party(SigningKey(sha256(b"crowd %d" % number).digest()))
        opening, _ = one.begin(B, None, now)
        init = one.receive(responder.receive(opening.datagram, address, now).reply, B, now).reply
        return responder.receive(init, address, now).event

    crowd = [arrive(number, (f"5.9.1.{number % 250}", 1000 + number), 100.0) for number in range(100)]
    assert crowd.count("hasty") == 100 - int(handshake.ARRIVALS.burst)
    assert arrive(200, ("5.9.2.1", 1), 100.0) == ""
    assert arrive(201, ("5.9.1.1", 1), 110.0) == "", "it may again after a while"


def test_beginning_anew_gives_no_more_requests_and_neither_do_new_keys() -> None:
    responder = party(HIGH)
    askers = [party(SigningKey(sha256(b"again %d" % number).digest())) for number in range(6)]

    def served(number: int, now: float) -> int:
        """Requests at once in a session of its own."""
        _, session, _ = shake(askers[number], responder, now)
        responder.confirm(session, now)
        session.heard = now
        return sum(not responder.admit(session) for _ in range(int(REQUESTS.burst) + 1))

    assert [served(0, 100.0) for _ in range(3)] == [REQUESTS.burst, 0, 0]
    assert sum(served(number, 100.0) for number in range(1, 6)) == (PEERS_OF_A_SUBNET - 1) * REQUESTS.burst
    assert served(0, 101.0) == REQUESTS.rate, "what has come in since"


def test_sessions_of_the_table_outlive_those_of_strangers() -> None:
    responder = party(HIGH)
    sessions = []
    for number in range(2):
        _, theirs, _ = shake(party(SigningKey(sha256(b"idle %d" % number).digest())), responder)
        responder.confirm(theirs, 100.0)
        sessions.append(theirs)
    sessions[0].kept = True
    responder.sweep(100.0 + sessiontable.IDLE_SECONDS + 1)
    assert list(responder.sessions.values()) == [sessions[0]]
    responder.sweep(100.0 + sessiontable.KEPT_IDLE_SECONDS + 1)
    assert not responder.sessions and not responder.by_peer


def test_a_session_that_was_never_confirmed_is_forgotten() -> None:
    responder = party(HIGH)
    shake(party(LOW), responder)
    responder.sweep(100.0 + sessiontable.UNCONFIRMED_SECONDS + 1)
    assert not responder.sessions and not responder.by_peer and not responder._unconfirmed


def test_a_shunned_peer_gets_no_session_for_a_while() -> None:
    one, other = party(LOW), party(HIGH)
    _, session, _ = shake(one, other)
    other.shun(session, 100.0)
    opening, _ = one.begin(B, None, 101.0)
    init = one.receive(other.receive(opening.datagram, A, 101.0).reply, B, 101.0).reply
    assert other.receive(init, A, 101.0).event == "shunned"


def test_any_bytes_give_a_step() -> None:
    random = Random(7)
    one, other = party(LOW), party(HIGH)
    _, _, datagrams = shake(one, other)
    for _ in range(3000):
        data = bytearray(random.choice(datagrams))
        for _ in range(random.randrange(1, 5)):
            data[random.randrange(len(data))] = random.randrange(256)
        cut = bytes(data[: random.randrange(len(data) + 1)])
        assert isinstance(other.receive(cut, A, 100.0), Step)
        assert isinstance(one.receive(random.randbytes(random.randrange(400)), B, 100.0), Step)


def test_an_answer_that_is_signed_and_cannot_be_read_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who wait for the session wait on, and hear of a time-out: nobody would tell them anything else."""
    one, other = party(LOW), party(HIGH)
    opening, _ = one.begin(B, None, 100.0)
    init = one.receive(other.receive(opening.datagram, A, 100.0).reply, B, 100.0).reply
    monkeypatch.setattr(handshake, "pack_address", lambda address: b"7 bytes")
    step = one.receive(other.receive(init, A, 100.0).reply, B, 100.1)
    assert (step.event, step.session, step.opening) == ("malformed", None, None)
    assert one.openings == {opening.nonce: opening} and not one.sessions
