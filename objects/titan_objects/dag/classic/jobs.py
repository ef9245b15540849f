"""Jobs as they stand in bodies of the protocol, and the definition that they come to. No I/O.

    x|RUN_PAYLOAD|a.py|1 2|<base64>|GPU|5|100|[p,q]|AFFINITY
    svc|DEPLOY_PAYLOAD|a.py|<base64>|9000|GENERAL|1|0|[]

id, what to do, its fields; then priority, delay in milliseconds, the jobs that it needs, and AFFINITY. A DAG is such
jobs with a `;` between them. All after its fields may be missing, and the id where a single job is submitted.
"""

import base64
import binascii
import re
import shlex
from collections.abc import Iterator

import msgspec

import titan_overlay as titan
from titan_objects.dag.checking import check
from titan_objects.dag.definition import Definition
from titan_objects.dag.importing import GENERAL, OrchestratorFile, OrchestratorJob, from_orchestrator

TITLE = "classic: "
"""With which the name of every definition that was made here begins."""
PACKAGE = "classic_scripts"
"""The directory in which a command finds its script."""
_END = re.compile(r"\[[^\]|]*\]\s*(\|\s*(AFFINITY|STICKY)\s*)?$")
_NO_ID = re.compile(r"[^A-Za-z0-9_-]")
FIELDS = {"RUN_PAYLOAD": (2, 4), "DEPLOY_PAYLOAD": (3, 4)}
"""How many fields each has at least, and at most."""
PORT_MAX = 65535


class Job(msgspec.Struct, frozen=True):
    """One job, and the script that it runs."""

    job: OrchestratorJob
    file: str
    """The script's name as a module."""
    script: bytes


class Submission(msgspec.Struct, frozen=True):
    """What a body comes to."""

    definition: Definition
    files: dict[str, bytes]
    """Of the package that travels, by their paths."""


def task_id(job: str) -> str:
    """The task that a job is: the same one for `x` and `DAG-x`.

    Raises:
        BadMessage: no job is called that.
    """
    named = _NO_ID.sub("_", job.strip())
    named = named if named.startswith("DAG-") else f"DAG-{named}"
    if not 4 < len(named) <= 110:
        raise titan.BadMessage(f"the id of a job has 1 to 106 characters, and {job[:50]!r} has {len(job.strip())}")
    return named


def submission(body: str, single: str = "") -> Submission:
    """The definition of all jobs in a body.

    Args:
        single: it is one job, which is called this if it has no id.

    Raises:
        BadMessage: naming the job, and what is wrong with it.
    """
    read = [_job(body, single)] if single else [_job(each) for each in split(body)]
    if not read:
        raise titan.BadMessage("a DAG has one job at least")
    files: dict[str, bytes] = {}
    named: dict[str, str] = {}
    jobs = []
    for each in read:
        if each.job.id in named:
            raise titan.BadMessage(f"two jobs are called {each.job.id.removeprefix('DAG-')!r}; ids are unique")
        named[each.job.id] = file = _placed(files, each)
        jobs.append(msgspec.structs.replace(each.job, file=f"{PACKAGE}/{file}"))
    name = f"{TITLE}{jobs[0].id.removeprefix('DAG-')}"
    try:
        definition = from_orchestrator(OrchestratorFile(jobs, name))
        check(definition)
    except titan.ConfigError as why:
        raise titan.BadMessage(str(why)) from None
    return Submission(definition, {f"{PACKAGE}/{name}": data for name, data in {"__init__.py": b"", **files}.items()})


def _placed(files: dict[str, bytes], job: Job) -> str:
    """The script's file among the others: its own name, unless another script has that."""
    stem = job.file.removesuffix(".py")
    place, count = job.file, 1
    while files.setdefault(place, job.script) != job.script:
        count += 1
        place = f"{stem}_{count}.py"
    return place


def split(body: str) -> Iterator[str]:
    """The jobs of a DAG. Arguments may hold a `;`: a job ends with the list of those that it needs."""
    job = ""
    for part in body.split(";"):
        job += part
        if _END.search(job):
            yield job.strip()
            job = ""
        elif job.strip():
            job += ";"
    if rest := job.strip(" ;\r\n\t"):
        yield rest


def _job(text: str, id: str = "") -> Job:
    fields = [each.strip() for each in text.split("|")]
    if not (id and fields[0] in FIELDS):
        id, *fields = fields
    if not fields or fields[0] not in FIELDS:
        does = fields[0] if fields else ""
        raise titan.BadMessage(f"job {id[:50]!r}: {does[:50]!r} is not done here; {' and '.join(FIELDS)} are")
    affinity = fields[-1] in ("AFFINITY", "STICKY")
    if affinity:
        fields.pop()
    priority, delay, needs = 1, 0, list[str]()
    if len(fields) > 3 and fields[-1].startswith("[") and fields[-1].endswith("]"):
        needs = [each.strip() for each in fields[-1][1:-1].split(",") if each.strip()]
        priority, delay = _number(fields[-3], "priority", id), _number(fields[-2], "delay", id)
        fields = fields[:-3]
    does, *rest = fields
    least, most = FIELDS[does]
    if not least <= len(rest) <= most:
        raise titan.BadMessage(f"job {id[:50]!r}: {does} has {least} to {most} fields, not {len(rest)}")
    file, *rest = rest
    port, args = 0, ""
    if does == "DEPLOY_PAYLOAD":
        payload, port, requirement = rest[0], _number(rest[1], "port", id), (rest[2:] or [GENERAL])[0]
        if not 0 < port <= PORT_MAX:
            raise titan.BadMessage(f"job {id[:50]!r}: a service answers at a port of 1 to {PORT_MAX}, not {port}")
    elif len(rest) == 3:
        args, payload, requirement = rest
    else:
        payload, requirement = rest[0], (rest[1:] or [GENERAL])[0]
    return Job(
        OrchestratorJob(
            id=task_id(id),
            type="service" if does == "DEPLOY_PAYLOAD" else "run",
            depends_on=[task_id(each) for each in needs],
            requirement=requirement or GENERAL,
            priority=priority,
            delay=max(0, delay),
            affinity=affinity,
            port=port,
            args=_words(args, id),
        ),
        _module(file, id),
        decoded(payload, f"job {id[:50]!r}: its script"),
    )


def _number(text: str, what: str, id: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise titan.BadMessage(f"job {id[:50]!r}: its {what} is a whole number, not {text[:50]!r}")
    return int(text)


def _words(args: str, id: str) -> list[str]:
    try:
        return shlex.split(args)
    except ValueError as why:
        raise titan.BadMessage(f"job {id[:50]!r}: its arguments cannot be split into words: {why}") from None


def _module(file: str, id: str) -> str:
    """The script's name, as one that can travel."""
    stem, _, suffix = file.rpartition("/")[2].rpartition(".")
    name = re.sub(r"[^A-Za-z0-9_]", "_", stem)
    if not stem or suffix != "py" or len(name) > 100:
        raise titan.BadMessage(f"job {id[:50]!r}: a script is a Python file (.py), and {file[:50]!r} is none")
    return f"_{name}.py" if name[0].isdigit() else f"{name}.py"


def decoded(text: str, what: str) -> bytes:
    """The bytes that base64 stands for. Raises BadMessage: it is none."""
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise titan.BadMessage(f"{what} is no base64") from None
