"""The state machine of a mutable object: the same at all members, each message exactly once."""

import asyncio
import json
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import titan_overlay as titan
from titan_overlay.errors import WireError
from titan_overlay.mutable import sessions
from titan_overlay.mutable.code import NewCode
from titan_overlay.mutable.declare import mutable_type
from titan_overlay.mutable.decorators import batch, mutable, readonly
from titan_overlay.mutable.engine import Entry, EntryKind
from titan_overlay.mutable.instance import OUTBOX_MAX, TIMERS_MAX, TURNS_MIN
from titan_overlay.mutable.letters import arrival
from titan_overlay.mutable.machine import Executed, Machine
from titan_overlay.mutable.requests import (
    BATCH,
    LETTER_BYTES_MAX,
    OPEN,
    PARTS_MAX,
    TEXT_MAX,
    UPGRADE,
    Batch,
    Part,
    Reply,
    Request,
)
from titan_overlay.mutable.snapshots import CHUNK_BYTES_MAX
from titan_overlay.pool.message import encode_message
from titan_overlay.wire import codec

ALICE = b"A" * 32
BOB = b"B" * 32


class Withdraw(titan.Message[int], frozen=True, namespace="bank"):
    account: str
    pence: int


class Remind(titan.Message[None], frozen=True, namespace="bank"):
    seconds: float
    account: str


@mutable("bank/*")
class Bank:
    balances: dict[str, int] = {"rent": 1000}
    seen: set[str] = set()
    draws: list[float] = []

    def withdraw(self, m: Withdraw, ctx: titan.Context) -> int:
        self.balances[m.account] = self.balances.get(m.account, 0) - m.pence
        self.seen.add(m.account)
        if self.balances[m.account] < 0:
            raise ValueError("no money")
        return self.balances[m.account]

    @readonly
    def balance(self, account: str) -> int:
        return self.balances.get(account, 0)

    def draw(self, how_many: int, ctx: titan.Context) -> list[float]:
        self.draws += [ctx.random.random() for _ in range(how_many)]
        return self.draws

    def remind(self, m: Remind, ctx: titan.Context) -> None:
        ctx.schedule(m.seconds, Withdraw(m.account, 1))
        ctx.send_later("log", f"{m.account} at {ctx.now:.0f}")


def machine(cls: type = Bank) -> Machine:
    return Machine(mutable_type(cls), cls(), "bank/main", b"o" * 32)


class Order:
    """Writes batches for machines to execute."""

    def __init__(self) -> None:
        self.height = 0
        self.session = 0
        self.sequence = 0

    def entry(self, *requests: Request, now: float = 1000.0, seed: bytes = b"seed") -> Entry:
        self.height += 1
        return Entry(self.height, 1, EntryKind.COMMANDS, codec.encode(Batch(now, seed, requests)))

    def open(self, *machines: Machine) -> None:
        entry = self.entry(opening())
        for each in machines:
            self.session = value(each.execute(entry).replies[0])

    def request(self, message: Any, *, settled: int = 0, sequence: int = 0) -> Request:
        if not sequence:
            self.sequence += 1
            sequence = self.sequence
        return Request(ALICE, self.session, sequence, settled, "", *encode_message(message))


_openings = count()


def opening(sender: bytes = ALICE) -> Request:
    """As each program makes one of its own."""
    return Request(sender, 0, 0, 0, "", OPEN, codec.encode(next(_openings)))


def once(key: str, message: Any, sender: bytes = ALICE) -> Request:
    return Request(sender, 0, 0, 0, key, *encode_message(message))


def value(reply: Reply) -> Any:
    assert not reply.failed, codec.decode(reply.body, WireError)
    return codec.decode(reply.body, Any)


def failure(reply: Reply) -> WireError:
    assert reply.failed
    return codec.decode(reply.body, WireError)


def test_messages_are_executed_in_their_order() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    done = bank.execute(order.entry(order.request(Withdraw("rent", 300)), order.request(Withdraw("rent", 200))))
    assert [value(reply) for reply in done.replies] == [700, 500]
    assert [change.number for change in done.changes] == [1, 2]


def test_each_instance_begins_with_defaults_of_its_own() -> None:
    one, other, order = machine(), machine(), Order()
    order.open(one)
    one.execute(order.entry(order.request(Withdraw("rent", 300))))
    assert other.instance.balances == {"rent": 1000}
    assert Bank.balances == {"rent": 1000}


def test_a_handler_that_raises_has_changed_nothing() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    bank.execute(order.entry(order.request(Withdraw("rent", 300)), order.request(2)))
    before = (dict(bank.instance.balances), list(bank.instance.draws))
    failed = failure(bank.execute(order.entry(order.request(Withdraw("rent", 5000)))).replies[0])
    assert (failed.code, failed.text, failed.fields["type"]) == ("remote", "no money", "ValueError")
    assert not failed.maybe_executed
    assert (bank.instance.balances, bank.instance.draws) == before
    assert bank.instance.seen == {"rent"}


class Shy(Exception):
    def __str__(self) -> str:
        raise ValueError


class Nameless(titan.RemotableError):
    """Without a code."""


@titan.error("moody.unsayable")
class Unsayable(titan.RemoteError):
    FIELDS = ("what",)

    def __init__(self, what: object) -> None:
        super().__init__("in vain")
        self.what = what


def raised(how: str) -> BaseException:
    match how:
        case "half a character":
            return ValueError(json.loads(r'"\ud800"'))
        case "no code":
            return Nameless("why")
        case "object":
            return Unsayable(object())
        case "half":
            return Unsayable("\ud800")
        case "set":
            return Unsayable({"b", "a", "c"})
    return titan.Conflict(f"{object()}" * 500)


