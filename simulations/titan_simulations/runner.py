"""Runs scenarios on a fresh virtual loop, and writes down what came of them."""

import contextlib
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from titan_overlay.errors import ConfigError
from titan_overlay.identity.keys import SigningKey
from titan_overlay.testing import run as run_virtual
from titan_overlay.testing.crypto import fake_crypto
from titan_simulations import copies, groups, lookups, points, results, scale, series, skademlia
from titan_simulations.adversary import Adversary, AdversaryConfig
from titan_simulations.churn import Churn, ChurnConfig
from titan_simulations.measure import cpu_seconds
from titan_simulations.progress import Bar
from titan_simulations.results import Result
from titan_simulations.world import Report, network

T = TypeVar("T")

KEYS_TIMED = 2000
PUBLISHED_PER_SECOND = 25.0
"""Objects, in simulated time: only for the progress bar."""


def simulate(
    work: Coroutine[Any, Any, T], *, seed: int, loss: float = 0.0, fake: bool = False, trace: bool = True
) -> T:
    """The result of `work`, run on virtual time."""
    with fake_crypto() if fake else contextlib.nullcontext():
        return run_virtual(work, seed=seed, network=network(loss=loss, trace=trace))


def churn(config: ChurnConfig, *, command: str = "", report: Report = lambda what, now: None) -> tuple[Churn, Result]:
    """One run of churn: the run with its series, and its result."""

    async def main() -> tuple[Churn, Result]:
        run = Churn(config, report)
        await run.run()
        return run, results.churn_result(run, command=command, cpu_of_clock=cpu_seconds() - run.cpu_at_start)

    return simulate(main(), seed=config.seed, loss=config.loss, fake=config.fake_crypto)


def drawing() -> ModuleType:
    """What draws the figures.

    Raises:
        ConfigError: its library is not installed.
    """
    try:
        from titan_simulations import figures
    except ModuleNotFoundError as why:
        raise ConfigError(
            f"figures need {why.name}, which is not installed; run: pip install 'titan-overlay[sim]'"
        ) from None
    return figures


