"""The Titan orchestrator's protocol: frames, jobs, and what each opcode means; then all of it on real sockets."""

import asyncio
import base64
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

import titan_overlay as titan
from titan_objects.dag.classic.desk import Desk, Failed
from titan_objects.dag.classic.gateway import Gateway, gateway, read_token
from titan_objects.dag.classic.jobs import TITLE, split, submission, task_id
from titan_objects.dag.classic.opcodes import AUTH, OPCODES, table
from titan_objects.dag.classic.wire import BODY_BYTES_MAX, BadFrame, Decoder, Frame, encode
from titan_objects.dag.queue import RunInfo, Runs
from titan_objects.dag.views import RunView, TaskView
from titan_objects.doors import door

B64 = base64.b64encode(b"print(1)\n").decode()


# --- frames -----------------------------------------------------------------------------------------------------


def decoded(data: bytes, piece: int) -> list[Frame | BadFrame]:
    decoder, found = Decoder(), []
    for at in range(0, len(data), piece):
        decoder.feed(data[at : at + piece])
        while (frame := decoder.next()) is not None:
            found.append(frame)
    return found


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_frames_are_read_however_they_are_cut(piece: int) -> None:
    frames = [Frame(0x04, "ä|ö".encode()), Frame(0x09, b""), Frame(0x60, b"x" * 300)]
    assert decoded(b"".join(encode(each.opcode, each.body) for each in frames), piece) == frames


def test_what_is_no_frame_ends_it_and_is_not_kept() -> None:
    for head, says in (
        (b"\x02\x09\0\0\0\0\0\0", "version 2"),
        (struct.pack(">BBBBI", 1, 9, 0, 0, BODY_BYTES_MAX + 1), "most"),
    ):
        good = encode(0x09, b"")
        first, last = decoded(good + head + good, 1000)
        assert first == Frame(0x09, b"") and isinstance(last, BadFrame) and says in last.why
    with pytest.raises(ValueError, match="the most"):
        encode(0x50, bytes(BODY_BYTES_MAX + 1))


# --- jobs -------------------------------------------------------------------------------------------------------


def test_the_job_of_the_sdk_is_a_task() -> None:
    made = submission(
        f"p|RUN_PAYLOAD|a.py||{B64}|GENERAL|1|0|[] ; q|RUN_PAYLOAD|/tmp/2-b.py|-x 'a; b'|{B64}|GENERAL|1|0|[p];"
        f"x|RUN_PAYLOAD|a.py|1 2|{base64.b64encode(b'print(2)').decode()}|GPU|5|100|[p, q]|AFFINITY"
    )
    p, q, x = made.definition.tasks
    assert [p.id, q.id, x.id, q.needs, x.needs] == ["DAG-p", "DAG-q", "DAG-x", ["DAG-p"], ["DAG-p", "DAG-q"]]
    assert q.run == ["python", "classic_scripts/_2_b.py", "-x", "a; b"]
    assert x.run == ["python", "classic_scripts/a_2.py", "1", "2"]
    assert (x.requires.labels, x.priority, x.delay, x.affinity) == ({"gpu": "1"}, 5, 0.1, "DAG-p")
    assert x.retry.max_attempts == 3
    assert {name: len(data) for name, data in made.files.items()} == {
        "classic_scripts/__init__.py": 0,
        "classic_scripts/a.py": 9,
        "classic_scripts/_2_b.py": 9,
        "classic_scripts/a_2.py": 8,
    }


def test_a_single_job_may_be_without_an_id_and_without_what_is_usual() -> None:
    for body, id in (
        (f"RUN_PAYLOAD|a.py|{B64}", "DAG-JOB-1"),
        (f"RUN_PAYLOAD|a.py|{B64}|GPU", "DAG-JOB-1"),
        (f"RUN_PAYLOAD|a.py|1 2|{B64}|GPU", "DAG-JOB-1"),
        (f"x|RUN_PAYLOAD|a.py|1 2|{B64}|GPU|5|100|[]", "DAG-x"),
    ):
        (task,) = submission(body, "JOB-1").definition.tasks
        assert task.id == id
        assert task.requires.labels == ({"gpu": "1"} if "GPU" in body else {})
        assert task.run == ["python", "classic_scripts/a.py", *(["1", "2"] if "1 2" in body else [])]


def test_a_job_that_is_deployed_is_a_service() -> None:
    made = submission(f"db|DEPLOY_PAYLOAD|a.py|{B64}|7000|GENERAL|1|0|[]; x|RUN_PAYLOAD|a.py||{B64}|GENERAL|1|0|[db]")
    db, x = made.definition.tasks
    assert db.type == "service" and db.service is not None and db.service.port == 7000 and x.needs == ["DAG-db"]


