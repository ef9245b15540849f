"""Mutable objects on real nodes: processes, sockets, disks and kill -9."""

import asyncio
from pathlib import Path

import pytest

import titan_overlay as titan
from tests.net.commands import titan as run_titan
from tests.net.commands import titan_json
from tests.net.nodes import Nodes
from tests.sim.bank import Deposit, Withdraw

BANK = f"{Path(__file__).parent.with_name('sim') / 'bank.py'}:Bank"


async def test_members_that_are_killed_one_after_the_other_lose_nothing(tmp_path: Path) -> None:
    with Nodes(tmp_path, 3) as nodes:
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            await pool.publish(BANK, "bank/main")
            for turn in range(1, 31):
                if turn in (10, 20):
                    nodes.restart(nodes.ids[1])
                assert await pool.send("bank/main", Deposit("rent", 1), timeout=20) == 1000 + turn
            there = ("--bootstrap", nodes.line, "--data", "node0")
            described = await asyncio.to_thread(titan_json, "describe", "bank/main", *there, home=tmp_path)
            assert described["group"]["quorum"] == 2
            assert {each["node"] for each in described["group"]["members"]} == set(nodes.ids)
            elsewhere = ("--bootstrap", nodes.line, "--data", "elsewhere")
            checks = await asyncio.to_thread(
                titan_json, "doctor", "bank/main", *elsewhere, home=tmp_path, status=1
            )  # no node runs there
            assert ["3 members" in each["text"] for each in checks if each["what"] == "group"] == [True]
            for node in nodes.ids[1:]:
                nodes.kill(node)
            with pytest.raises((titan.Unavailable, titan.DeadlineExceeded)):
                await pool.send("bank/main", Deposit("rent", 1), timeout=7)  # by then the survivor misses them
            said = await asyncio.to_thread(run_titan, "recover", "bank/main", *there, home=tmp_path, status=2)
            assert b"WILL BE LOST" in said.stderr
            recovered = await asyncio.to_thread(titan_json, "recover", "bank/main", "--yes", *there, home=tmp_path)
            assert [each["role"] for each in recovered["members"]] == ["leader"]
            # What nobody acknowledged stood in the survivor's log, or did not: one of both, and nothing else.
            assert await pool.send("bank/main", Deposit("rent", 1), timeout=20) in (1031, 1032)


async def test_hundreds_of_messages_at_once_are_all_executed_once(tmp_path: Path) -> None:
    with Nodes(tmp_path, 3) as nodes:
        async with titan.connect(nodes.line, data=nodes.user) as pool:
            await pool.publish(BANK, "bank/main")
            sends = (pool.send("bank/main", Deposit("rent", 1), timeout=30) for _ in range(300))
            assert sorted(await asyncio.gather(*sends)) == list(range(1001, 1301))
            assert await pool.read("bank/main", "rent") == 1300
            with pytest.raises(titan.RemoteError, match="no money"):
                await pool.send("bank/main", Withdraw("rent", 5000))
