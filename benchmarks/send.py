"""One message and its reply, between two processes, beside what else there is. TLS on for all.

    python -m benchmarks.send [--seconds 1] [--rounds 7] [--systems links,bare] [--json FILE] [--report]

Client and server are processes of their own (nats has three: client, responder, broker). Rounds of the systems are
interleaved, so that a noisy minute of the machine hits all of them; figures are medians over rounds, ratios are medians
of the ratios within a round. CPU is what the kernel counted for all processes of a system, divided by the messages.
nats-server must be installed (Debian: `apt-get install nats-server`); without it the row is left out.
"""

import argparse
import asyncio
import datetime
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.echoes import SYSTEMS, Call, Certificate
from benchmarks.processes import Spent, answer, listens, load, order, stop
from tests.ports import free_port

PAYLOAD_BYTES = 100
IN_FLIGHT = (1, 64)
BASE = "bare"


# --- the measured processes -------------------------------------------------------------------------------------


async def _serve(name: str, port: int, certificate: Certificate) -> None:
    serve = SYSTEMS[name].serve
    assert serve is not None
    port = await serve(port, certificate)
    print(port, flush=True)
    await order()  # the driver closes stdin when it is done


async def _client(name: str, port: int, certificate: Certificate) -> None:
    """Runs what the driver asks for: lines of `in_flight seconds`, answered with lines of JSON."""
    call = await SYSTEMS[name].connect(port, certificate)
    await call(bytes(PAYLOAD_BYTES))
    print("ready", flush=True)
    while line := await order():
        in_flight, seconds = line.split()
        print(json.dumps(await _load(call, int(in_flight), float(seconds))), flush=True)


async def _load(call: Call, in_flight: int, seconds: float) -> dict[str, Any]:
    done = await load([partial(call, bytes(PAYLOAD_BYTES))] * in_flight, seconds)
    return {"messages": done.count, "rate": done.rate, "p50_us": done.p50 * 1e6, "p99_us": done.p99 * 1e6}


# --- the driver -------------------------------------------------------------------------------------------------


class Running:
    """One system with its processes."""

    def __init__(self, name: str, certificate: Certificate) -> None:
        self.name = name
        self.processes: list[subprocess.Popen[str]] = []
        self.client: subprocess.Popen[str]
        self._certificate = certificate

    def start(self) -> None:
        """Returns when the client has had its first answer."""
        certificate, name = self._certificate, self.name
        system = SYSTEMS[name]
        port = 0
        if system.command is not None:
            port = self._program(system.command, certificate)
        if system.serve is not None:
            port = int(answer(self._python("serve", name, port, certificate)))
        self.client = self._python("client", name, port, certificate)
        assert answer(self.client) == "ready"

    def _python(self, role: str, name: str, port: int, certificate: Certificate) -> subprocess.Popen[str]:
        arguments = [role, name, str(port), str(certificate.chain), str(certificate.key)]
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.send", "--role", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=report.ROOT,
        )
        self.processes.append(process)
        return process

    def _program(self, command: Callable[[int, Certificate], list[str]], certificate: Certificate) -> int:
        port = free_port()
        quiet = subprocess.DEVNULL
        self.processes.append(
            subprocess.Popen(command(port, certificate), stdout=quiet, stderr=quiet, text=True, cwd=report.ROOT)
        )
        for _ in range(200):
            if listens(port):
                return port
            time.sleep(0.05)
        raise RuntimeError(f"{self.name}: its server does not listen")

    def measure(self, in_flight: int, seconds: float) -> dict[str, Any]:
        cpu = Spent(self.processes)
        assert self.client.stdin is not None
        self.client.stdin.write(f"{in_flight} {seconds}\n")
        self.client.stdin.flush()
        result: dict[str, Any] = json.loads(answer(self.client))
        spent = cpu.each()
        result["client_cpu_us"] = spent[-1] / result["messages"] * 1e6
        result["server_cpu_us"] = sum(spent[:-1]) / result["messages"] * 1e6
        result["cpu_us"] = sum(spent) / result["messages"] * 1e6
        return result

    def stop(self) -> None:
        stop(reversed(self.processes))


