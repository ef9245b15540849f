"""A pool of real `titan-node` processes on loopback, for tests that talk to it from this process or from programs.

    with Nodes(tmp_path, 4) as nodes:
        async with titan.connect(nodes.line, data=nodes.home / "user") as pool: ...

The first node founds the pool. The others come by an invitation: they may host, and run the founder's code. `user` is
the data directory of the founder's user, who may publish anything.
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.net.commands import SECONDS, NodeProcess, environment, titan
from tests.ports import free_port

QUICK = {"TITAN_PROBE_INTERVAL": "1", "TITAN_RECRUIT_DELAY": "0.5"}
"""Holders notice within seconds that one of them is gone."""


class Nodes:
    """A pool of nodes.

    Args:
        home: where their directories are made; also the HOME of nodes and programs.
        variables: more environment for all nodes (`QUICK`).
    """

    def __init__(self, home: Path, count: int = 4, **variables: str) -> None:
        self.home = home
        self.by_id: dict[str, NodeProcess] = {}
        self._variables = variables
        self._addresses: dict[str, str] = {}
        self._all: list[NodeProcess] = []
        try:
            self.line = self._served(self._start(listen=f"127.0.0.1:{free_port()}"))
            self.invitation = (
                titan("invite", "--data", "node0", "--rights", "host", "--trust-me", home=home).stdout.decode().strip()
            )
            started = [self._start("--bootstrap", self.invitation) for _ in range(count - 1)]
            for node in started:
                self._served(node)
        except BaseException:
            self.close()
            raise

    @property
    def user(self) -> Path:
        """Data directory of the founder and its user."""
        return self.home / "node0"

    @property
    def ids(self) -> list[str]:
        """Ids of the nodes that were not killed, in hexadecimal; the founder's first."""
        return list(self.by_id)

    def add(self, *flags: str) -> str:
        """One more node; its id."""
        self._served(self._start("--bootstrap", self.invitation, *flags))
        return self.ids[-1]

    def address(self, node: str) -> str:
        """`host:port` of a node."""
        return self._addresses[node]

    def line_of(self, node: str) -> str:
        """The join line of a node."""
        return f"{self.line.partition('/' + self.ids[0])[0]}/{node}@{self.address(node)}"

    def kill(self, node: str) -> None:
        """SIGKILL: no goodbye."""
        self.by_id.pop(node).stop(signal.SIGKILL)

    def restart(self, node: str, *, listen: str = "127.0.0.1:0") -> str:
        """Kills a node and starts it again on its data directory; its new join line."""
        founder = node == self.ids[0]
        old = self.by_id.pop(node)
        old.stop(signal.SIGKILL)
        flags = () if founder else ("--bootstrap", self.invitation)
        return self._served(self._start(*flags, name=old.data.name, listen=listen))

    def program(self, path: Path, *words: str, **variables: str) -> "subprocess.Popen[str]":
        """Starts a Python program of this user's, in which every warning is an error."""
        return subprocess.Popen(
            [sys.executable, "-W", "error", str(path), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=environment(self.home, **{"TITAN_DATA": str(self.user), **variables}),
        )

    def run(self, path: Path, *words: str, **variables: str) -> str:
        """What a program prints; it must end with status 0 and say nothing on standard error."""
        process = self.program(path, *words, **variables)
        try:
            out, complaints = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        assert (process.returncode, complaints) == (0, ""), complaints or out
        return out

    def close(self) -> None:
        """Kills all that still run."""
        for node in self._all:
            node.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, *flags: str, name: str = "", listen: str = "127.0.0.1:0") -> NodeProcess:
        node = NodeProcess(self.home / (name or f"node{len(self._all)}"), *flags, listen=listen, **self._variables)
        self._all.append(node)
        return node

    def _served(self, node: NodeProcess) -> str:
        line = node.join_line()
        node_id, _, address = line.split("/")[3].partition("@")
        self._addresses[node_id] = address
        self.by_id[node_id] = node
        return line
