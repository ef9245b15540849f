"""What the simulator costs: CPU for a simulated minute of an idle pool, memory per node, joining."""

import asyncio

import msgspec

from titan_overlay.identity.statements import Policy
from titan_simulations.measure import cpu_seconds, rss_bytes
from titan_simulations.results import Result, common_of
from titan_simulations.world import Report, World


class ScaleConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a run. Times in seconds."""

    nodes: int = 1000
    objects: int = 1000
    copies: int = 3
    seconds: float = 300.0
    """Measured, after joining, publishing and settling."""
    join_gap: float = 0.1
    loss: float = 0.0
    seed: int = 1
    settle_seconds: float = 60.0
    fake_crypto: bool = False
    trace: bool = True


async def run(config: ScaleConfig, report: Report, command: str) -> Result:
    """Joins, publishes, and lets whole nodes do their upkeep for a while."""
    began, memory = cpu_seconds(), rss_bytes()
    world = World(config.nodes, seed=config.seed, min_copies=config.copies, join_gap=config.join_gap, report=report)
    async with world:
        joined, join_memory, join_end = cpu_seconds(), rss_bytes(), world.sim.now
        sizes = [each.running.overlay.estimated_size() for each in world.live()]
        tables = [len(each.running.overlay.table) for each in world.live()]
        serving = sum(each.running.overlay.serving for each in world.live())
        await world.publish(config.objects, Policy(min_copies=config.copies, cache=False))
        await asyncio.sleep(config.settle_seconds)
        start, callbacks = cpu_seconds(), world.sim.loop.callbacks
        steps = max(1, round(config.seconds / 5))
        for step in range(steps):
            await asyncio.sleep(config.seconds / steps)
            report(f"minute {(step + 1) * config.seconds / steps / 60:.1f}", world.sim.now)
        spent = cpu_seconds() - start
        return {
            **common_of(world.sim, "scale", config, config.seed, command),
            "nodes": config.nodes,
            "nodes_serving": serving,
            "objects": config.objects,
            "join_seconds_simulated": join_end,
            "join_cpu_seconds": joined - began,
            "join_cpu_seconds_per_node": (joined - began) / config.nodes,
            "table_contacts_mean": sum(tables) / len(tables),
            "pool_size_estimated_mean": sum(sizes) / len(sizes),
            "cpu_seconds_per_simulated_minute": spent / (config.seconds / 60),
            "callbacks_per_simulated_minute": (world.sim.loop.callbacks - callbacks) / (config.seconds / 60),
            "bytes_per_node": (join_memory - memory) / config.nodes,
            "rss_bytes_before": memory,
            "rss_bytes_joined": join_memory,
            "rss_bytes_end": rss_bytes(),
            "copies_mean": world.truth.copies / max(1, config.objects),
        }
