"""What the gateway does for each opcode: bodies of the Titan orchestrator in, messages to the pool, and replies."""

import asyncio
import base64
import json
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import titan_overlay as titan
from titan_objects.dag.bundles import lay_out
from titan_objects.dag.classic.jobs import PACKAGE, TITLE, decoded, submission, task_id
from titan_objects.dag.client import submit
from titan_objects.dag.queue import RunInfo, Runs, WorkerInfo, listed
from titan_objects.dag.queue import Workers as AskWorkers
from titan_objects.dag.submitted import SubmittedRun
from titan_objects.dag.views import TaskView

log = logging.getLogger("titan")

LEARN_SECONDS = 1.0
"""Between two looks for runs that others have submitted."""
RUNS_COUNTED = 64
"""Open runs whose tasks statistics count; of more, the newest."""
LOG_BYTES_MAX = 8 << 20
ASSET_NAME_MAX = 200
STATUS = {
    "RUNNING": "RUNNING",
    "SUCCEEDED": "COMPLETED",
    "FAILED": "FAILED",
    "CANCELLED": "CANCELLED",
    "SKIPPED": "CANCELLED",
}
"""By state; all others are PENDING."""


class Failed(Exception):
    """Answered with an error; the text is the whole reply."""


class Desk:
    """Answers requests. Jobs are found by the names of their tasks, in whichever run of this user they are.

    Args:
        store: name of the store that keys, values and names of assets are kept in, and in which runs show how they
            are; nothing: there is none, and keys and assets are refused.
    """

    def __init__(self, pool: titan.Pool, queue: str, store: str = "") -> None:
        self._pool = pool
        self._queue = queue
        self._store = store
        self._runs: dict[str, str] = {}
        """The run that a task is in, by the task."""
        self._known: dict[str, list[str]] = {}
        """Tasks of each run that has answered."""
        self._learned = float("-inf")
        self._answers: dict[int, Callable[[str], Awaitable[str]]] = {
            0x01: self._heartbeat,
            0x03: self._submit_job,
            0x04: self._submit_dag,
            0x06: self._run,
            0x07: self._stop,
            0x08: self._stats,
            0x09: self._stats_json,
            0x16: self._logs,
            0x53: self._upload,
            0x54: self._fetch,
            0x55: self._status,
            0x56: self._cancel,
            0x57: self._deploy_script,
            0x60: self._set,
            0x61: self._get,
            0x62: self._sadd,
            0x63: self._smembers,
        }

    @property
    def opcodes(self) -> set[int]:
        """That it answers."""
        return set(self._answers)

    async def answer(self, opcode: int, body: str) -> str:
        """The reply to a request.

        Raises:
            Failed, TitanError: it is answered with an error.
        """
        return await self._answers[opcode](body)

    # ---- jobs --------------------------------------------------------------------------------------------------

    async def _submit_job(self, body: str) -> str:
        await self._submit(body, f"JOB-{self._pool.token_bytes(4).hex()}")
        return "JOB_ACCEPTED"

    async def _submit_dag(self, body: str) -> str:
        await self._submit(body)
        return "DAG_ACCEPTED"

    async def _run(self, body: str) -> str:
        file, requirement = _fields(body, 1, 2)
        id = f"TSK-{self._pool.token_bytes(4).hex()}"
        await self._submit(f"RUN_PAYLOAD|{file}|{await self._fetch(file)}|{requirement or 'GENERAL'}", id)
        return f"JOB_QUEUED {id}"

    async def _submit(self, body: str, single: str = "") -> None:
        made = submission(body, single)
        with tempfile.TemporaryDirectory(prefix="titan-dag-") as directory:
            lay_out(made.files, Path(directory))
            code = Path(directory, PACKAGE)
            try:
                await submit(self._pool, made.definition, queue=self._queue, code=code, store=self._store)
            except titan.ConfigError as why:  # clients know nothing of this directory
                raise titan.BadMessage(str(why).replace(f"{directory}/", "")) from None
        self._learned = float("-inf")

    async def _status(self, body: str) -> str:
        found = await self._task(body)
        return "NULL" if found is None else _status(found[1])

    async def _cancel(self, body: str) -> str:
        found = await self._task(body)
        if found is None:
            return "NOT_FOUND"
        run, task = found
        status = _status(task)
        if status in ("PENDING", "RUNNING"):
            await run.act("cancel", task.key)
            return "CANCELLED"
        return status

    async def _stop(self, body: str) -> str:
        status = await self._cancel(body)
        return status if status == "NOT_FOUND" else "STOPPED"

    async def _logs(self, body: str) -> str:
        found = await self._task(body)
        if found is None:
            return ""
        run, task = found
        lines: list[str] = []
        room = LOG_BYTES_MAX
        async for line in run.logs(task.key, follow=False):
            room -= len(line.text.encode()) + 1
            if room < 0:
                break
            lines.append(line.text)
        return "\n".join(lines)

    async def _task(self, job: str) -> tuple[SubmittedRun, TaskView] | None:
        """A job as it is now; None: there is none of that id."""
        name = task_id(job)
        await self._learn()
        if name not in self._runs:
            return None
        run = SubmittedRun(self._pool, self._runs[name], self._queue)
        return next(((run, each) for each in (await run.look(tasks=True)).tasks if each.key == name), None)

    async def _learn(self) -> None:
        """Which runs there are. Of two jobs with one id, the one that was submitted last counts."""
        now = asyncio.get_running_loop().time()
        if now - self._learned < LEARN_SECONDS:
            return
        self._learned = now
        runs = [each for each in await self._mine() if each.title.startswith(TITLE)]
        names = {each.name for each in runs}
        self._known = {name: tasks for name, tasks in self._known.items() if name in names}
        async for name, tasks in self._tasks([each for each in runs if each.name not in self._known]):
            self._known[name] = [task.key for task in tasks]
        self._runs = {task: each.name for each in runs for task in self._known.get(each.name, ())}

    async def _mine(self) -> list[RunInfo]:
        """Runs of this user, in the order in which they were submitted."""
        found = [each for each in await listed(self._pool, self._queue, Runs) if each.owner == self._pool.id]
        return sorted(found, key=lambda each: each.submitted)

    async def _tasks(self, runs: list[RunInfo]) -> AsyncIterator[tuple[str, list[TaskView]]]:
        """The tasks of each of these runs that answers."""
        for each in runs:
            try:
                yield each.name, (await SubmittedRun(self._pool, each.name).look(tasks=True)).tasks
            except titan.TitanError as why:
                log.debug("the run %s does not answer: %s", each.name, why)

    # ---- statistics --------------------------------------------------------------------------------------------

    async def _heartbeat(self, _: str) -> str:
        workers, _waiting, running = await self._count()
        return f"PONG|{sum(running.values())}|{sum(each.slots for each in workers)}"

    async def _stats(self, _: str) -> str:
        workers, waiting, running = await self._count()
        lines = [f"{len(workers)} workers, {waiting} tasks wait"]
        lines += [f"{each.name}: {running[each.name]}/{each.slots}, {_skills(each)}" for each in workers]
        return "\n".join(lines)

    async def _stats_json(self, _: str) -> str:
        workers, waiting, running = await self._count()
        shown = [
            {"name": each.name, "port": 0, "capabilities": _skills(each), "load": f"{running[each.name]}/{each.slots}"}
            for each in workers
        ]
        return json.dumps({"active_workers": len(workers), "queue_size": waiting, "workers": shown})

    async def _count(self) -> tuple[list[WorkerInfo], int, Counter[str]]:
        """Workers that run what this user submits, tasks that wait for one, and what each of them runs."""
        me = self._pool.id
        workers = [each for each in await listed(self._pool, self._queue, AskWorkers) if me in each.trusts]
        waiting, running = 0, Counter[str]()
        open_runs = [each for each in await self._mine() if each.state == "RUNNING"]
        async for _, tasks in self._tasks(open_runs[-RUNS_COUNTED:]):
            for task in tasks:
                waiting += task.state == "READY"
                running[task.worker] += task.state == "RUNNING"
        return workers, waiting, running

    # ---- the store ---------------------------------------------------------------------------------------------

    async def _command(self, *words: str) -> Any:
        if not self._store:
            raise Failed("ERROR: this gateway has no store; start it with --store NAME")
        return await self._pool.send(self._store, list(words))

    async def _set(self, body: str) -> str:
        key, value = _fields(body, 2, 2)
        await self._command("SET", f"user:{key}", value)
        return "OK"

    async def _get(self, body: str) -> str:
        found = await self._command("GET", f"user:{body}")
        return "NULL" if found is None else _text(found)

    async def _sadd(self, body: str) -> str:
        key, member = _fields(body, 2, 2)
        return str(await self._command("SADD", f"user:{key}", member))

    async def _smembers(self, body: str) -> str:
        return ",".join(sorted(map(_text, await self._command("SMEMBERS", f"user:{body}"))))

    async def _upload(self, body: str) -> str:
        name, payload = _fields(body, 2, 2)
        if not 0 < len(name) <= ASSET_NAME_MAX:
            raise Failed(f"ERROR: an asset has a name of 1 to {ASSET_NAME_MAX} characters, not {len(name)}")
        data = decoded(payload, f"the asset {name!r}")
        await self._command("GET", f"asset:{name}")  # before the data travels: is there a store?
        await self._command("SET", f"asset:{name}", await self._pool.put(data))
        return "UPLOAD_SUCCESS"

    async def _deploy_script(self, body: str) -> str:
        await self._upload(body)
        return "DEPLOY_SUCCESS"

    async def _fetch(self, body: str) -> str:
        found = await self._command("GET", f"asset:{body.strip()}")
        if found is None:
            raise Failed("ERROR_NOT_FOUND")
        return base64.b64encode(await self._pool.get(_text(found))).decode()


def _fields(body: str, least: int, most: int) -> list[str]:
    """The fields of a body, the last one with all that is left; missing ones are empty. Raises Failed."""
    fields = body.split("|", most - 1)
    if len(fields) < least or not fields[0]:
        raise Failed(f"ERROR: the body has {least} fields at least, with a | between them")
    return fields + [""] * (most - len(fields))


def _status(task: TaskView) -> str:
    return STATUS.get(task.state, "PENDING")


def _skills(worker: WorkerInfo) -> str:
    names = [name.upper() for name, value in worker.labels.items() if value == "1"]
    return ",".join(["GENERAL", *sorted(names)])


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