@mutable
class Moody:
    moods: int = 0

    def upset(self, how: str) -> None:
        self.moods += 1
        if how.startswith("as "):
            raise raised(how.removeprefix("as "))
        kinds = {"exit": SystemExit, "cancel": asyncio.CancelledError, "end": GeneratorExit, "shy": Shy}
        raise kinds.get(how, ValueError)(object())


@pytest.mark.parametrize("how", ["exit", "cancel", "end", "shy"])
def test_whatever_a_handler_raises_is_an_error_for_its_sender_alone(how: str) -> None:
    moody, order = machine(Moody), Order()
    order.open(moody)
    assert failure(moody.execute(order.entry(order.request(how))).replies[0]).code == "remote"
    assert moody.instance.moods == 0


def test_what_a_handler_raised_reads_the_same_at_all_members() -> None:
    moody, order = machine(Moody), Order()
    order.open(moody)
    error = failure(moody.execute(order.entry(order.request("plainly"))).replies[0])
    assert error.text == "<object object>", "an address in memory is another one at each"


@pytest.mark.parametrize(
    ("how", "code", "text", "fields"),
    [
        ("half a character", "remote", r"\ud800", {"type": "ValueError", "correlation": ""}),
        ("no code", "Nameless", "why", {}),
        ("object", "moody.unsayable", "in vain", {}),
        ("half", "moody.unsayable", "in vain", {}),
        ("set", "moody.unsayable", "in vain", {"what": ["a", "b", "c"]}),
        ("object in a text", "conflict", ("<object object>" * 500)[:TEXT_MAX], {}),
    ],
)
def test_an_error_that_cannot_be_said_is_one_for_its_sender_and_no_end_of_all_members(
    how: str, code: str, text: str, fields: dict[str, Any]
) -> None:
    moody, order = machine(Moody), Order()
    order.open(moody)
    error = failure(moody.execute(order.entry(order.request(f"as {how}"))).replies[0])
    assert (error.code, error.text, error.fields) == (code, text, fields)
    assert moody.instance.moods == 0


def test_the_same_request_is_executed_once_and_answered_alike() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    request = order.request(Withdraw("rent", 300))
    first = bank.execute(order.entry(request))
    again = bank.execute(order.entry(request, request))
    assert [value(each) for each in again.replies] == [value(first.replies[0])] * 2 == [700, 700]
    assert not again.changes


def test_a_failure_is_remembered_too() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    request = order.request(Withdraw("rent", 5000))
    bank.execute(order.entry(request))
    bank.instance.balances["rent"] = 10_000
    assert failure(bank.execute(order.entry(request)).replies[0]).text == "no money"


def test_once_holds_across_sessions_and_for_its_sender_alone() -> None:
    bank, order = machine(), Order()
    assert value(bank.execute(order.entry(once("rent-11", Withdraw("rent", 300)))).replies[0]) == 700
    assert value(bank.execute(order.entry(once("rent-11", Withdraw("rent", 300)))).replies[0]) == 700
    assert value(bank.execute(order.entry(once("rent-11", Withdraw("rent", 300), BOB))).replies[0]) == 400


def test_the_same_once_with_another_message_is_a_conflict() -> None:
    bank, order = machine(), Order()
    bank.execute(order.entry(once("rent-11", Withdraw("rent", 300))))
    assert failure(bank.execute(order.entry(once("rent-11", Withdraw("rent", 301)))).replies[0]).code == "conflict"


def test_once_is_forgotten_after_a_day_of_agreed_time() -> None:
    bank, order = machine(), Order()
    request = once("rent-11", Withdraw("rent", 300))
    bank.execute(order.entry(request, now=1000.0))
    bank.execute(order.entry(request, now=1000.0 + sessions.ONCE_SECONDS - 1))
    assert bank.instance.balances["rent"] == 700
    bank.execute(order.entry(request, now=1000.0 + sessions.ONCE_SECONDS + 1))
    assert bank.instance.balances["rent"] == 400


def test_what_was_forgotten_is_an_error_and_not_executed_again() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    first = order.request(Withdraw("rent", 300))
    bank.execute(order.entry(first))
    bank.execute(order.entry(order.request(Withdraw("rent", 100), settled=2)))
    failed = failure(bank.execute(order.entry(first)).replies[0])
    assert failed.code == "unavailable"
    assert failed.maybe_executed
    assert bank.instance.balances["rent"] == 600


def test_a_session_that_was_never_opened_executes_nothing() -> None:
    bank, order = machine(), Order()
    failed = failure(bank.execute(order.entry(order.request(Withdraw("rent", 300)))).replies[0])
    assert failed.maybe_executed
    assert bank.instance.balances["rent"] == 1000


def test_a_session_is_of_the_user_alone_who_opened_it() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    stolen = Request(BOB, order.session, 1, 0, "", *encode_message(Withdraw("rent", 1)))
    error = failure(bank.execute(order.entry(stolen)).replies[0])
    assert error.code == "unavailable" and not error.maybe_executed
    asked = order.request(Withdraw("rent", 500))
    assert value(bank.execute(order.entry(asked)).replies[0]) == 500, "nobody took its number"
    assert bank.reply_to(asked) and bank.reply_to(msgspec.structs.replace(asked, sender=BOB)) is None
    settled = Request(BOB, order.session, 2, 1 << 40, "", *encode_message(Withdraw("rent", 1)))
    bank.execute(order.entry(settled))
    restored = machine()
    restored.restore(bank.snapshot())
    for each in (bank, restored):
        assert value(each.execute(order.entry(order.request(Withdraw("rent", 100), sequence=2))).replies[0]) == 400
        order.height -= 1


