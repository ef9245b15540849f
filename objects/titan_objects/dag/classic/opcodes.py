"""What each opcode of the Titan orchestrator means at the gateway: answered, or refused with a reason."""

import msgspec


class Meaning(msgspec.Struct, frozen=True):
    """Of one opcode."""

    name: str
    """In the original."""
    body: str
    """Its fields."""
    text: str
    """The reply, or why there is none."""
    answered: bool = True


def _refused(name: str, why: str) -> Meaning:
    return Meaning(name, "", why, answered=False)


_INSIDE = "it is said between the orchestrator's master and its workers; here workers lease tasks from the run"
_REPLY = "it is a reply"
_PLANNED = "saved DAGs are files here: titan dag submit FILE"

OPCODES: dict[int, Meaning] = {
    0x01: Meaning("HEARTBEAT", "", "`PONG`, tasks that run, slots"),
    0x02: _refused("REGISTER", "workers of the orchestrator cannot join a pool; start some: titan-node --workers 4"),
    0x03: Meaning("SUBMIT_JOB", "a job, with or without its id", "`JOB_ACCEPTED`"),
    0x04: Meaning("SUBMIT_DAG", "jobs with a `;` between them", "`DAG_ACCEPTED`"),
    0x05: _refused("DEPLOY", "a service is a job here, DEPLOY_PAYLOAD of SUBMIT_JOB or SUBMIT_DAG"),
    0x06: Meaning("RUN", "script, requirement", "`JOB_QUEUED`, the job's id; the script is one that was uploaded"),
    0x07: Meaning("STOP", "job", "`STOPPED`, or `NOT_FOUND`"),
    0x08: Meaning("STATS", "", "workers, and what waits, as text"),
    0x09: Meaning("STATS_JSON", "", "the same as JSON: `active_workers`, `queue_size`, `workers`"),
    0x0A: _refused("UNREGISTER_SERVICE", "there is no list of services; they end with their run"),
    0x0B: _refused("CLEAN_STATS", "nothing is kept that could be cleaned: statistics are made anew each time"),
    0x0C: _refused("STAGE", _INSIDE),
    0x0D: _refused("START_SERVICE", _INSIDE),
    0x11: _refused("KILL_WORKER", "a node's workers are stopped by its operator: titan node leave"),
    0x12: _refused("JOB_COMPLETE", _INSIDE),
    0x15: _refused("LOG_STREAM", _INSIDE),
    0x16: Meaning("GET_LOGS", "job", "its lines; nothing, where there is no such job"),
    0x17: _refused("LOG_BATCH", _INSIDE),
    0x18: _refused("RUN_ARCHIVE", _INSIDE),
    0x19: _refused("START_SERVICE_ARCHIVE", _INSIDE),
    0x50: _refused("ACK", _REPLY),
    0x51: _refused("ERROR", _REPLY),
    0x52: _refused("DATA", _REPLY),
    0x53: Meaning("UPLOAD_ASSET", "name, base64", "`UPLOAD_SUCCESS`; needs `--store`"),
    0x54: Meaning("FETCH_ASSET", "name", "base64, or the error `ERROR_NOT_FOUND`; needs `--store`"),
    0x55: Meaning("GET_JOB_STATUS", "job", "`PENDING`, `RUNNING`, `COMPLETED`, `FAILED` or `CANCELLED`, or `NULL`"),
    0x56: Meaning("CANCEL_JOB", "job", "`CANCELLED`, the status of what has ended, or `NOT_FOUND`"),
    0x57: Meaning("DEPLOY_SCRIPT", "name, base64", "`DEPLOY_SUCCESS`; needs `--store`"),
    0x58: _refused("RESOLVE_SERVICE", "where a service listens stands in the result of its task"),
    0x59: _refused("planned", _PLANNED),
    0x5A: _refused("planned", _PLANNED),
    0x5B: _refused("planned", _PLANNED),
    0x5F: Meaning("AUTH", "the token", "`OK`; new here, and the first frame where a token is required"),
    0x60: Meaning("KV_SET", "key, value", "`OK`; needs `--store`, where the key is `user:KEY`"),
    0x61: Meaning("KV_GET", "key", "the value, or `NULL`"),
    0x62: Meaning("KV_SADD", "key, member", "`1`, or `0` where it is in the set"),
    0x63: Meaning("KV_SMEMBERS", "key", "members with a `,` between them"),
}
"""All others from 0x00 to 0xFF are unknown."""

AUTH = 0x5F
LAST = 0x63


def table() -> str:
    """For the documentation: every opcode from 0x01 to 0x63."""
    rows = ["| opcode | name | body | reply |", "|---|---|---|---|"]
    unknown: list[int] = []
    for opcode in range(0x01, LAST + 2):
        meaning = OPCODES.get(opcode)
        if meaning is None and opcode <= LAST:
            unknown.append(opcode)
            continue
        if unknown:
            shown = f"`0x{unknown[0]:02X}`" + (f" to `0x{unknown[-1]:02X}`" if len(unknown) > 1 else "")
            rows.append(f"| {shown} | | | error `UNKNOWN_OPCODE` with its number |")
            unknown = []
        if meaning is not None:
            reply = meaning.text if meaning.answered else f"refused: {meaning.text}"
            rows.append(f"| `0x{opcode:02X}` | {meaning.name} | {meaning.body} | {reply} |")
    return "\n".join(rows)
