"""The data directory: one node at a time, keys whole or not there, and no help from a stale file."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from titan_overlay.ambient import Ambient
from titan_overlay.errors import StorageError
from titan_overlay.identity.grants import JoinLine
from titan_overlay.storage import directory as directory_module
from titan_overlay.storage.directory import GRANTS_MAX, DataDirectory

AMBIENT = Ambient.system()
SEED = b"seed".ljust(32)
LINE = JoinLine("192.0.2.7", 4747, b"p" * 32, b"n" * 32)

_HOLDER = """
import sys
from pathlib import Path
from titan_overlay.identity.grants import JoinLine
from titan_overlay.storage.directory import DataDirectory

held = DataDirectory(Path(sys.argv[1]))
held.write_address(JoinLine("192.0.2.7", 4747, b"p" * 32, b"n" * 32))
print("held", flush=True)
sys.stdin.read()
held.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "titan" / "data"


@pytest.fixture
def holder(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the directory."""
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


# --- one node at a time ---


def test_a_directory_in_use_is_refused_naming_the_process(path: Path, holder: "subprocess.Popen[str]") -> None:
    with pytest.raises(StorageError, match=rf"{path} is in use by process {holder.pid}.*--data DIR"):
        DataDirectory(path)


def test_programs_find_the_node_that_runs_here(path: Path, holder: "subprocess.Popen[str]") -> None:
    assert DataDirectory.in_use(path)
    assert DataDirectory.running(path) == LINE


def test_a_node_that_was_killed_leaves_nothing_in_the_way(path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (path / "address").exists()
    assert not DataDirectory.in_use(path)
    assert DataDirectory.running(path) is None
    with DataDirectory(path):
        assert not (path / "address").exists()
        assert (path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_node_that_stops_takes_its_address_away(path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.communicate("")
    assert holder.returncode == 0
    assert not (path / "address").exists()
    with DataDirectory(path):
        pass


def test_the_lock_is_let_go_and_taken_again(path: Path) -> None:
    for _ in range(3):
        held = DataDirectory(path)
        with pytest.raises(StorageError, match=f"process {os.getpid()}"):
            DataDirectory(path)
        held.close()
        held.close()


def test_programs_that_look_do_not_keep_a_node_from_starting(path: Path) -> None:
    DataDirectory(path).close()
    stop = False

    def look() -> None:
        while not stop:
            DataDirectory.running(path)

    with ThreadPoolExecutor(1) as looker:
        looking = looker.submit(look)
        try:
            for _ in range(50):
                DataDirectory(path).close()
        finally:
            stop = True
        looking.result()


def test_where_nothing_is_nobody_runs(path: Path) -> None:
    assert not DataDirectory.in_use(path)
    assert DataDirectory.running(path) is None
    assert not path.exists()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"host":"h","port":1,"pool":"zz","node":"zz"}', b"\xff"])
def test_an_address_file_that_cannot_be_read_counts_as_none(path: Path, text: bytes) -> None:
    with DataDirectory(path):
        (path / "address").write_bytes(text)
        assert DataDirectory.running(path) is None


def test_all_interfaces_are_dialled_on_this_machine(path: Path) -> None:
    with DataDirectory(path) as held:
        for listening, dialled in (("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.7", "192.0.2.7")):
            held.write_address(JoinLine(listening, 1, b"p" * 32, b"n" * 32))
            running = DataDirectory.running(path)
            assert running is not None and running.host == dialled


# --- a directory that cannot be used ---


def test_a_path_below_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(StorageError, match=r"cannot write the data directory.*--data DIR"):
            DataDirectory(path)
    with pytest.raises(StorageError, match="--data DIR"):
        DataDirectory.user_key(tmp_path / "file", AMBIENT)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match=r"cannot write.*--data DIR"):
            DataDirectory(tmp_path / "data")
        with pytest.raises(StorageError, match=r"cannot write.*--data DIR"):
            DataDirectory.user_key(tmp_path, AMBIENT)
    finally:
        tmp_path.chmod(0o700)


# --- keys ---


def test_keys_are_made_once_and_stay(path: Path) -> None:
    with DataDirectory(path) as held:
        assert held.pool_key() is None
        node, pool, client = held.node_key(SEED), held.make_pool_key(AMBIENT), held.client_key(AMBIENT)
    assert len({node.seed, pool.seed, client.seed}) == 3
    with DataDirectory(path) as again:
        assert again.node_key(b"another".ljust(32)).seed == node.seed == SEED
        assert again.make_pool_key(AMBIENT).seed == pool.seed
        found = again.pool_key()
        assert found is not None and found.seed == pool.seed
    assert DataDirectory.user_key(path, AMBIENT).seed == client.seed


def test_keys_are_for_their_owner_only(path: Path) -> None:
    with DataDirectory(path) as held:
        held.node_key(SEED)
        held.make_pool_key(AMBIENT)
        held.client_key(AMBIENT)
        held.save_grant(b"grant")
        held.write_address(LINE)
    assert path.stat().st_mode & 0o777 == 0o700
    assert {place.name: place.stat().st_mode & 0o777 for place in path.glob("*.key")} == {
        "identity.key": 0o600,
        "pool.key": 0o600,
        "client.key": 0o600,
    }


def test_a_key_that_others_could_read_is_closed_with_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = DataDirectory.user_key(path, AMBIENT)
    (path / "client.key").chmod(0o644)
    assert DataDirectory.user_key(path, AMBIENT).seed == key.seed
    assert (path / "client.key").stat().st_mode & 0o777 == 0o600
    assert "could be read by others" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"garbage", b"titan-overlay ed25519 secret key 1\n" + b"zz" * 32 + b"\n"])
def test_a_damaged_key_is_neither_used_nor_replaced(path: Path, damage: bytes) -> None:
    DataDirectory.user_key(path, AMBIENT)
    (path / "client.key").write_bytes(damage)
    with pytest.raises(StorageError, match=r"damaged.*copy"):
        DataDirectory.user_key(path, AMBIENT)
    assert (path / "client.key").read_bytes() == damage


def test_a_key_half_written_is_no_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def power_loss(*_: object) -> None:
        raise OSError(5, "power loss")

    with monkeypatch.context() as patch:
        patch.setattr(directory_module, "_link", power_loss)
        with pytest.raises(StorageError):
            DataDirectory.user_key(path, AMBIENT)
    assert not (path / "client.key").exists()
    DataDirectory.user_key(path, AMBIENT)
    assert [place.name for place in path.iterdir()] == ["client.key"]


def test_programs_that_start_at_once_agree_on_one_key(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda _: DataDirectory.user_key(path, AMBIENT).seed, range(32)))
    assert len(set(keys)) == 1


def test_a_file_system_without_hard_links_will_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    key = DataDirectory.user_key(path, AMBIENT)
    assert DataDirectory.user_key(path, AMBIENT).seed == key.seed


# --- grants ---


def test_grants_are_kept_once_each_and_forgotten_one_by_one(path: Path) -> None:
    with DataDirectory(path) as held:
        assert held.load_grants() == []
        for raw in (b"one", b"two", b"one"):
            held.save_grant(raw)
        assert sorted(held.load_grants()) == [b"one", b"two"]
        held.drop_grant(b"one")
        held.drop_grant(b"one")
    DataDirectory.add_grant(path, b"three")
    assert sorted(DataDirectory.read_grants(path)) == [b"three", b"two"]
    assert DataDirectory.read_grants(path / "nowhere") == []


def test_what_can_be_no_grant_is_left_out(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    DataDirectory.add_grant(path, b"good")
    (path / "grants" / "huge.grant").write_bytes(bytes(1 << 20))
    (path / "grants" / "empty.grant").touch()
    (path / "grants" / "directory.grant").mkdir()
    assert DataDirectory.read_grants(path) == [b"good"]
    for bad in (b"", bytes(1001)):
        with pytest.raises(StorageError, match="a grant has"):
            DataDirectory.add_grant(path, bad)


def test_there_is_an_end_to_grants(path: Path) -> None:
    for number in range(GRANTS_MAX):
        DataDirectory.add_grant(path, f"grant {number}".encode())
    with pytest.raises(StorageError, match="expired"):
        DataDirectory.add_grant(path, b"one more")
    DataDirectory.add_grant(path, b"grant 7")