def test_idle_sessions_give_way_and_busy_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 3)
    bank, order = machine(), Order()
    numbers = [value(each) for each in bank.execute(order.entry(opening(), opening())).replies]
    assert failure(bank.execute(order.entry(opening())).replies[0]).code == "overloaded"
    later = 1000.0 + sessions.SESSION_SECONDS
    order.session = numbers[0]
    bank.execute(order.entry(order.request(Withdraw("rent", 1)), now=later - 1))
    assert value(bank.execute(order.entry(opening(), now=later + 1)).replies[0]) not in numbers
    assert not bank.execute(order.entry(order.request(Withdraw("rent", 1)), now=later + 1)).replies[0].failed
    order.session = numbers[1]
    assert failure(bank.execute(order.entry(order.request(Withdraw("rent", 1)))).replies[0]).code == "unavailable"


def test_who_brings_requests_of_another_again_uses_up_no_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 3)
    bank, order, copy = machine(), Order(), machine()
    first, second = opening(), opening()
    numbers = [value(each) for each in bank.execute(order.entry(first, second, first, second, first)).replies]
    assert numbers[2:] == [*numbers[:2], numbers[0]] and numbers[0] != numbers[1]
    copy.restore(bank.snapshot())
    again = order.entry(first)
    assert [value(each.execute(again).replies[0]) for each in (bank, copy)] == [numbers[0]] * 2
    order.session = numbers[0]
    asked = order.request(Withdraw("rent", 1))
    later = 1000.0 + sessions.SESSION_SECONDS
    replies = [bank.execute(order.entry(asked, now=now)).replies[0] for now in (1000.0, later - 1)]
    assert replies[0] == replies[1]
    news = bank.execute(order.entry(opening(), opening(), now=later + 1)).replies
    assert not {value(each) for each in news} & set(numbers), "both that were there have been idle"
    assert value(bank.execute(order.entry(first, now=2 * later)).replies[0]) not in numbers


def test_no_caller_takes_the_memory_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SESSIONS_MAX", 8)
    monkeypatch.setattr(sessions, "ONCE_MAX", 8)
    bank, order = machine(), Order()
    opened = [opening(sender) for sender in (*[ALICE] * 8, BOB, b"C" * 32)]
    told = [once(str(each), Withdraw("rent", 1)) for each in range(8)]
    told += [once("0", Withdraw("rent", 1), sender) for sender in (BOB, b"C" * 32)]
    for asked in (opened, told):
        failed = [each.failed for each in bank.execute(order.entry(*asked)).replies]
        assert failed == [*[False] * 4, *[True] * 4, False, False]
    copy = machine()
    copy.restore(bank.snapshot())
    again = order.entry(once("4", Withdraw("rent", 1)), opening(), opening(b"C" * 32))
    assert [each.failed for each in copy.execute(again).replies] == [True, True, False]
    assert bank.execute(again) is not None and bank.root() == copy.root()
    next_day = order.entry(once("4", Withdraw("rent", 1)), opening(), now=1001.0 + sessions.ONCE_SECONDS)
    assert not any(each.failed for each in copy.execute(next_day).replies)


def test_time_never_goes_back() -> None:
    bank, order = machine(), Order()
    bank.execute(order.entry(now=2000.0))
    bank.execute(order.entry(now=1000.0))
    assert bank.now == 2000.0


def test_all_members_draw_the_same_and_every_message_anew() -> None:
    one, other, order = machine(), machine(), Order()
    order.open(one, other)
    entry = order.entry(order.request(2), order.request(2))
    drawn = value(one.execute(entry).replies[1])
    assert drawn == value(other.execute(entry).replies[1])
    assert len(set(drawn)) == 4


def test_a_timer_fires_when_its_agreed_time_has_come() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    bank.execute(order.entry(order.request(Remind(60.0, "rent"))))
    assert bank.due() == 1060.0
    bank.execute(order.entry(now=1059.0))
    assert bank.instance.balances["rent"] == 1000
    done = bank.execute(order.entry(now=1060.0))
    assert bank.instance.balances["rent"] == 999
    assert [change.type for change in done.changes] == ["bank.Withdraw"]
    assert bank.due() is None


@mutable
class Restless:
    steps: int = 0

    def step(self, most: int, ctx: titan.Context) -> None:
        self.steps += 1
        if self.steps < most:
            ctx.schedule(0, most)


def test_what_a_timer_schedules_for_now_waits_for_the_next_entry() -> None:
    """Members execute an entry in one go: an object that always has a next step would never let them go on."""
    restless, order = machine(Restless), Order()
    order.open(restless)
    restless.execute(order.entry(order.request(100), order.request(100)))
    assert restless.due() == 1000.0 and restless.instance.steps == 2
    restless.execute(order.entry())
    assert restless.due() == 1000.0 and restless.instance.steps == 4, "both that were due, once"


def test_the_outbox_keeps_a_message_until_it_has_arrived() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    bank.execute(order.entry(order.request(Remind(60.0, "rent"))))
    (number, later), *_ = bank.outbox.items()
    assert (later.name, later.type) == ("log", "str")
    bank.execute(order.entry(arrival(ALICE, number)))
    assert not bank.outbox


def test_reading_takes_no_place_in_the_order_and_needs_the_declaration() -> None:
    bank = machine()
    assert codec.decode(bank.read(once("", "rent")), int) == 1000
    with pytest.raises(titan.BadMessage, match="readonly"):
        bank.read(once("", Withdraw("rent", 1)))


@mutable("counter/*")
class Counter:
    """Counts, wrongly, how often it was read: members would differ for ever."""

    reads: int = 0

    @readonly
    def read(self, fail: bool) -> int:
        self.reads += 1
        if fail:
            raise ValueError("read with care")
        return self.reads


def test_a_readonly_handler_that_sets_an_attribute_fails_and_changes_nothing() -> None:
    counter = machine(Counter)
    with pytest.raises(titan.RemoteError, match=r"read is declared @titan\.readonly, and changes reads"):
        counter.read(once("", False))
    with pytest.raises(titan.RemoteError, match="with care"):
        counter.read(once("", True))
    assert counter.instance.reads == 0


