"""Tasks that take more than they should, as real processes: they fork without end, or fill their disk."""

import asyncio
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

import titan_overlay as titan
from tests.net import films
from tests.net.test_dag import Notes
from titan_objects.dag import limits
from titan_objects.dag.inside import Call
from titan_objects.dag.limits import MARK, Limits, Watch, is_larger
from titan_objects.dag.node_cli import limits_of
from titan_objects.dag.processes import Failed, run_command
from titan_objects.dag.warm import Warm

TREE = "f() { [ $1 -gt 0 ] && { %s f $(($1 - 1)) & %s f $(($1 - 1)) & }; sleep 60; }; f 8"
"""Of 500 processes, each of which has two others started: as a fork bomb, but for its end."""
HIDING = 'if [ $0 -gt 0 ]; then for i in 1 2; do setsid sh -c "$CODE" $(($0 - 1)) & done; fi; sleep 60'
"""The same, each in a session of its own."""


def marked(mark: str) -> list[int]:
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                found += [int(entry.name)] * (wanted in (entry / "environ").read_bytes().split(b"\0"))
            except OSError:
                continue
    return found


async def failure(words: list[str], place: Path, taken: Limits, **env: str) -> Failed:
    watch = Watch(taken)
    mark = f"limits-{os.getpid()}-{place.name}"
    try:
        with pytest.raises(Failed) as failed:
            await run_command(words, place, mark, lambda line: None, watch, env=env)
        assert marked(mark) == []
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
        await watch.close()
    return failed.value


async def test_a_task_that_forks_and_forks_is_ended_with_all_it_has_started(tmp_path: Path) -> None:
    why = await failure(["sh", "-c", TREE.replace("%s", "")], tmp_path, Limits(processes=40))
    assert (why.failure.kind, why.failure.retryable) == ("TooManyProcesses", False)
    assert "more processes than the 40" in str(why)


async def test_it_hides_nowhere_in_sessions_of_its_own(tmp_path: Path) -> None:
    why = await failure(["sh", "-c", HIDING, "8"], tmp_path, Limits(processes=40), CODE=HIDING)
    assert why.failure.kind == "TooManyProcesses"


@pytest.mark.parametrize(
    "code",
    [
        "while :; do head -c 500000 /dev/zero >> full; done",
        'while :; do mktemp "$TMPDIR/XXXXXX"; done',
    ],
)
async def test_a_task_that_fills_its_disk_is_ended(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DISK_SECONDS", 0.05)
    why = await failure(["sh", "-c", code], tmp_path, Limits(disk=1 << 18))
    assert why.failure.kind == "TooMuchDisk"


async def test_processes_are_counted_again_although_disks_were_looked_at_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DISK_SECONDS", 3600)  # as where a look takes minutes
    looks: list[Path] = []
    monkeypatch.setattr(limits, "is_larger", lambda place, most: looks.append(place))
    watch = Watch(Limits(processes=3))
    async with asyncio.timeout(60):
        with watch.over(0, "limits-first", tmp_path):
            while not looks:
                await asyncio.sleep(0.01)
        while not any(each.done() for each in watch._looking.values()):
            await asyncio.sleep(0.01)
    code = "for i in 1 2 3 4 5; do sleep 20 & done; wait"
    with pytest.raises(Failed, match="more processes than the 3"):
        await run_command(["sh", "-c", code], tmp_path, "limits-again", lambda line: None, watch)
    await watch.close()


async def test_a_function_that_starts_too_much_is_ended_and_the_next_one_gets_a_new_process() -> None:
    watch = Watch(Limits(processes=10))
    warm = Warm(Path(films.__file__).parent, f"burst-{os.getpid()}", watch)
    with pytest.raises(Failed, match="more processes than the 10"):
        await warm.call(Call("films:burst", [30], {}), Notes())
    assert marked(f"burst-{os.getpid()}") == []
    assert await warm.call(Call("films:burst", [0], {}), Notes()) == b"\x00"
    await warm.close()
    await watch.close()


async def test_a_command_that_leaves_something_behind_ends_when_it_ends_and_so_does_what_it_left(
    tmp_path: Path,
) -> None:
    """What is left holds the pipes open, for which the status of the command does not wait."""
    async with asyncio.timeout(30):
        why = await failure(["sh", "-c", "sleep 60 & sleep 0.3; exit 3"], tmp_path, Limits())
    assert "status 3" in str(why)


@pytest.mark.parametrize("early", [False, True], ids=["while it runs", "while it is being started"])
async def test_what_nobody_finds_that_a_task_has_started_keeps_nobody_who_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    monkeypatch.setattr(limits, "_PROC", Path("nowhere"))  # as on other systems than Linux
    watch = Watch(Limits())
    code = "env -i setsid sh -c 'echo $$ > pid; exec sleep 60' & sleep 60"
    running = asyncio.create_task(run_command(["sh", "-c", code], tmp_path, "limits-free", lambda line: None, watch))
    if early:  # it has been forked then, and the loop knows of no pipe of it
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    async with asyncio.timeout(30):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            if early:
                time.sleep(0.01)
            else:
                await asyncio.sleep(0.01)
    try:
        running.cancel()
        async with asyncio.timeout(30):
            await asyncio.gather(running, return_exceptions=True)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    await watch.close()


async def test_nothing_is_left_of_a_process_that_died_between_two_calls(tmp_path: Path) -> None:
    """What it had started may live on, and holds its pipes open."""
    (tmp_path / "code.py").write_text(
        "import os, subprocess\n"
        "def start():\n"
        "    return os.getpid(), subprocess.Popen(['sleep', '60'], start_new_session=True).pid\n"
    )
    warm = Warm(tmp_path, f"test-died-{os.getpid()}", Watch())
    pid, other = msgspec.msgpack.decode(await warm.call(Call("code:start", [], {}), Notes()))
    process, reading = warm._process, warm._reading
    assert process is not None and reading is not None
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while process.returncode is None:
            await asyncio.sleep(0.01)
    again, _ = msgspec.msgpack.decode(await warm.call(Call("code:start", [], {}), Notes()))
    await warm.close()
    assert again != pid
    assert reading.done()
    assert other not in marked(f"test-died-{os.getpid()}")


async def test_who_stays_within_its_limits_is_left_alone(tmp_path: Path) -> None:
    watch = Watch(Limits(processes=40, disk=1 << 20))
    code = "for i in 1 2 3; do sleep 0.4 & done; head -c 100000 /dev/zero > some; wait"
    assert await run_command(["sh", "-c", code], tmp_path, "limits-calm", lambda line: None, watch) == 0
    await watch.close()


def test_a_directory_is_larger_by_what_is_in_it_and_links_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(bytes(100_000))
    (tmp_path / "a" / "up").symlink_to("/")
    assert is_larger(tmp_path, 100_000)
    assert not is_larger(tmp_path, 150_000)
    assert not is_larger(tmp_path / "none", 0)


def test_limits_as_an_operator_writes_them() -> None:
    assert limits_of("") == Limits()
    assert limits_of("disk=2G,processes=16") == Limits(processes=16, disk=2 << 30)
    for wrong in ("disk=much", "files=3", "processes", "disk=0"):
        with pytest.raises(titan.ConfigError, match="--worker-limits takes"):
            limits_of(wrong)
