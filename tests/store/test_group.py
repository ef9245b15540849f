"""The store as members of a group run it: the same state from the same order, whatever else happened to a member."""

from random import Random
from typing import Any

import msgspec
import pytest

import titan_overlay as titan
from tests.store.commands_by_chance import GROUPS, commands
from tests.store.core import words
from titan_objects.store import listing
from titan_objects.store.group import scanning
from titan_objects.store.group.messages import Look, Outcome, Rest, Run, Section, Survey, Wake
from titan_objects.store.group.replicated import GroupStore
from titan_objects.store.group.sending import COMMAND_BYTES_MAX
from titan_objects.store.group.values import Kind, add_piece
from titan_objects.store.resp import decode_all
from titan_overlay.mutable.snapshots import CHUNK_BYTES_MAX
from titan_overlay.wire.frames import MAX_PAYLOAD_BYTES

START = 2_000_000_000.0


class Turn:
    """What a handler is given."""

    def __init__(self, now: float, seed: int) -> None:
        self.now = now
        self.random = Random(seed)
        self.wakes: list[float] = []
        """When it is to be woken."""

    def schedule(self, seconds: float, message: Any) -> None:
        assert isinstance(message, Wake) and seconds >= 0
        self.wakes.append(self.now + seconds)


class Member:
    """One copy of a store."""

    def __init__(self) -> None:
        self.store = GroupStore()
        self.wakes: list[float] = []

    def outcome(self, *sections: Section, now: float = START, seed: int = 1) -> Outcome:
        turn: Any = Turn(now, seed)
        outcome = self.store.run(Run(list(sections)), turn)
        self.wakes += turn.wakes
        return outcome

    def wake(self, now: float) -> None:
        """It is woken as often as it has asked for by now."""
        due = [at for at in self.wakes if at <= now]
        self.wakes = [at for at in self.wakes if at > now]
        for at in due:
            turn: Any = Turn(at, int(at))
            self.store.wake(Wake(), turn)
            self.wakes += turn.wakes

    def run(self, *sections: Section, now: float = START) -> list[list[object]]:
        return [decode_all(done.replies) for done in self.outcome(*sections, now=now).done]

    def __call__(self, *commands: str, now: float = START) -> list[object]:
        return self.run(Section([command.encode().split() for command in commands]), now=now)[0]

    def state(self) -> list[bytes]:
        return list(self.store.snapshot())

    def restored(self, chunks: list[bytes] | None = None) -> "Member":
        twin = Member()
        for chunk in self.state() if chunks is None else chunks:
            twin.store.restore(chunk)
        twin.wakes = list(self.wakes)
        return twin


@pytest.mark.parametrize(
    ("policy", "limit"),
    [
        ("noeviction", "0"),
        ("allkeys-lru", "8kb"),
        ("allkeys-lfu", "8kb"),
        ("volatile-lru", "8kb"),
        ("volatile-ttl", "8kb"),
        ("allkeys-lru", "0"),
        ("allkeys-lfu", "0"),
    ],
)
def test_a_member_restored_on_the_way_ends_as_one_that_was_always_there(
    policy: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "SMALL", 4)
    random = Random(policy)
    chosen = (*(group for group in GROUPS if group not in ("transactions", "odd")), "hashes", "field ends")
    made = iter(commands(7, 1200, chosen))
    here, there = Member(), Member()
    for member in (here, there):
        member("CONFIG SET maxmemory-policy " + policy)
    now = START
    for number in range(60):
        if number == 20:
            for member in (here, there):
                member("CONFIG SET maxmemory " + limit, now=now)
        now += random.choice((0.0, 0.001, 0.05, 2.0))
        for member in (here, there):
            member.wake(now)
        again = [b"%s %d COUNT 3" % (word, random.getrandbits(32)) for word in (b"SCAN", b"HSCAN h1", b"ZSCAN z1")]
        section = Section(
            [words(next(made)) for _ in range(20)] + [line.split() for line in again], db=random.randrange(2)
        )
        replies = [member.outcome(section, now=now, seed=number) for member in (here, there)]
        assert replies[0] == replies[1] and here.wakes == there.wakes
        if number % 15 == 7:
            there = there.restored()
        if number % 10 == 0:
            assert here.state() == there.state()
    assert here.state() == there.state()
    overview = here.store.survey(Survey())
    assert overview.keys
    assert (overview.evicted > 0) == (limit != "0")