@mutable("nosy/*")
class Nosy:
    looks: int = 0

    @readonly
    def tell(self, name: str, ctx: titan.Context) -> int:
        ctx.send_later(name, "somebody looks")
        return self.looks

    @readonly
    def remind(self, seconds: float, ctx: titan.Context) -> int:
        ctx.schedule(seconds, "look again")
        return self.looks


@pytest.mark.parametrize("message", ["log", 60.0])
def test_a_readonly_handler_orders_no_messages_and_is_told_so(message: Any) -> None:
    nosy, order = machine(Nosy), Order()
    with pytest.raises(titan.BadMessage, match=r"declared @titan\.readonly orders no messages"):
        nosy.read(once("", message))
    order.open(nosy)
    (reply,) = nosy.execute(order.entry(order.request(message))).replies
    assert failure(reply).code == "bad-message"
    assert not nosy.outbox and not nosy.timers


def test_garbage_in_the_order_is_skipped_by_all() -> None:
    bank = machine()
    assert bank.execute(Entry(1, 1, EntryKind.COMMANDS, b"\xc1garbage")) == Executed((), [], [])
    assert bank.execute(Entry(2, 1, EntryKind.NOOP, b"")) == Executed((), [], [])
    assert bank.height == 2


def test_a_message_that_is_none_is_refused_by_name() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    bad = Request(ALICE, order.session, 1, 0, "", "bank.Withdraw", codec.encode({"account": 3}))
    unknown = Request(ALICE, order.session, 2, 0, "", "bank.Steal", codec.encode({}))
    done = bank.execute(order.entry(bad, unknown))
    assert [failure(each).code for each in done.replies] == ["bad-message"] * 2
    assert "bank.Withdraw" in failure(done.replies[1]).text


class Ratio(titan.Message[float], frozen=True, namespace="bank"):
    over: int
    under: int
    exits: bool = False

    def __post_init__(self) -> None:
        if self.exits:
            sys.exit("no more ratios")
        if self.over // self.under < 0:
            raise ValueError("negative")


@mutable("ratio/*")
class Ratios:
    last: float = 0.0

    def set(self, m: Ratio) -> float:
        self.last = m.over / m.under
        return self.last

    @readonly
    def read(self, whatever: str) -> float:
        return self.last


@pytest.mark.parametrize("fields", [{"over": 1, "under": 0}, {"over": 1, "under": 1, "exits": True}])
def test_a_message_that_raises_as_it_is_read_fails_alone(fields: dict[str, Any]) -> None:
    ratios, order = machine(Ratios), Order()
    order.open(ratios)
    assert value(ratios.execute(order.entry(order.request(Ratio(1, 2)))).replies[0]) == 0.5
    refused = Request(ALICE, 0, 0, 0, "a", "bank.Ratio", codec.encode(fields))
    done = ratios.execute(order.entry(refused, order.request(Ratio(3, 2))))
    assert failure(done.replies[0]).code == "bad-message"
    assert "this is not a bank.Ratio" in failure(done.replies[0]).text
    assert value(done.replies[1]) == 1.5


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["rent", "food"]), st.integers(0, 900), st.integers(0, 3), st.booleans()), max_size=30
    )
)
def test_a_member_restored_from_a_snapshot_is_the_same_as_one_that_was_there(steps: list[Any]) -> None:
    here, order = machine(), Order()
    order.open(here)
    there: Machine | None = None
    for account, pence, draws, snapshot in steps:
        if snapshot:
            there = machine()
            there.restore(list(here.snapshot()))
        entry = order.entry(order.request(Withdraw(account, pence)), order.request(draws), now=1000.0 + pence)
        done = here.execute(entry)
        if there is not None:
            assert there.execute(entry) == done
            assert there.root() == here.root()


def test_a_state_that_is_none_is_refused() -> None:
    for chunks in ([], [b""], [b"\xc1"], [codec.encode([1, 2])]):
        with pytest.raises(titan.BadMessage):
            machine().restore(chunks)


# ---- batches -------------------------------------------------------------------------------------------------


def many(order: Order, *messages: Any) -> Request:
    order.sequence += 1
    body = codec.encode([Part(*encode_message(each)) for each in messages])
    return Request(ALICE, order.session, order.sequence, 0, "", BATCH, body)


def parts(reply: Reply) -> list[Reply]:
    assert not reply.failed, codec.decode(reply.body, WireError)
    return codec.decode(reply.body, list[Reply])


def test_a_batch_has_one_place_and_what_fails_in_it_fails_alone() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    request = many(order, Withdraw("rent", 300), Withdraw("rent", 5000), Withdraw("rent", 200))
    done = bank.execute(order.entry(request))
    first, second, third = parts(done.replies[0])
    assert (value(first), failure(second).text, value(third)) == (700, "no money", 500)
    assert [change.number for change in done.changes] == [1, 2]
    again = bank.execute(order.entry(request))
    assert (again.replies, again.changes) == (done.replies, [])


def test_each_message_of_a_batch_draws_anew() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    drawn = value(parts(bank.execute(order.entry(many(order, 2, 2))).replies[0])[1])
    assert len(set(drawn)) == 4


def test_a_batch_that_is_none_or_has_too_many_messages_is_refused() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    nonsense = Request(ALICE, order.session, 1, 0, "", BATCH, b"\xc1")
    order.sequence = 1
    done = bank.execute(order.entry(nonsense, many(order, *["rent"] * (PARTS_MAX + 1)), many(order)))
    assert [failure(each).code for each in done.replies[:2]] == ["bad-message"] * 2
    assert parts(done.replies[2]) == []


