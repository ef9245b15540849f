"""A queue: the name to which runs are submitted, and at which workers find them.

    titan publish dag --name dag

It knows which runs are open and which workers have been seen lately, and nothing of what is inside a run.
"""

import msgspec

import titan_overlay as titan

RUNS_MAX = 10_000
WORKERS_MAX = 10_000
SEEN_SECONDS = 90.0
"""A worker that has not been seen for longer is gone."""
COMMANDS = "commands"
"""Label of workers that run commands, and not functions alone."""


def owner_of(run: str) -> str:
    """Fingerprint of the key that alone can have published a run of this name."""
    return run.removeprefix("~").partition("/")[0]


class WorkerInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker as it describes itself."""

    name: str
    slots: int = 1
    labels: dict[str, str] = {}
    trusts: list[str] = []
    """Fingerprints of the keys whose code it runs."""
    seen: float = 0.0


class RunInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run that was submitted."""

    name: str
    title: str
    owner: str
    submitted: float
    state: str = "RUNNING"
    voice: bytes = b""
    """Id of the run as an object: under it the run itself speaks."""


class Register(titan.Message[None], namespace="dagqueue"):
    """A worker is there."""

    worker: WorkerInfo
    leaving: bool = False


class Submit(titan.Message[None], namespace="dagqueue"):
    """A run wants workers. Only the key in whose space its name lies (`~KEY/...`) may say so."""

    run: str
    title: str
    state: str = "RUNNING"
    voice: bytes = b""


class Close(titan.Message[None], namespace="dagqueue"):
    """A run has ended, or is open again. Only the run itself and who submitted it may say so."""

    run: str
    state: str


class Runs(titan.Message[list[RunInfo]], namespace="dagqueue"):
    """Asks for runs."""

    open: bool = False
    """Only those that want workers."""


class Workers(titan.Message[list[WorkerInfo]], namespace="dagqueue"):
    """Asks for workers that were seen lately."""


@titan.mutable("*", policy=titan.Policy(faults=1))
class Queue:
    """See the module."""

    runs: dict[str, RunInfo] = {}
    workers: dict[str, WorkerInfo] = {}
    now: float = 0.0

    def register(self, m: Register, ctx: titan.Context) -> None:
        """Remembers a worker for a while."""
        self.now = ctx.now
        name = f"{_who(ctx)}/{m.worker.name}"
        self.workers = {key: each for key, each in self.workers.items() if each.seen > ctx.now - SEEN_SECONDS}
        if m.leaving:
            self.workers.pop(name, None)
        elif name in self.workers or len(self.workers) < WORKERS_MAX:
            self.workers[name] = msgspec.structs.replace(m.worker, name=name, seen=ctx.now)
        else:
            raise titan.Overloaded(f"{ctx.name!r} has {WORKERS_MAX} workers, and takes no more")

    def submit(self, m: Submit, ctx: titan.Context) -> None:
        """Makes a run known. Raises Forbidden: its name is another's."""
        owner = _who(ctx)
        if not m.run.startswith(f"~{owner}/"):
            raise titan.Forbidden(f"{owner} submits runs that are named ~{owner}/..., and {m.run[:200]!r} is not")
        self.now = ctx.now
        if m.run not in self.runs and len(self.runs) >= RUNS_MAX:
            ended = next((name for name, each in self.runs.items() if each.state != "RUNNING"), None)
            if ended is None:
                raise titan.Overloaded(f"{ctx.name!r} has {RUNS_MAX} open runs, and takes no more")
            del self.runs[ended]
        self.runs[m.run] = RunInfo(m.run, m.title[:200], owner, ctx.now, m.state[:20], m.voice[:64])

    def close(self, m: Close, ctx: titan.Context) -> None:
        """A run wants no workers any more, or some again. Raises Forbidden: it is another's."""
        known = self.runs.get(m.run)
        if known is None:
            return
        if ctx.sender.public != known.voice and _who(ctx) != known.owner:
            raise titan.Forbidden(f"only {m.run!r} itself, and {known.owner}, who submitted it, may say how it is")
        self.now = ctx.now
        self.runs[m.run] = msgspec.structs.replace(known, state=m.state[:20])

    @titan.readonly
    def list_runs(self, m: Runs) -> list[RunInfo]:
        """Those that are known."""
        return [each for each in self.runs.values() if not m.open or each.state == "RUNNING"]

    @titan.readonly
    def list_workers(self, m: Workers) -> list[WorkerInfo]:
        """Those that were seen lately."""
        return [each for each in self.workers.values() if each.seen > self.now - SEEN_SECONDS]


def _who(ctx: titan.Context) -> str:
    return ctx.sender.id.hex()[:32]