@pytest.mark.parametrize("piece", [7, 20_000])
def test_a_snapshot_shows_one_moment_whatever_happens_while_it_is_taken(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PIECE", piece)
    member = Member()
    member(*(f"SET k{n} {n}" for n in range(3000)), *(f"RPUSH l{n} a b" for n in range(300)), "SADD s x y z")
    member("SET soon 1 PX 100", "XADD x 1-1 f v", "ZADD z 1 a", "HSET h f v", "SELECT 1", "SET other 1")
    expected = member.state()
    taking = member.store.snapshot()
    chunks = [next(iter(taking))]
    member("DEL k0 k2999 s", "SET k1 new", "RPUSH l299 c", "ZADD z 2 b", "HSET h f w", "XADD x 2-1 f w", "SET new 1")
    chunks.append(next(iter(taking)))
    member("SWAPDB 0 1", "PING", now=START + 1)
    chunks.append(next(iter(taking)))
    member("FLUSHALL", now=START + 2)
    chunks += taking
    assert chunks == expected
    assert not member.store.engine.gate, "nothing is put aside any more"
    twin = member.restored(chunks)
    assert twin("LRANGE l299 0 -1", "GET k1", "PTTL soon", "DBSIZE") == [[b"a", b"b"], b"1", 100, 3305]


def test_large_values_are_kept_in_pieces() -> None:
    member = Member()
    words = [b"m%d" % number for number in range(30_000)]
    member.run(
        Section(
            [[b"RPUSH", b"l", *words], [b"SADD", b"s", *words], [b"ZADD", b"z", *(w for m in words for w in (b"1", m))]]
        )
    )
    member("SREM s m7 m9000")
    chunks = member.state()
    assert max(map(len, chunks)) < 200_000
    assert member.restored(chunks).state() == chunks


def test_reading_leaves_no_trace_and_depends_on_no_clock() -> None:
    member = Member()
    member("SET k v", "SET soon 1 PX 1000")
    before = member.state()

    def look(*commands: str, now: float) -> list[object] | None:
        section = Section([command.encode().split() for command in commands])
        found = member.store.look(Look([section], int(now * 1000)), Turn(START, 1))  # type: ignore[arg-type]
        return None if found is None else decode_all(found[0])

    assert look("GET k", "TTL k", "PTTL soon", now=START + 0.4) == [b"v", -1, 600]
    assert look("GET k", now=START + 2) is None, "whether a key is over is agreed upon"
    assert member.state() == before
    with pytest.raises(titan.BadMessage, match=r"store\.Run"):
        look("SET k w", now=START)


@pytest.mark.parametrize("section", [Section([[]]), Section([[b"GET", b"k"]], db=16), Section([[b"GET"]], db=-1)])
def test_what_is_no_section_changes_nothing(section: Section) -> None:
    member = Member()
    with pytest.raises(titan.BadMessage):
        member.run(Section([[b"SET", b"k", b"v"]]), section)
    assert member("DBSIZE") == [0]


def test_guards_are_part_of_the_state() -> None:
    member = Member()
    watching = member.outcome(Section([[b"WATCH", b"k"]])).done[0]
    waiting = member.outcome(Section([[b"BLPOP", b"q", b"0"]])).done[0]
    assert waiting.waiting is not None
    for twin in (member, member.restored()):
        outcome = twin.outcome(Section([[b"RPUSH", b"q", b"x"], [b"SET", b"k", b"v"]]))
        assert outcome.news.touched == [waiting.waiting.guard]
        assert twin.run(Section([[b"INCR", b"n"]], atomic=True, guard=watching.guard)) == [[None]]


def test_members_let_the_same_keys_go_after_one_was_restored() -> None:
    """The list from which keys are drawn is cleared of what has gone; how it was come by must not show."""
    here = Member()
    here("CONFIG SET maxmemory-policy allkeys-random", "CONFIG SET maxmemory 100mb")
    here(*(f"SET k{number} 1" for number in range(100)))
    here(*(f"SET k{number} 2" for number in reversed(range(100))))
    there = here.restored()
    for at in range(3):
        for member in (here, there):
            member(*(f"SET gone{number} 1" for number in range(500)))
            member(*(f"DEL gone{number}" for number in range(500)))
        assert here.state() == there.state(), at
    for member in (here, there):
        member("CONFIG SET maxmemory 8kb", "SET one more")
    assert here.store.survey(Survey()).evicted > 0
    assert here.state() == there.state()
    assert here.restored().store.survey(Survey()) == here.store.survey(Survey()), "what INFO says is agreed upon, too"


@pytest.mark.parametrize("gone", ["DEL k2", "EXPIRE k2 400", "PERSIST k2", "SET k2 v", "FLUSHALL"])
def test_members_wake_at_the_same_moments_after_one_was_restored(gone: str) -> None:
    """Where a key stood that has been renewed, or is gone, must not show."""
    here = Member()
    here("SET k1 v EX 100", "SET k2 v EX 150", gone, "SET k3 v EX 200")
    there = here.restored()
    for now in (100.02, 150.02, 200.02, 400.02):
        for member in (here, there):
            member.wake(START + now)
        assert here.wakes == there.wakes and here.state() == there.state(), now
    assert not here.wakes and not here.store.engine.databases[0].expires


def test_members_let_the_same_keys_that_end_go_after_one_was_restored() -> None:
    here = Member()
    here(*(f"SET stays{number} 1" for number in range(3000)))
    here(*(f"SET {name} 1" for name in "abcdefgh"), *(f"EXPIRE {name} 1000" for name in "hgfedcba"))
    there = here.restored()
    for member in (here, there):
        member("CONFIG SET maxmemory-policy volatile-lru", "CONFIG SET maxmemory 528200")
        for turn in range(4):
            member.outcome(Section([[b"SET", b"one%d" % turn, b"more"]]), seed=turn)
    assert 0 < here.store.survey(Survey()).evicted < 8
    assert here.state() == there.state()


@pytest.mark.parametrize("made", ["SET {} v", "HSET h {} v", "ZADD z 1 {}"])
def test_a_scan_goes_on_at_any_member_and_finds_once_what_is_there_all_the_time(made: str) -> None:
    random = Random(made)
    member = Member()
    scan, gone = {"SET": ("SCAN", "DEL {}"), "HSET": ("HSCAN h", "HDEL h {}"), "ZADD": ("ZSCAN z", "ZREM z {}")}[
        made.split()[0]
    ]
    kept = {b"kept%d" % number for number in range(600)}
    member(*(made.format(name.decode()) for name in kept), *(made.format(f"old{number}") for number in range(600)))
    found: list[bytes] = []
    cursor = b"0"
    pages = 0
    while not pages or cursor != b"0":
        asked = f"{scan} {cursor.decode()} COUNT 7"
        (look,) = member.store.look(Look([Section([asked.encode().split()])], int(START * 1000)), Turn(START, 1)) or ()  # type: ignore[arg-type]
        (reply,) = member(asked)
        assert decode_all(look) == [reply] == member.restored()(asked)
        assert isinstance(reply, list)
        cursor = reply[0]
        found += reply[1] if scan == "SCAN" else reply[1][::2]
        pages += 1
        number = random.randrange(600)
        member(gone.format(f"old{number}"), made.format(f"new{number}"), gone.format(f"new{number - 5}"))
    assert pages > 80
    assert len(found) == len(set(found)) and kept <= set(found)


def test_what_helps_a_scan_is_let_go_after_a_while_or_when_all_is_removed() -> None:
    member = Member()
    engine = member.store.engine
    member(*(f"SET k{number} v" for number in range(2000)))
    assert not engine.gate
    member("SCAN 0")
    assert engine.gate
    member("GET k1", now=START + 59)
    assert engine.gate
    member("GET k1", now=START + 61)
    assert not engine.gate
    member("SCAN 0", "FLUSHALL", "SET new v", now=START + 61)
    assert member("SCAN 0", now=START + 61) == [[b"0", [b"new"]]]
    assert not engine.gate


def test_a_snapshot_keeps_how_keys_were_used_when_databases_are_exchanged_meanwhile() -> None:
    member = Member()
    member("CONFIG SET maxmemory-policy allkeys-lru", "CONFIG SET maxmemory 100mb")
    member(*(f"SET k{number} 1" for number in range(2000)))
    expected = member.state()
    taking = member.store.snapshot()
    chunks = [next(iter(taking))]
    member("SWAPDB 0 1", now=START + 5)
    member.run(Section([[b"GET", b"k1999"], [b"SET", b"k1998", b"2"]], db=1), now=START + 6)
    assert [*chunks, *taking] == expected


def test_a_set_is_restored_as_its_members_stood_and_takes_no_more_room_than_they_do() -> None:
    member = Member()
    member("SADD s a b c d", "SREM s b")
    kept = member.store.engine.databases[0].data[b"s"]
    twin = member.restored().store.engine.databases[0].data[b"s"]
    assert twin == kept and twin.order == kept.order == [b"a", b"d", b"c"]
    with pytest.raises(msgspec.ValidationError):
        add_piece(None, Kind.SET, msgspec.msgpack.encode([(b"m", 1 << 20)]))


def test_chunks_end_where_they_end_whatever_is_changed_meanwhile() -> None:
    member = Member()
    member.run(Section([[b"SET", b"k%d" % number, b"x" * 200] for number in range(1000)]))
    expected = member.state()
    taking = member.store.snapshot()
    chunks = [next(iter(taking))]
    member.run(Section([[b"APPEND", b"k%d" % number, b"y"] for number in range(0, 1000, 2)]))
    assert [*chunks, *taking] == expected


COUNTING = b"""#!lua name=counting
local calls = 0
redis.register_function('count', function(keys) calls = calls + 1; return {calls, redis.call('INCR', keys[1])} end)
redis.register_function{function_name='seen', flags={'no-writes'}, callback=function() return calls end}
"""


def test_functions_remember_nothing_and_are_part_of_the_state() -> None:
    pytest.importorskip("lupa")
    here = Member()
    assert here.run(Section([[b"FUNCTION", b"LOAD", COUNTING]])) == [[b"counting"]]
    assert here("FCALL count 1 n", "FCALL count 1 n") == [[1, 1], [1, 2]]
    there = here.restored()
    for member in (here, there):
        assert member("FCALL count 1 n", "FCALL_RO seen 0") == [[1, 3], 0]
        listed = member.store.look(Look([Section([[b"FUNCTION", b"LIST"]])], 0), Turn(START, 1))  # type: ignore[arg-type]
        assert listed is not None and b"counting" in listed[0]
    assert here.state() == there.state()
    here("FUNCTION DELETE counting")
    assert str(here.restored()("FCALL count 1 n")[0]) == "ERR Function not found"


def test_news_that_have_still_to_be_brought_are_part_of_the_state() -> None:
    member = Member()
    waiting = member.outcome(Section([[b"BLPOP", b"q", b"0"]])).done[0].waiting
    assert waiting is not None
    turn: Any = Turn(START, 1)
    assert member.store.command([["RPUSH", "q", "x"], ["PUBLISH", "news", "hello"]], turn) == [1, 0]
    twin = member.restored()
    news = [each.store.wake(Wake(), turn) for each in (member, twin)]
    assert news[0] == news[1] and news[0].touched == [waiting.guard] and len(news[0].published) == 1
    assert member.state() == twin.state()


@pytest.mark.parametrize("command", ["RPUSH k", "HSET k f", "XADD k * f", "APPEND k", "SETRANGE k 30000000", "WATCH"])
def test_no_chunk_of_a_snapshot_is_larger_than_a_group_takes(command: str) -> None:
    member = Member()
    for at in range(50):
        word = f"{at:04}" + "x" * 400_000
        member(f"{command}{at} {word}" if command == "HSET k f" else f"{command} {word}")
    chunks = member.state()
    assert max(map(len, chunks)) < CHUNK_BYTES_MAX
    assert member.restored(chunks).state() == chunks


def test_a_string_that_a_script_has_made_is_kept_however_long_it_is() -> None:
    member = Member()
    member("EVAL redis.call('RPUSH','l','a',string.rep('x',20000000));return(redis.call('SET','k','v')) 0")
    chunks = member.state()
    assert max(map(len, chunks)) < CHUNK_BYTES_MAX
    assert member.restored(chunks)("GET k", "EVAL return(#redis.call('LINDEX','l',1)) 0") == [b"v", 20_000_000]


def test_a_sub_command_that_writes_leaves_a_snapshot_as_it_was() -> None:
    member = Member()
    member(*(f"SET k{n} {n}" for n in range(3000)), *(f"XADD x{n} 1-1 f v" for n in range(3)))
    expected = member.state()
    taking = member.store.snapshot()
    chunks = [next(iter(taking))]
    member("XGROUP CREATE x2 g 0", "MULTI", "XGROUP CREATE x1 g 0", "EXEC")
    chunks += taking
    assert chunks == expected


def test_what_stands_behind_long_replies_is_left_to_be_sent_again() -> None:
    member = Member()
    member("SETRANGE big 999999 x")
    commands = [[b"GET", b"big"], [b"INCR", b"n"]] * 300
    (done,) = member.outcome(Section(commands, db=0)).done
    assert 0 < done.executed < 200 and done.parked is not None and done.waiting is None
    assert member("GET n") == [b"%d" % (done.executed // 2)]
    assert not member.store.engine.waiting.count and not member.store.engine.halted
    turn: Any = Turn(START, 1)
    assert member.store.look(Look([Section([[b"GET", b"big"]] * 300)], 0), turn) is None, "they are to be ordered"
    several = member.outcome(*(Section([[b"GET", b"big"], [b"INCR", b"n"]]) for _ in range(60))).done
    executed = [each.executed for each in several]
    assert 0 < executed.count(2) < 30 and set(executed) == {0, 2}, "and so are those of others, if there are many"
    assert all(member.store.rest(Rest(each.parked[0], 0)) for each in several if each.parked)


def test_what_scripts_publish_travels_with_what_others_are_answered() -> None:
    pytest.importorskip("lupa")
    member = Member()
    member("SETRANGE big 399999 x")
    loud = b"for i = 1, 10 do redis.call('PUBLISH', 'news', string.rep(i, 200000)) end return 1"
    outcome = member.outcome(Section([[b"GET", b"big"]]), Section([[b"EVAL", loud, b"0"]]), Section([[b"PING"]]))
    assert [each.message[:1] for each in outcome.news.published] == [b"1", b"2"], "as much as there is room for"
    assert len(msgspec.msgpack.encode(outcome)) < MAX_PAYLOAD_BYTES
    longest = Section([[b"PUBLISH", b"news", b"x" * (COMMAND_BYTES_MAX - 100)]])
    assert len(member.outcome(longest).news.published) == 1


def test_what_is_for_connections_is_refused_to_programs_and_leaves_nothing() -> None:
    member = Member()
    turn: Any = Turn(START, 1)
    replies = member.store.command([["WATCH", "k"], ["SET", "k", "v"], ["SELECT", 1], ["GET", "k"]], turn)
    assert replies[1::2] == [b"OK", b"v"] and all("is for connections" in str(each) for each in replies[::2])
    assert not member.store.engine.guards