class Put(titan.Message[int], frozen=True, namespace="shelf"):
    key: str


class Take(titan.Message[bool], frozen=True, namespace="shelf"):
    key: str


@mutable
class Shelf:
    keys: list[str] = []
    calls: list[int] = []

    @batch
    def work(self, messages: list[Put | Take], ctx: titan.Context) -> list[Any]:
        self.calls.append(len(messages))
        replies: list[Any] = []
        for each in messages:
            if isinstance(each, Put):
                self.keys.append(each.key)
                replies.append(len(self.keys))
            elif each.key in self.keys:
                self.keys.remove(each.key)
                replies.append(True)
            else:
                replies.append(titan.NotFound(f"no {each.key}"))
        if "rotten" in self.keys:
            raise ValueError("rotten")
        return replies

    def count(self, n: int) -> int:
        return n + len(self.keys)


def test_a_batch_handler_is_called_with_all_neighbours_of_its_types() -> None:
    shelf, order = machine(Shelf), Order()
    order.open(shelf)
    done = shelf.execute(
        order.entry(many(order, Put("a"), Put("b"), Take("a"), 10, Take("c")), order.request(Put("d")))
    )
    *good, bad = parts(done.replies[0])
    assert [value(each) for each in good] == [1, 2, True, 11]
    assert (failure(bad).code, failure(bad).text) == ("not-found", "no c")
    assert value(done.replies[1]) == 2
    assert shelf.instance.calls == [3, 1, 1]
    assert [change.type for change in done.changes] == ["shelf.Put", "shelf.Put", "shelf.Take", "int", "shelf.Put"]


def test_a_batch_handler_that_raises_has_changed_nothing_for_any_of_them() -> None:
    shelf, order = machine(Shelf), Order()
    order.open(shelf)
    shelf.execute(order.entry(many(order, Put("a"), Put("b"))))
    done = shelf.execute(order.entry(many(order, Put("c"), Put("rotten"), Put("d"))))
    assert [failure(each).text for each in parts(done.replies[0])] == ["rotten"] * 3
    assert (shelf.instance.keys, shelf.instance.calls, done.changes) == (["a", "b"], [2], [])


def test_a_batch_handler_that_gives_too_few_replies_has_failed() -> None:
    @mutable
    class Lazy:
        count: int = 0

        @batch
        def add(self, numbers: list[int]) -> list[int]:
            self.count += sum(numbers)
            return []

    lazy, order = machine(Lazy), Order()
    order.open(lazy)
    (reply,) = lazy.execute(order.entry(order.request(5))).replies
    assert "1 messages" in failure(reply).text
    assert lazy.instance.count == 0


def test_a_batch_handler_takes_a_list_of_messages() -> None:
    with pytest.raises(TypeError, match=r"list\[Message\]"):

        @mutable
        class _Wrong:
            @batch
            def add(self, number: int) -> int:
                return number


# ---- declaring -----------------------------------------------------------------------------------------------


def test_an_async_handler_is_refused_at_the_declaration() -> None:
    with pytest.raises(TypeError, match="plain methods"):

        @mutable
        class _Wrong:
            async def greet(self, name: str) -> str:
                return name


def test_a_state_without_a_beginning_is_refused() -> None:
    @mutable
    class Empty:
        count: int

        def add(self, n: int) -> int:
            self.count += n
            return self.count

    with pytest.raises(TypeError, match=r"Empty\.count"):
        machine(Empty)


def test_a_restored_member_walks_through_a_map_in_the_order_of_the_others() -> None:
    @mutable
    class Queue:
        waiting: dict[int, str] = {}

        def join(self, number: int) -> list[int]:
            self.waiting[number] = "x"
            return list(self.waiting)

    here, there, order = machine(Queue), machine(Queue), Order()
    order.open(here)
    here.execute(order.entry(order.request(9), order.request(3)))
    there.restore(list(here.snapshot()))
    entry = order.entry(order.request(5))
    assert value(there.execute(entry).replies[0]) == value(here.execute(entry).replies[0]) == [9, 3, 5]


class Row(msgspec.Struct):
    price: int
    tags: tuple[str, ...] = ()


class Cell(msgspec.Struct, array_like=True, tag=7):
    share: float


@mutable
class Loose:
    """Whose annotations are not true: nothing in Python minds."""

    total: int = 0
    mean: float = 0.0
    name: str | None = None
    rows: dict[str, Row] = {}
    cells: list[Cell] = []
    pairs: list[tuple[int, str]] = []

    def fill(self, price: float) -> float:
        self.total += price  # type: ignore[assignment]
        self.mean = 0
        self.name = 5  # type: ignore[assignment]
        self.rows = {"good": Row(1, ("a",)), "bad": Row(price, ("b", None))}  # type: ignore[arg-type]
        self.cells = [Cell(0.5), Cell(1)]
        self.pairs = [(1, "x"), (price, "y")]  # type: ignore[list-item]
        return self.total

    def again(self, _: str) -> list[Any]:
        self.total += 1
        return [self.total, self.mean, self.name, self.rows, self.cells, self.pairs]

    def wrong(self, _: bool) -> None:
        self.total = 0
        raise ValueError


def test_a_state_comes_back_as_it_was_left_whatever_its_annotations_promise() -> None:
    here, there, order = machine(Loose), machine(Loose), Order()
    order.open(here)
    here.execute(order.entry(order.request(1.5)))
    there.restore(list(here.snapshot()))
    assert there.root() == here.root()
    assert there.instance.rows["bad"] == Row(1.5, ("b", None))  # type: ignore[arg-type]
    assert there.instance.cells == [Cell(0.5), Cell(1)] and there.instance.pairs == [(1, "x"), (1.5, "y")]
    entry = order.entry(order.request(True), order.request("more"))
    done = [each.execute(entry) for each in (here, there)]
    assert done[0].replies == done[1].replies and value(done[0].replies[1])[:3] == [2.5, 0, 5]
    assert there.root() == here.root()


