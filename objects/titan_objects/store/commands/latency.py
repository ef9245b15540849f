"""LATENCY: what took longer than `latency-monitor-threshold`, by kind of event."""

from typing import TYPE_CHECKING

from titan_objects.store.resp import CommandError, array, bulk
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("server")

_FLAGS = "admin noscript loading stale"


@group.command("latency", -2, since="2.8.13")
def latency(e: "Engine", a: Args) -> bytes:
    """A container for latency diagnostics commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try LATENCY HELP." % a[1])


@group.command("latency|latest", 2, _FLAGS, since="2.8.13")
def latency_latest(e: "Engine", a: Args) -> bytes:
    """Returns the latest latency samples for all events."""
    return array(
        [
            array([bulk(event.encode()), *map(number, (*samples[-1], e.stats.latency.worst[event]))])
            for event, samples in e.stats.latency.samples.items()
        ]
    )


@group.command("latency|history", 3, _FLAGS, since="2.8.13")
def latency_history(e: "Engine", a: Args) -> bytes:
    """Returns timestamp-latency samples for an event."""
    samples = e.stats.latency.samples.get(a[2].decode("latin-1"), ())
    return array([array([number(at), number(ms)]) for at, ms in samples])


@group.command("latency|reset", -2, _FLAGS, since="2.8.13")
def latency_reset(e: "Engine", a: Args) -> bytes:
    """Resets the latency data for one or more events."""
    known = e.stats.latency.samples
    return number(e.stats.latency.forget([event.decode("latin-1") for event in a[2:]] or list(known)))


@group.command("latency|doctor", 2, _FLAGS, since="2.8.13")
def latency_doctor(e: "Engine", a: Args) -> bytes:
    """Returns a human-readable latency analysis report."""
    threshold = int(e.config.get("latency-monitor-threshold"))
    if not threshold:
        return e.reply.verbatim(b"Nothing is watched: CONFIG SET latency-monitor-threshold to milliseconds.\n")
    lines = [f"What took {threshold} ms or longer:"]
    for event, samples in e.stats.latency.samples.items():
        mean = sum(ms for _, ms in samples) / len(samples)
        lines.append(f"{event}: {len(samples)} samples, mean {mean:.0f} ms, worst {e.stats.latency.worst[event]} ms")
    return e.reply.verbatim("\n".join(lines if len(lines) > 1 else ["Nothing took so long."]).encode() + b"\n")


GRAPH_ROWS, GRAPH_COLUMNS = 5, 80


@group.command("latency|graph", 3, _FLAGS, since="2.8.13")
def latency_graph(e: "Engine", a: Args) -> bytes:
    """Returns a latency graph for an event: a column for each sample, and below it how long ago that was."""
    event = a[2].decode("latin-1")
    samples = list(e.stats.latency.samples.get(event, ()))[-GRAPH_COLUMNS:]
    if not samples:
        raise CommandError(b"ERR No samples available for event '%b'" % a[2])
    times = [ms for _, ms in samples]
    high, low = max(times), min(times)
    worst = e.stats.latency.worst[event]
    lines = [f"{event} - high {high} ms, low {low} ms (all time high {worst} ms)", "-" * GRAPH_COLUMNS]
    lines += [
        "".join("#" if ms * GRAPH_ROWS > high * row else " " for ms in times).rstrip()
        for row in reversed(range(GRAPH_ROWS))
    ]
    ages = [_age(e.now // 1000 - at) for at, _ in samples]
    longest = max(map(len, ages))
    lines += ["", *("".join(column).rstrip() for column in zip(*(age.ljust(longest) for age in ages), strict=True))]
    return e.reply.verbatim("\n".join(lines).encode() + b"\n")


def _age(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"


@group.command("latency|histogram", -2, _FLAGS, since="7.0.0")
def latency_histogram(e: "Engine", a: Args) -> bytes:
    """Returns the cumulative distribution of latencies of a subset or all commands."""
    wanted = {name.decode("latin-1").lower() for name in a[2:]}
    chosen = [
        (name, each.histogram())
        for name, each in e.usages
        if (not wanted or name in wanted or name.partition("|")[0] in wanted)
    ]
    return e.reply.map((bulk(name.encode()), _distribution(e, pairs)) for name, pairs in chosen if pairs)


def _distribution(e: "Engine", pairs: list[tuple[int, int]]) -> bytes:
    shown = e.reply.map((number(micros), number(calls)) for micros, calls in pairs)
    return e.reply.map([(bulk(b"calls"), number(pairs[-1][1])), (bulk(b"histogram_usec"), shown)])