def test_jobs_are_told_apart_although_arguments_hold_their_separator() -> None:
    assert list(split("a|x|[];b|y;z|[] ; c|w|[a]|STICKY;  ;")) == ["a|x|[]", "b|y;z|[]", "c|w|[a]|STICKY"]
    assert list(split("")) == list(split(" ; ; ")) == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "one job at least"),
        ("x", "job 'x': '' is not done here"),
        ("x|RUN_ARCHIVE|p.zip/a.py||GENERAL|1|0|[]", "'RUN_ARCHIVE' is not done here"),
        (f"x|RUN_PAYLOAD|a.sh||{B64}|GENERAL|1|0|[]", "a script is a Python file"),
        ("x|RUN_PAYLOAD|a.py||???|GENERAL|1|0|[]", "job 'x': its script is no base64"),
        (f"x|RUN_PAYLOAD|a.py|'|{B64}|GENERAL|1|0|[]", "cannot be split into words"),
        (f"x|RUN_PAYLOAD|a.py||{B64}|GENERAL|high|0|[]", "its priority is a whole number, not 'high'"),
        (f"x|RUN_PAYLOAD|a.py||{B64}|GENERAL|more|1|0|[]", "has 2 to 4 fields, not 5"),
        (f"x|RUN_PAYLOAD|a.py||{B64}|GENERAL|1|0|[y]", "depends on 'DAG-y'"),
        (f"x|DEPLOY_PAYLOAD|a.py|{B64}|70000|GENERAL|1|0|[]", "a port of 1 to 65535, not 70000"),
        (f"x|DEPLOY_PAYLOAD|a.py|{B64}|-3|GENERAL|1|0|[]", "a port of 1 to 65535, not -3"),
        (f"{'x' * 200}|RUN_PAYLOAD|a.py||{B64}|GENERAL|1|0|[]", "1 to 106 characters"),
        ("; ".join(f"x|RUN_PAYLOAD|a.py||{B64}|GENERAL|1|0|[]" for _ in "12"), "two jobs are called 'x'"),
        (
            f"x|RUN_PAYLOAD|a.py||{B64}|GENERAL|1|0|[y];y|RUN_PAYLOAD|a.py||{B64}|GENERAL|1|0|[x]",
            "waits for itself: DAG-x -> DAG-y -> DAG-x",
        ),
    ],
)
def test_a_job_that_makes_no_sense_is_named(body: str, says: str) -> None:
    with pytest.raises(titan.BadMessage, match=says.replace("?", r"\?")):
        submission(body)


def test_a_job_has_one_task_however_it_is_called() -> None:
    assert task_id("x") == task_id("DAG-x") == task_id(" DAG-x ") == "DAG-x"
    assert task_id("my job.1") == "DAG-my_job_1"
    with pytest.raises(titan.BadMessage, match="the id of a job"):
        task_id("")


# --- opcodes ----------------------------------------------------------------------------------------------------


def test_what_the_table_calls_answered_is_answered() -> None:
    answered = {opcode for opcode, meaning in OPCODES.items() if meaning.answered}
    assert Desk(cast(Any, None), "dag").opcodes == answered - {AUTH}
    assert all(meaning.text for meaning in OPCODES.values())
    shown = table()
    for opcode in OPCODES:
        assert f"`0x{opcode:02X}` |" in shown
    assert "| `0x0E` to `0x10` | | | error `UNKNOWN_OPCODE`" in shown and "`0x5E`" in shown


class Echo:
    """A desk that says what it was asked."""

    async def answer(self, opcode: int, body: str) -> str:
        match body:
            case "fail":
                raise Failed("ERROR_NOT_FOUND")
            case "titan":
                raise titan.Unavailable("nobody is there")
            case "large":
                return "x" * (BODY_BYTES_MAX + 1)
        return f"{opcode} {body}"


@asynccontextmanager
async def served(token: str = "", most: int = 9) -> AsyncIterator[tuple[str, int]]:
    made = Gateway(cast(Any, Echo()), token)
    async with door(made.converse, "it", "127.0.0.1", 0, most=most, full=encode(0x51, b"full")) as bound:
        yield bound