@mutable
class Heap:
    things: list[Any] = []
    seen: int = 0

    def put(self, how: str) -> int:
        self.seen += 1
        if how == "unkeepable":
            self.things.append(object())
        elif how == "clear":
            self.things.clear()
        elif how == "raise":
            raise ValueError
        return self.seen


def test_what_cannot_be_kept_holds_up_nothing_and_raising_changes_nothing_still() -> None:
    heap, order = machine(Heap), Order()
    order.open(heap)
    puts = ["unkeepable", *["more"] * (2 * TURNS_MIN), "raise", "more", "clear", *["more"] * 2 * TURNS_MIN]
    replies = [heap.execute(order.entry(once(f"{i}", how))).replies[0] for i, how in enumerate(puts)]
    assert [reply.failed for reply in replies] == [how == "raise" for how in puts]
    assert heap.instance.seen == len(puts) - 1
    copy = machine(Heap)
    copy.restore(list(heap.snapshot()))
    assert copy.root() == heap.root()
    assert len(heap._object._since) < 2 * TURNS_MIN, "checkpoints are taken again"


@mutable
class Absent:
    host: str
    seen: int

    def __init__(self) -> None:
        self.host, self.seen = "ann", 0

    def put(self, how: str) -> int:
        self.seen += 1
        if how == "leave":
            del self.host
        elif how == "return":
            self.host = "bob"
        elif how == "raise":
            raise ValueError
        return self.seen


def test_an_attribute_that_is_deleted_ends_nobody_and_raising_changes_nothing_still() -> None:
    absent, order = machine(Absent), Order()
    order.open(absent)
    puts = ["leave", *["more"] * 2 * TURNS_MIN, "raise", "return", "raise"]
    replies = [absent.execute(order.entry(once(f"{i}", how))).replies[0] for i, how in enumerate(puts)]
    assert [reply.failed for reply in replies] == [how == "raise" for how in puts]
    assert (absent.instance.host, absent.instance.seen) == ("bob", len(puts) - 2)


def test_a_handler_that_is_found_not_to_be_deterministic_is_not_taken_for_one_that_raises() -> None:
    tossed = iter(range(2))

    @mutable
    class Coin:
        tosses: int = 0

        def toss(self, twice: bool) -> int:
            if twice:
                raise ValueError
            if next(tossed):
                raise KeyError
            self.tosses += 1
            return self.tosses

    coin, order = machine(Coin), Order()
    order.open(coin)
    coin.execute(order.entry(order.request(False)))
    with pytest.raises(RuntimeError, match="not deterministic"):
        coin.execute(order.entry(order.request(True)))


@mutable
class Hurried:
    lost: list[str] = []

    def order(self, how_many: int, ctx: titan.Context) -> list[str]:
        for _ in range(how_many):
            try:
                ctx.send_later("log", "hello")
            except titan.Overloaded:
                self.lost.append("letter")
            try:
                ctx.schedule(3600.0, "hello")
            except titan.Overloaded:
                self.lost.append("timer")
        return self.lost

    def fail(self, _: str) -> None:
        raise ValueError


def test_a_handler_that_went_on_without_room_does_so_again_where_it_is_executed_again() -> None:
    here, order = machine(Hurried), Order()
    order.open(here)
    here.execute(order.entry(order.request(max(OUTBOX_MAX, TIMERS_MAX) - 1)))
    lost = here.execute(order.entry(order.request(2))).replies[0]
    assert value(lost) == ["letter", "timer"]
    here.execute(order.entry(order.request("fail")))
    assert here.instance.lost == ["letter", "timer"]
    for entry in (order.entry(order.request(1)), order.entry(order.request("fail"))):
        here.execute(entry)
    assert here.instance.lost == ["letter", "timer"] * 2


def test_a_class_takes_over_only_what_its_annotations_promise() -> None:
    @mutable
    class Tidy(Loose):
        total: float = 0.0  # type: ignore[assignment]

        def again(self, _: str) -> list[Any]:
            return []

    loose, order = machine(Loose), Order()
    order.open(loose)
    loose.execute(order.entry(order.request(1.5)))
    (state,) = loose._object.state()
    with pytest.raises(titan.BadMessage, match="name"):
        mutable_type(Tidy).state.decode(state, Tidy(), of_another=True)  # type: ignore[union-attr]


class Party(msgspec.Struct):
    names: set[str]


@mutable
class Desk:
    waiting: dict[str, int] = {}
    done: set[str] = set()
    rooms: dict[int, set[int]] = {}
    parties: dict[str, Party] = {}

    def join(self, name: str) -> None:
        self.waiting[name] = 1
        self.rooms[len(self.waiting) ^ 3] = {8, 0}
        self.parties[name] = Party({name, "host"})

    def take(self, _: bool) -> tuple[str, list[int], list[str]]:
        name = next(iter(self.waiting))
        self.done.add(name)
        del self.waiting[name]
        return name, list(self.rooms), list(self.parties)

    def numbers(self, first: int, ctx: titan.Context) -> set[int]:
        made = {first, 8 - first}
        ctx.send_later("log", Numbers({first, 8 - first}))
        return made


class Numbers(titan.Message[None], namespace="desk"):
    numbers: set[int]


def test_a_set_in_the_state_leaves_the_order_of_its_maps_as_it_is() -> None:
    here, there, order = machine(Desk), machine(Desk), Order()
    order.open(here)
    here.execute(order.entry(*map(order.request, ["zoe", "bob", "ann"])))
    there.restore(list(here.snapshot()))
    assert there.root() == here.root()
    entry = order.entry(order.request(True))
    assert value(here.execute(entry).replies[0]) == ["zoe", [2, 1, 0], ["zoe", "bob", "ann"]]
    there.execute(entry)
    assert there.root() == here.root() and there.reply_to(order.request(True, sequence=4)) == here.reply_to(
        order.request(True, sequence=4)
    )


