"""What the runs of one key remember from one to the next: results by their memo, and the records of workers.

It is an object in the space of that key (`~KEY/dag/memory`), and takes the word of those runs alone that the key has
submitted: no worker writes here. A worker's result gets here once a run has believed it, under a memo that names whose
results that run believed and how they were compared, so a run that is stricter never meets it.
"""

from typing import Any

import msgspec

import titan_overlay as titan
from titan_objects.dag.journal import Success
from titan_objects.dag.queue import owner_of
from titan_objects.dag.verifying import Judged

RESULTS_BYTES_MAX = 8 << 20
"""Of all results; those that were learned first go."""
RESULT_BYTES_MAX = 64 << 10
RECORDS_MAX = 10_000
"""Of owners; who has given fewest valid results goes."""
RUNS_MAX = 1_000
"""That are believed; those that were admitted first are not any more."""


def memory_of(run: str) -> str:
    """The name of the memory that a run has a part in."""
    return f"~{owner_of(run)}/dag/memory"


class Admit(titan.Message[dict[str, int]], namespace="dagmemory"):
    """A run is one of its owner's; answered with the records of workers. Only the owner says so."""

    voice: bytes


class Learn(titan.Message[bool], namespace="dagmemory"):
    """What a run has learned; whether the run is believed. One that is not gets no error: it would try for ever."""

    results: dict[str, Success] = {}
    judged: dict[str, Judged] = {}


class Recall(titan.Message[Success | None], namespace="dagmemory"):
    """Asks for the result that is known under a memo."""

    memo: str


class Forget(titan.Message[None], namespace="dagmemory"):
    """Has it forget all results, or all records. Only its owner may say so."""

    results: bool
    records: bool


@titan.mutable("*", policy=titan.Policy(faults=1))
class Memory:
    """See the module."""

    results: dict[str, Success] = {}
    size: int = 0
    """Bytes of all results."""
    records: dict[str, int] = {}
    runs: list[bytes] = []

    def admit(self, m: Admit, ctx: titan.Context) -> dict[str, int]:
        """Raises Forbidden: it is another's memory."""
        _check_owner(ctx)
        if m.voice not in self.runs:
            self.runs = [*self.runs, m.voice][-RUNS_MAX:]
        return self.records

    def learn(self, m: Learn, ctx: titan.Context) -> bool:
        """Takes what a run has learned."""
        if ctx.sender.public not in self.runs:
            return False
        for memo, result in m.results.items():
            self._keep(memo, result)
        for owner, judged in m.judged.items():
            valid = judged.behind(self.records.pop(owner, 0))
            if valid:
                self.records[owner] = valid
        while len(self.records) > RECORDS_MAX:
            del self.records[min(self.records, key=lambda owner: self.records[owner])]
        return True

    def _keep(self, memo: str, result: Success) -> None:
        size = _size(result)
        if size > RESULT_BYTES_MAX:
            return
        if (before := self.results.pop(memo, None)) is not None:
            self.size -= _size(before)
        self.results[memo] = result
        self.size += size
        while self.size > RESULTS_BYTES_MAX:
            self.size -= _size(self.results.pop(next(iter(self.results))))

    def forget(self, m: Forget, ctx: titan.Context) -> None:
        """Raises Forbidden: it is another's memory."""
        _check_owner(ctx)
        if m.results:
            self.results, self.size = {}, 0
        if m.records:
            self.records = {}

    @titan.readonly
    def recall(self, m: Recall) -> Success | None:
        """What is known."""
        return self.results.get(m.memo)


def _check_owner(ctx: titan.Context) -> None:
    if not ctx.name.startswith(f"~{ctx.sender.id.hex()[:32]}/"):
        raise titan.Forbidden(f"only the key in whose space {ctx.name!r} lies may say what it takes or forgets")


def _size(result: Success) -> int:
    return len(msgspec.msgpack.encode(result))


async def recalled(pool: titan.Pool, run: str, memo: str) -> Success | None:
    """The result that a run's owner knows under a memo, where all data that it names are still there."""
    try:
        known = await pool.read(memory_of(run), Recall(memo))
        if known is None or not all([await pool.locate(name) for name in data_in([known.value, known.files])]):
            return None
    except titan.TitanError:
        return None
    return msgspec.structs.replace(known, recalled=True)


def data_in(value: Any) -> list[str]:
    """Names of data of the pool in a value, however deep."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [name for each in value for name in data_in(each)]
    return [value] if isinstance(value, str) and value.startswith("sha256:") else []