def make(out: Path) -> None:
    """Makes the directory of a run, and tries it. Raises ConfigError: nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as why:
        raise ConfigError(f"--out {out}: nothing can be written there: {why.strerror}") from None


def ready(out: Path) -> ModuleType:
    """As `make` and `drawing`: asked for before a run, not an hour later."""
    make(out)
    return drawing()


def churn_to(out: Path, config: ChurnConfig, command: str) -> Result:
    """Runs churn and writes result.json, series.csv and the figures into `out`."""
    figures = ready(out)
    seconds = 0.1 * config.nodes + config.objects / PUBLISHED_PER_SECOND + config.settle_seconds + config.seconds
    with Bar(f"churn, seed {config.seed}", seconds) as bar:
        run, result = churn(config, command=command, report=bar)
    results.write(result, out / "result.json")
    run.series.write(out / "series.csv")
    figures.churn(series.read(out / "series.csv"), result, out)
    return result


def groups_of(
    config: groups.GroupsConfig, *, command: str = "", report: Report = lambda what, now: None
) -> tuple[groups.Groups, Result]:
    """One run of groups under churn, and its result."""

    async def main() -> tuple[groups.Groups, Result]:
        run = groups.Groups(config, report)
        await run.run()
        return run, groups.result_of(run, command)

    return simulate(main(), seed=config.seed, loss=config.loss, fake=config.fake_crypto)


def groups_to(out: Path, config: groups.GroupsConfig, command: str) -> Result:
    """Runs groups under churn and writes result.json, series.csv and the figures into `out`."""
    figures = ready(out)
    seconds = 0.1 * config.nodes + config.groups / PUBLISHED_PER_SECOND + config.settle_seconds + config.seconds + 60
    with Bar(f"groups, seed {config.seed}", seconds) as bar:
        run, result = groups_of(config, command=command, report=bar)
    results.write(result, out / "result.json")
    series.write(run.rows, out / "series.csv")
    figures.groups(series.read(out / "series.csv"), result, out)
    return result


def copies_to(out: Path, config: copies.CopiesConfig, command: str) -> Result:
    """Runs the sweep over copies and writes copies.json and its figures into `out`."""
    figures = ready(out)
    with Bar(f"copies, seed {config.seed}", 0.1 * config.nodes + 600) as bar:
        result = simulate(copies.run(config, bar, command), seed=config.seed, loss=config.loss, fake=config.fake_crypto)
    results.write(result, out / "copies.json")
    figures.hops_against_copies(result["points"], out)
    figures.load_against_copies(result["points"], out)
    return result


def lookups_to(out: Path, config: lookups.LookupsConfig, command: str) -> Result:
    """Runs look-ups without churn and writes result.json and a figure into `out`."""
    figures = ready(out)
    seconds = 0.1 * config.nodes + config.objects / PUBLISHED_PER_SECOND + config.settle_seconds + 30
    with Bar(f"lookups, seed {config.seed}", seconds) as bar:
        result = simulate(
            lookups.run(config, bar, command), seed=config.seed, loss=config.loss, fake=config.fake_crypto
        )
    results.write(result, out / "result.json")
    figures.rpcs(result["rpcs_histogram"], out)
    return result


def adversary(
    config: AdversaryConfig, *, command: str = "", report: Report = lambda what, now: None
) -> tuple[Adversary, Result]:
    """One attack, share and seed: the run, and its result."""
    per_key = seconds_per_key()

    async def main() -> tuple[Adversary, Result]:
        run = Adversary(config, report)
        measured = await run.run()
        return run, points.adversary_result(run, measured, command=command, seconds_per_key=per_key)

    return simulate(main(), seed=config.seed, loss=config.loss, fake=config.fake_crypto)


def seconds_per_key() -> float:
    """CPU time that it takes to make a key, with real cryptography."""
    began = cpu_seconds()
    for number in range(KEYS_TIMED):
        SigningKey(number.to_bytes(32, "big"))
    return (cpu_seconds() - began) / KEYS_TIMED


def adversary_to(out: Path, config: AdversaryConfig, command: str) -> Result:
    """Runs one attack, share and seed, and writes result.json and the figures into `out`."""
    figures = ready(out)
    objects = config.objects + (1 + len(config.votes)) * config.services
    seconds = 0.1 * config.nodes + objects / PUBLISHED_PER_SECOND + config.settle_seconds + config.seconds
    with Bar(f"{config.attack}, {config.malicious:.0%} liars, seed {config.seed}", seconds) as bar:
        _, result = adversary(config, command=command, report=bar)
    results.write(result, out / "result.json")
    figures.adversary(result["points"], out)
    return result


def skademlia_to(out: Path, config: skademlia.SKademliaConfig, command: str) -> Result:
    """Runs S/Kademlia's look-ups and ours, and writes result.json and the figure into `out`."""
    figures = ready(out)
    with Bar(f"S/Kademlia, seed {config.seed}", len(config.malicious)) as bar:
        result = skademlia.run(config, bar, command)
    results.write(result, out / "result.json")
    figures.skademlia(result["points"], out)
    return result


def scale_to(out: Path, config: scale.ScaleConfig, command: str) -> Result:
    """Measures the simulator and writes result.json into `out`."""
    make(out)
    seconds = config.join_gap * config.nodes + config.objects / PUBLISHED_PER_SECOND + config.settle_seconds
    with Bar(f"scale, seed {config.seed}", seconds + config.seconds) as bar:
        result = simulate(
            scale.run(config, bar, command),
            seed=config.seed,
            loss=config.loss,
            fake=config.fake_crypto,
            trace=config.trace,
        )
    results.write(result, out / "result.json")
    return result
