"""Pins of pools by address: whole lines, shared by programs that run at once, bounded."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from titan_overlay.errors import StorageError
from titan_overlay.storage.known_pools import PINS_MAX, KnownPools, Pin

ONE, OTHER = b"1" * 32, b"2" * 32


@pytest.fixture
def known(tmp_path: Path) -> KnownPools:
    return KnownPools(tmp_path / "data" / "known_pools")


def test_an_address_keeps_the_pool_that_it_was_pinned_to_first(known: KnownPools) -> None:
    assert known.find("a:1") is None
    assert not known.path.parent.exists(), "looking makes nothing"
    known.add(["a:1", "b:1"], ONE)
    known.add(["a:1", "c:1"], OTHER)
    assert [known.find(each) for each in ("a:1", "b:1", "c:1")] == [
        Pin("a:1", ONE, 1),
        Pin("b:1", ONE, 2),
        Pin("c:1", OTHER, 3),
    ]
    assert known.path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_read_is_no_pin_and_spoils_no_other(known: KnownPools) -> None:
    known.path.parent.mkdir()
    known.path.write_bytes(
        b"\xff\n\na:1\na:1 zz" + b"0" * 62 + b"\na:1 ab\t\t" + b"0" * 60 + b"\nb:1 " + ONE.hex().encode()
    )
    assert known.find("a:1") is None
    assert known.find("b:1") == Pin("b:1", ONE, 6), "the line as an editor counts it"
    known.add(["a:1"], OTHER)
    assert (known.find("b:1") or Pin("", b"", 0)).pool == ONE
    assert (known.find("a:1") or Pin("", b"", 0)).pool == OTHER


def test_the_oldest_pins_go_first(known: KnownPools) -> None:
    known.add([f"a:{number}" for number in range(PINS_MAX)], ONE)
    known.add(["b:1"], OTHER)
    assert (known.find("a:0"), known.find("a:1")) == (None, Pin("a:1", ONE, 1))
    assert known.find("b:1") == Pin("b:1", OTHER, PINS_MAX)


def test_programs_that_pin_at_once_lose_nothing(known: KnownPools) -> None:
    with ThreadPoolExecutor(8) as programs:  # flock keeps open files apart, in one process too
        list(programs.map(lambda number: KnownPools(known.path).add([f"a:{number}"], ONE), range(64)))
    assert len(known.path.read_text().splitlines()) == 64
    assert all(known.find(f"a:{number}") for number in range(64))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_pins_that_cannot_be_read_are_an_error(known: KnownPools) -> None:
    known.add(["a:1"], ONE)
    known.path.chmod(0)
    with pytest.raises(StorageError, match="known_pools"):
        known.find("a:1")