def make_certificate(directory: Path) -> Certificate:
    """Self-signed, P-256, for `localhost`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(directory / "chain.pem", directory / "key.pem")
    files.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.touch(0o600)
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


Rounds = dict[str, dict[int, list[dict[str, Any]]]]


def measure(names: list[str], rounds: int, seconds: float) -> Rounds:
    """All systems run side by side, idle but for the one that is measured."""
    results: Rounds = {name: {k: [] for k in IN_FLIGHT} for name in names}
    with tempfile.TemporaryDirectory() as directory:
        certificate = make_certificate(Path(directory))
        running: list[Running] = []
        try:
            for name in names:
                running.append(Running(name, certificate))
                running[-1].start()
            for system in running:
                for in_flight in IN_FLIGHT:
                    system.measure(in_flight, seconds / 4)  # warm
            for number in range(rounds):
                # Each round begins with another system: none always runs in another's wake.
                for system in running[number % len(running) :] + running[: number % len(running)]:
                    for in_flight in IN_FLIGHT:
                        results[system.name][in_flight].append(system.measure(in_flight, seconds))
                print(f"round {number + 1} of {rounds}", file=sys.stderr)
        finally:
            for system in running:
                system.stop()
    return results


def summarize(results: Rounds) -> dict[str, Any]:
    summary: dict[str, Any] = {"payload_bytes": PAYLOAD_BYTES, "base": BASE, "systems": {}}
    for name, by_load in results.items():
        row: dict[str, Any] = {}
        for in_flight, measured in by_load.items():
            figures = {key: statistics.median(m[key] for m in measured) for key in measured[0]}
            if BASE in results:
                for key in ("cpu_us", "p50_us"):
                    ratios = [m[key] / b[key] for m, b in zip(measured, results[BASE][in_flight], strict=True)]
                    figures[f"{key}_of_base"] = statistics.median(ratios)
            row[str(in_flight)] = {key: round(value, 3) for key, value in figures.items()}
        summary["systems"][name] = row
    return summary


def markdown(summary: dict[str, Any]) -> str:
    lines = []
    for in_flight in IN_FLIGHT:
        lines += [
            f"{PAYLOAD_BYTES} bytes, {in_flight} in flight:",
            "",
            "| system | messages/s | p50 µs | p99 µs | CPU µs/message | of it client | CPU / bare | p50 / bare |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for name, row in summary["systems"].items():
            m = row[str(in_flight)]
            ratios = [f"{m[k]:.2f}" if k in m else "" for k in ("cpu_us_of_base", "p50_us_of_base")]
            lines.append(
                f"| {SYSTEMS[name].title} | {m['rate']:,.0f} | {m['p50_us']:.0f} | {m['p99_us']:.0f} "
                f"| {m['cpu_us']:.1f} | {m['client_cpu_us']:.1f} | {ratios[0]} | {ratios[1]} |"
            )
        lines.append("")
    return "\n".join(lines).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", action="store_true", help="write the table into docs/benchmarks.md")
    parser.add_argument("--role", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role, name, port, chain, key = options.role
        act: Awaitable[None] = (_serve if role == "serve" else _client)(
            name, int(port), Certificate(Path(chain), Path(key))
        )
        asyncio.run(_run(act))
        return
    names = options.systems.split(",")
    if "nats" in names and shutil.which("nats-server") is None:
        print("nats-server is not installed: its row is left out", file=sys.stderr)
        names.remove("nats")
    summary = summarize(measure(names, options.rounds, options.seconds))
    report.publish_table("send", markdown(summary), summary, options)


async def _run(act: Awaitable[None]) -> None:
    await act


if __name__ == "__main__":
    main()