async def exchange(bound: tuple[str, int], *sent: bytes) -> bytes:
    """What is answered until the other side closes, or all is answered and this one does."""
    reader, writer = await asyncio.open_connection(*bound)
    writer.writelines(sent)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_requests_are_answered_on_real_sockets_and_what_is_no_frame_ends_the_connection() -> None:
    async with served() as bound:
        assert await exchange(bound, encode(0x55, "ä".encode()), encode(0x09, b"x")) == (
            encode(0x50, "85 ä".encode()) + encode(0x50, b"9 x")
        )
        for request, reply in (
            (encode(0x10, b""), b"UNKNOWN_OPCODE: 16"),
            (encode(0x64, b""), b"UNKNOWN_OPCODE: 100"),
            (encode(0x55, b"\xff"), b"ERROR: the body is no UTF-8"),
            (encode(0x55, b"fail"), b"ERROR_NOT_FOUND"),
            (encode(0x55, b"titan"), b"ERROR: nobody is there"),
            (encode(0x55, b"large"), b"ERROR: a body of 10485761 bytes; 10485760 are the most"),
        ):
            assert await exchange(bound, request, encode(0x09, b"x")) == encode(0x51, reply) + encode(0x50, b"9 x")
        refused = await exchange(bound, encode(0x02, b"8081||GPU||true"))
        assert refused[1] == 0x51 and b"REGISTER is refused: workers of the orchestrator" in refused
        good = encode(0x09, b"x")
        for bad, says in ((b"\x02" + good[1:], b"version 2"), (b"\x01\x09\0\0\xff\xff\xff\xff", b"4294967295 bytes")):
            answer = await exchange(bound, good, bad, good)
            assert answer.startswith(encode(0x50, b"9 x")) and says in answer and answer.count(b"9 x") == 1


async def test_where_a_token_is_required_nothing_is_answered_before_it_was_shown() -> None:
    token = "t" * 20
    async with served(token) as bound:
        shown = encode(AUTH, token.encode())
        assert await exchange(bound, shown, encode(0x09, b"x" * 5000)) == encode(0x50, b"OK") + encode(
            0x50, b"9 " + b"x" * 5000
        )
        for first in (encode(0x09, b"x"), encode(AUTH, b"wrong"), encode(0x09, b"x" * 5000)):
            answer = await exchange(bound, first, shown, encode(0x09, b"x"))
            assert answer[1] == 0x51 and b"9 x" not in answer


async def test_a_connection_too_many_is_told_so() -> None:
    async with served(most=1) as bound:
        reader, writer = await asyncio.open_connection(*bound)
        writer.write(encode(0x09, b"x"))
        assert await reader.readexactly(11) == encode(0x50, b"9 x")
        assert await exchange(bound, encode(0x09, b"x")) == encode(0x51, b"full")
        writer.close()


async def test_others_reach_it_with_a_token_alone(tmp_path: Path) -> None:
    with pytest.raises(titan.ConfigError, match="require a token"):
        async with gateway(cast(Any, None), "dag", host="0.0.0.0", port=0):
            pass
    file = tmp_path / "token"
    for text, says in (("short", "16 to 1024 bytes"), ("\xff" * 2000, "16 to 1024")):
        file.write_text(text)
        with pytest.raises(titan.ConfigError, match=says):
            read_token(file)
    with pytest.raises(titan.ConfigError, match="No such file"):
        read_token(tmp_path / "none")
    file.write_text("a token of some length\n")
    async with gateway(cast(Any, None), "dag", token=read_token(file), host="0.0.0.0", port=0) as (_, port):
        assert port


async def test_of_two_jobs_with_one_id_the_later_counts_although_the_earlier_answers_later() -> None:
    class Pool:
        id = "me"
        silent = True

        async def read(self, name: str, message: Any) -> Any:
            if isinstance(message, Runs):
                told = [RunInfo(f"~me/{n}", TITLE, "me", float(n)) for n in (1, 2)]
                return told[message.start :]
            if name == "~me/1" and self.silent:
                raise titan.Unavailable("its members restart")
            state = "RUNNING" if name == "~me/2" else "FAILED"
            return RunView(TITLE, state, "me", tasks=[TaskView(task_id("x"), state)])

    pool = Pool()
    desk = Desk(cast(Any, pool), "dag")
    assert await desk.answer(0x55, "x") == "RUNNING"
    pool.silent, desk._learned = False, float("-inf")
    assert await desk.answer(0x55, "x") == "RUNNING"


async def test_what_is_wrong_with_scripts_is_said_without_where_they_lie_here(monkeypatch: pytest.MonkeyPatch) -> None:
    async def submit(*_: object, code: Path, **more: object) -> None:
        raise titan.ConfigError(f"{code}: the bundle would have 600000 bytes")

    class Pool:
        def token_bytes(self, count: int) -> bytes:
            return bytes(count)

    monkeypatch.setattr("titan_objects.dag.classic.desk.submit", submit)
    with pytest.raises(titan.BadMessage, match=r"^classic_scripts: the bundle would have 600000 bytes$"):
        await Desk(cast(Any, Pool()), "dag").answer(0x03, f"RUN_PAYLOAD|a.py|{B64}")
