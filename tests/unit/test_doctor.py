"""What `titan doctor` says about the disk, and about the nodes around an object."""

import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from titan_overlay.cli import nodes
from titan_overlay.cli.doctor import _crowd, _directory, _disk, _group, _node
from titan_overlay.errors import NotFound
from titan_overlay.overlay.density import Crowd
from titan_overlay.pool.orders import NodeInfo


class Around:
    """A pool in which this crowd is around every object."""

    def __init__(self, found: Crowd | None) -> None:
        self._found = found

    async def crowd(self, name: str) -> Any:
        if self._found is None:
            raise NotFound("nobody answers")
        return self._found


async def test_nodes_that_lie_as_chance_has_it_are_no_finding() -> None:
    check = await _crowd(Around(Crowd(0.02, 7, 3.1)), "calc")  # type: ignore[arg-type]
    assert check.ok and "0.02" in check.text


async def test_a_crowd_beyond_chance_is_told_with_its_probability_and_what_to_do() -> None:
    check = await _crowd(Around(Crowd(3e-20, 20, 0.5)), "calc")  # type: ignore[arg-type]
    assert not check.ok
    assert "20 nodes" in check.text and "'calc'" in check.text and "3e-20" in check.text
    assert "min_copies" in check.help


async def test_a_look_around_that_fails_is_a_finding() -> None:
    check = await _crowd(Around(None), "calc")  # type: ignore[arg-type]
    assert not check.ok and "titan locate" in check.help


@pytest.mark.parametrize(
    ("free", "advice"),
    [(100 << 20, "titan-node --max-bytes 50MiB"), (0, "make room there: nothing more can be kept"), (9 << 30, "")],
)
def test_a_disk_with_less_room_than_is_lent_says_what_helps(
    free: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    (check,) = _disk(SimpleNamespace(directory=tmp_path), 1 << 30)  # type: ignore[arg-type]
    assert check.help == advice and check.ok is not bool(advice)


def test_a_directory_that_no_node_of_this_version_starts_on_is_a_finding(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    face: Any = SimpleNamespace(directory=tmp_path)
    for version, ok in ((0, True), (99, False)):
        database = sqlite3.connect(tmp_path / "node.db")
        database.execute(f"PRAGMA user_version = {version}")
        database.close()
        (check,) = _directory(face)
        assert check.ok is ok
    assert "newer version" in check.text and "upgrade" in check.help
    (tmp_path / "node.db").write_bytes(b"\xff" * 100)
    (check,) = _directory(face)
    assert check.ok, "a node sets it aside"


def test_a_read_only_file_system_is_not_mended_by_another_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (check,) = _directory(SimpleNamespace(directory=tmp_path))  # type: ignore[arg-type]
    assert not check.ok and "read-only file system" in check.text and "chown" not in check.help


def test_what_is_stored_already_needs_no_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "blobs" / "ab"
    place.mkdir(parents=True)
    (place / "content").write_bytes(bytes(3 << 20))
    face: Any = SimpleNamespace(directory=tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 << 20))
    (check,) = _disk(face, 4 << 20)
    assert check.ok and "may store 1.0 MiB more" in check.text
    (check,) = _disk(face, 8 << 20)
    assert check.help == "titan-node --max-bytes 4MiB", "not less than what is there"


async def test_a_node_that_serves_but_cannot_write_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    info = NodeInfo("ab" * 32, "192.0.2.1:4747", "1", {}, 1, 1, 0.0, 1.0, 0, 0, 1, True, True, 3, 4.0, "no room")

    async def ask_node(pool: Any, name: str) -> NodeInfo:
        return info

    monkeypatch.setattr(nodes, "ask_node", ask_node)
    wrong = [check async for check in _node(Around(None), "node:ab") if not check.ok]  # type: ignore[arg-type]
    assert [(check.what, check.text) for check in wrong] == [("writing", "no room")]
    assert "make room" in wrong[0].help


@pytest.mark.parametrize(
    ("health", "help"),
    [
        ("well", ""),
        ("settling", ""),
        ("degraded", "start more"),
        ("unavailable", "titan recover"),
        ("diverged", "publish it anew"),
    ],
)
async def test_a_group_that_lacks_members_is_a_finding(health: str, help: str) -> None:
    async def group(name: str, timeout: float) -> Any:
        return SimpleNamespace(health=health, says="2 of 3 members take part")

    check = await _group(SimpleNamespace(group=group), "bank")  # type: ignore[arg-type]
    assert check.ok is not bool(help) and help in check.help
    assert "'bank': 2 of 3" in check.text