def test_a_set_in_a_reply_or_a_letter_is_sorted() -> None:
    """{0, 8} and {8, 0} are equal, and are walked through in different orders: as texts are in any two processes."""
    desk, order = machine(Desk), Order()
    order.open(desk)
    done = desk.execute(order.entry(order.request(0), order.request(8)))
    assert [value(each) for each in done.replies] == [[0, 8], [0, 8]]
    assert len({each.body for each in desk.outbox.values()}) == 1


@mutable(version=1)
class CounterOne:
    count: int = 0

    def add(self, n: int) -> int:
        self.count += n
        return self.count


@mutable(version=2)
class CounterTwo:
    total: int = 0
    steps: int = 0

    def add(self, n: int) -> int:
        self.total, self.steps = self.total + n, self.steps + 1
        return self.total

    @classmethod
    def migrate(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        return {"total": fields["count"], "steps": 0}


def test_a_newer_class_takes_an_older_state_over() -> None:
    old, new, order = machine(CounterOne), machine(CounterTwo), Order()
    order.open(old)
    old.execute(order.entry(order.request(5)))
    new.restore(list(old.snapshot()))
    assert (new.instance.total, new.instance.steps) == (5, 0)
    with pytest.raises(titan.BadMessage, match="migrate"):
        old.restore(list(new.snapshot()))


def machine_that_goes_over(old: type, new: type) -> Machine:
    return Machine(mutable_type(old), old(), "bank/main", b"o" * 32, owner=ALICE, load=lambda _: mutable_type(new))


def upgrade(key: str) -> Request:
    return Request(ALICE, 0, 0, 0, key, UPGRADE, codec.encode(NewCode("New", ALICE, b"bundle")))


@pytest.mark.parametrize("made", [2**70, object(), "\ud800"], ids=["too large", "no value", "half a character"])
def test_a_migration_to_what_cannot_be_kept_changes_nothing(made: Any) -> None:
    @mutable(version=2)
    class CounterThree:
        total: Any = 0

        def add(self, n: int) -> int:
            return n

        @classmethod
        def migrate(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
            return {"total": made}

    counter, order = machine_that_goes_over(CounterOne, CounterThree), Order()
    order.open(counter)
    counter.execute(order.entry(order.request(5)))
    (reply,) = counter.execute(order.entry(upgrade("over"))).replies
    assert failure(reply).code == "bad-message" and "cannot be kept" in failure(reply).text
    assert value(counter.execute(order.entry(order.request(2))).replies[0]) == 7
    newer = machine(CounterThree)
    with pytest.raises(titan.BadMessage, match="cannot be kept"):
        newer.restore(list(counter.snapshot()))
    assert (newer.height, newer.instance.total) == (0, 0)


def test_a_migration_that_exits_changes_nothing() -> None:
    @mutable(version=2)
    class Exits:
        total: int = 0

        def add(self, n: int) -> int:
            return n

        @classmethod
        def migrate(cls, version: int, fields: dict[str, Any]) -> dict[str, Any]:
            sys.exit("not from there")

    counter, order = machine_that_goes_over(CounterOne, Exits), Order()
    order.open(counter)
    counter.execute(order.entry(order.request(5)))
    (reply,) = counter.execute(order.entry(upgrade("over"))).replies
    assert failure(reply).code == "bad-message" and "SystemExit: not from there" in failure(reply).text
    assert value(counter.execute(order.entry(order.request(2))).replies[0]) == 7


def test_a_state_that_cannot_be_kept_now_is_not_taken_over_and_goes_on() -> None:
    heap, order = machine_that_goes_over(Heap, Heap), Order()
    order.open(heap)
    heap.execute(order.entry(order.request("unkeepable")))
    (reply,) = heap.execute(order.entry(upgrade("too early"))).replies
    assert "cannot be kept" in failure(reply).text
    heap.execute(order.entry(order.request("clear")))
    assert value(heap.execute(order.entry(upgrade("then"))).replies[0]) is None
    assert value(heap.execute(order.entry(order.request("more"))).replies[0]) == 3


@mutable
class Big:
    """With snapshots of its own."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []

    def append(self, row: bytes) -> int:
        self.rows.append(row)
        return len(self.rows)

    def snapshot(self) -> Iterator[bytes]:
        yield from self.rows

    def restore(self, chunk: bytes) -> None:
        self.rows.append(chunk)


def test_a_class_may_keep_its_state_its_own_way() -> None:
    big, order = machine(Big), Order()
    order.open(big)
    big.execute(order.entry(order.request(b"one"), order.request(b"two")))
    copy = machine(Big)
    copy.restore(list(big.snapshot()))
    assert copy.instance.rows == [b"one", b"two"]
    assert copy.root() == big.root()


def test_a_machine_stays_as_it_is_until_all_of_another_state_is_there() -> None:
    big, order = machine(Big), Order()
    order.open(big)
    big.execute(order.entry(order.request(b"one"), order.request(b"two")))
    chunks = list(big.snapshot())
    big.execute(order.entry(order.request(b"three")))
    restoring = big.restoring()
    for chunk in chunks:
        restoring.add(chunk)
    assert big.instance.rows == [b"one", b"two", b"three"]
    restoring.finish()
    assert big.instance.rows == [b"one", b"two"]
    with pytest.raises(titan.BadMessage, match="empty"):
        big.restoring().finish()
    bank = machine()
    with pytest.raises(titan.BadMessage):
        bank.restore(list(bank.snapshot())[:1])
    assert bank.instance.balances == {"rent": 1000}


@mutable
class Press:
    sheets: int = 0

    def copy(self, size: int, ctx: titan.Context) -> bytes:
        self.sheets += 1
        return bytes(size)


def test_replies_that_are_kept_may_be_more_than_fits_into_one_chunk_of_a_snapshot() -> None:
    press, order = machine(Press), Order()
    order.open(press)
    for _ in range(1 + (CHUNK_BYTES_MAX >> 20)):
        press.execute(order.entry(order.request(1 << 20)))
    chunks = list(press.snapshot())
    assert max(map(len, chunks)) <= CHUNK_BYTES_MAX
    copy = machine(Press)
    copy.restore(chunks)
    assert copy.root() == press.root()
    again = order.request(1 << 20, sequence=1)
    assert len(value(copy.execute(order.entry(again)).replies[0])) == 1 << 20
    assert copy.instance.sheets == press.instance.sheets
    with pytest.raises(titan.BadMessage, match="not complete"):
        machine(Press).restore(chunks[:5])
    with pytest.raises(titan.BadMessage):
        machine(Press).restore([codec.encode(-1), *chunks[1:]])


@pytest.mark.parametrize("keyed", [False, True])
def test_the_bytes_of_replies_that_are_kept_are_bounded(keyed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "REPLY_BYTES_MAX", 4000)
    press, order = machine(Press), Order()
    order.open(press)

    def asked(settled: int = 0) -> Request:
        request = order.request(1000, settled=settled)
        return msgspec.structs.replace(request, session=0, once=f"{request.sequence}") if keyed else request

    for _ in range(2):
        assert not press.execute(order.entry(asked())).replies[0].failed
    refused = asked()
    assert failure(press.execute(order.entry(refused)).replies[0]).code == "overloaded"
    others = once("other", 1000, BOB)
    assert not press.execute(order.entry(others)).replies[0].failed, "what is left is for others"
    copy = machine(Press)
    copy.restore(press.snapshot())
    now = 1001.0 + (sessions.ONCE_SECONDS if keyed else 0.0)
    for each in (press, copy):
        assert not each.execute(order.entry(asked(settled=3), now=now)).replies[0].failed, "there is room again"
        order.height -= 1
    assert press.instance.sheets == copy.instance.sheets


def test_a_restore_that_raises_is_no_snapshot_of_that_class() -> None:
    @mutable
    class Picky(Big):
        def restore(self, chunk: bytes) -> None:
            raise KeyError(chunk)

    picky, order = machine(Picky), Order()
    order.open(picky)
    picky.execute(order.entry(order.request(b"one")))
    with pytest.raises(titan.BadMessage, match="KeyError"):
        picky.restore(list(picky.snapshot()))


def test_a_class_that_exits_where_it_takes_a_state_over_is_refused_and_ends_no_node() -> None:
    @mutable
    class Keeps(Big):
        def snapshot(self) -> Iterator[bytes]:
            yield b"the first chunk"
            sys.exit("no snapshot")

    @mutable
    class Takes(Big):
        def restore(self, chunk: bytes) -> None:
            sys.exit("no restore")

    keeps, order = machine(Keeps), Order()
    order.open(keeps)
    with pytest.raises(titan.StorageError, match=r"Keeps\.snapshot does not work: SystemExit: no snapshot"):
        list(keeps.snapshot())
    chunks = [next(keeps.snapshot()), b"the first chunk"]
    with pytest.raises(titan.BadMessage, match="SystemExit: no restore"):
        machine(Takes).restore(chunks)


def test_where_members_may_lie_more_than_can_must_say_that_a_message_has_arrived() -> None:
    bank, order = Machine(mutable_type(Bank), Bank(), "bank/main", b"o" * 32, arrivals=2), Order()
    order.open(bank)
    bank.execute(order.entry(order.request(Remind(60.0, "rent"))))
    (number,) = bank.outbox
    for _ in range(3):
        bank.execute(order.entry(arrival(b"1" * 32, number)))
    again = Machine(mutable_type(Bank), Bank(), "bank/main", b"o" * 32, arrivals=2)
    again.restore(list(bank.snapshot()))
    assert list(again.outbox) == list(bank.outbox) == [number], "a liar may say so as often as it likes"
    bank.execute(order.entry(arrival(b"2" * 32, number)))
    assert not bank.outbox


@pytest.mark.parametrize("name", ["~me/log", "no/"])
def test_a_message_whose_target_no_member_can_know_is_refused(name: str) -> None:
    class Sender:
        def tell(self, name: str, ctx: titan.Context) -> None:
            ctx.send_later(name, "hello")

    sender, order = machine(mutable(Sender)), Order()
    order.open(sender)
    (reply,) = sender.execute(order.entry(order.request(name))).replies
    assert failure(reply).code == "bad-message"
    assert not sender.outbox


def test_a_member_that_missed_an_entry_executes_nothing_more() -> None:
    bank, order = machine(), Order()
    order.open(bank)
    order.entry(order.request(Withdraw("rent", 1)))
    with pytest.raises(AssertionError, match="missed"):
        bank.execute(order.entry(order.request(Withdraw("rent", 1))))


def test_a_message_that_is_too_large_to_arrive_is_refused_while_who_sends_it_can_still_know() -> None:
    class Sender:
        def tell(self, size: int, ctx: titan.Context) -> None:
            ctx.send_later("log", bytes(size))

    sender, order = machine(mutable(Sender)), Order()
    order.open(sender)
    done = sender.execute(order.entry(order.request(LETTER_BYTES_MAX), order.request(LETTER_BYTES_MAX - 100)))
    assert failure(done.replies[0]).code == "bad-message"
    assert not done.replies[1].failed
    assert len(sender.outbox) == 1
