"""A private pool of real processes: who gets in, who is thrown out, and what an id costs."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.net.commands import SECONDS, NodeProcess, titan, titan_json
from tests.ports import free_port
from titan_overlay.identity.ids import solves_puzzle
from titan_overlay.identity.keys import SigningKey
from titan_overlay.storage.directory import DataDirectory

BITS = 6


class Pool:
    """A founder that asks for a puzzle and a grant, and the guests of a test."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.nodes: list[NodeProcess] = []
        self.founder = self.start("founder", "--private", "--puzzle-bits", str(BITS), listen=f"127.0.0.1:{free_port()}")
        self.line = self.founder.join_line()

    def start(self, name: str, *flags: str, **more: Any) -> NodeProcess:
        self.nodes.append(NodeProcess(self.home / name, *flags, **more))
        return self.nodes[-1]

    def founders(self, *words: str) -> str:
        return titan(*words, "--data", "founder", home=self.home).stdout.decode().strip()

    def nodes_seen(self) -> int:
        return len(titan_json("census", "--data", "founder", home=self.home))

    def close(self) -> None:
        for node in self.nodes:
            node.stop(9)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    made = Pool(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_only_who_was_invited_gets_in_and_a_revocation_throws_out(pool: Pool) -> None:
    rules = titan_json("pool", "show", "--data", "founder", home=pool.home)
    assert (rules["private"], rules["strangers"], rules["puzzle_bits"]) == (True, [], BITS)

    stranger = pool.start("stranger", "--bootstrap", pool.line)
    assert stranger.process.wait(SECONDS) == 2
    key = titan_json("id", "--data", "stranger", home=pool.home)["key"]
    assert (
        "its pool is private" in stranger.log and "titan grant " in stranger.log and "use an invitation" in stranger.log
    )
    said = titan("census", "--data", "stranger", "-b", pool.line, home=pool.home, status=2).stderr.decode()
    assert f"titan grant {key} join,call" in said

    # The founder does what the error says: the stranger's programs get in.
    text = pool.founders("grant", key, "join,call")
    titan("grant", "import", text, "--data", "stranger", home=pool.home)
    assert len(titan_json("census", "--data", "stranger", "-b", pool.line, home=pool.home)) == 1

    line = pool.founders("invite", "--rights", "host")
    guest = pool.start("guest", "--bootstrap", line)
    guest.join_line()
    node = DataDirectory.read_node_id(guest.data)
    assert node is not None and solves_puzzle(node, BITS), "it learned of the puzzle before it made its key"
    assert pool.nodes_seen() == 2
    assert titan_json("census", "--data", "guest", home=pool.home), "the invitation is good for its user's programs too"

    [invitation] = [
        each for each in titan_json("grants", "--data", "founder", home=pool.home) if "host" in each["rights"]
    ]
    assert (invitation["rights"], invitation["state"]) == (["join", "call", "host"], "valid")
    told = titan_json("revoke", invitation["id"][:12], "--data", "founder", home=pool.home)
    assert told["revoked"] == "grant" and told["told"] >= 1
    states = {each["id"]: each["state"] for each in titan_json("grants", "--data", "founder", home=pool.home)}
    assert states[invitation["id"]] == "revoked"
    assert pool.nodes_seen() == 1
    said = titan("census", "--data", "late", "-b", line, home=pool.home, status=2).stderr.decode()
    assert "its pool is private" in said

    # What was taken back stays so when the founder's node comes back, and another key is taken back beside it.
    titan("revoke", key, "--data", "founder", home=pool.home)
    pool.founder.stop()
    address = pool.line.rpartition("@")[2]
    pool.start("founder", listen=address).join_line()
    for who, by in (("stranger", pool.line), ("late", line)):
        titan("census", "--data", who, "-b", by, home=pool.home, status=2)


def test_a_key_that_does_not_solve_the_puzzle_is_refused_with_what_helps(pool: Pool) -> None:
    cheap = next(
        seed
        for seed in (bytes(31) + bytes([number]) for number in range(256))
        if not solves_puzzle(SigningKey(seed).id, BITS)
    )
    with DataDirectory(pool.home / "cheap") as directory:
        directory.node_key(cheap)
    line = pool.founders("invite")
    refused = pool.start("cheap", "--bootstrap", line)
    assert refused.process.wait(SECONDS) == 2
    assert f"puzzle of {BITS} bits" in refused.log
    helps = refused.log.partition("(and node id): ")[2].splitlines()[0]
    subprocess.run(["/bin/sh", "-c", helps], check=True)
    pool.start("cheap", "--bootstrap", line).join_line()
    assert pool.nodes_seen() == 2


def test_rights_are_passed_on_and_rules_are_changed(pool: Pool) -> None:
    helper = titan_json("id", "--data", "helper", home=pool.home)["key"]
    text = pool.founders("grant", helper, "join,call,publish", "--names", "weather/*", "--delegable")
    titan("grant", "import", text, "--data", "helper", home=pool.home)
    friend = titan_json("id", "--data", "friend", home=pool.home)["key"]
    passed = titan_json(
        "grant", friend, "join,call,publish", "--names", "weather/berlin", "--data", "helper", home=pool.home
    )
    assert passed["passes_on"] == 0
    titan("grant", "import", passed["grant"], "--data", "friend", home=pool.home)
    assert titan_json("pool", "show", "--data", "friend", "-b", pool.line, home=pool.home)["private"]
    said = titan("grant", friend, "host", "--data", "helper", home=pool.home, status=2).stderr.decode()
    assert f"titan grant {helper} host --names '*' --delegable" in said

    # Its grantor takes it back: not the founder, who never heard of it.
    titan("revoke", friend, "--data", "helper", "-b", pool.line, home=pool.home)
    titan("pool", "show", "--data", "friend", "-b", pool.line, home=pool.home, status=2)
    titan("pool", "show", "--data", "helper", "-b", pool.line, home=pool.home)

    said = titan("pool", "set", "--puzzle-bits", "30", "--data", "founder", home=pool.home, status=2).stderr.decode()
    assert "1 of 1 nodes" in said and "--yes" in said
    assert not titan_json("pool", "set", "--strangers", "join,call", "--data", "founder", home=pool.home)["private"]
    assert titan_json("pool", "show", "--data", "friend", "-b", pool.line, home=pool.home)["strangers"] == [
        "join",
        "call",
    ]
    said = titan("pool", "set", "--strangers", "join", "--data", "friend", home=pool.home, status=2).stderr.decode()
    assert "founder's machine" in said
