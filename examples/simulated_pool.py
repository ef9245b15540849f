"""A user's own object, tested on a pool of 50 simulated nodes: `python examples/simulated_pool.py`.

Nodes are killed, cut off and delayed; the clock is simulated, so minutes pass in seconds; the same seed gives the same
run, so a failure can be looked at again.
"""

import asyncio
from pathlib import Path

from titan_overlay.errors import TitanError
from titan_overlay.identity.statements import Policy
from titan_overlay.testing import SimulatedPool

GREETER = f"{Path(__file__).parent / 'greeter.py'}:Greeter"


async def scenario(sim: SimulatedPool) -> None:
    receipt = await sim.publish(GREETER, "greeter", policy=Policy(min_copies=3))
    print(f"{sim.now:6.1f} s  {len(sim.live())} nodes, {len(receipt.holders)} copies")
    await sim.settle()  # the holders get to know each other

    first, second, third = sim.holders("greeter")
    sim.kill(first)
    sim.kill(second)
    pool = await sim.client()
    assert await pool.send("greeter", "you", timeout=30) == "hello, you"
    print(f"{sim.now:6.1f} s  two of three holders are dead, and it answers")

    took = await sim.settle(lambda: len(sim.holders("greeter")) >= 3, within=300)
    print(f"{sim.now:6.1f} s  three copies again, after {took:.0f} s")

    sim.delay(third, 2.0)
    began = sim.now
    assert await pool.send("greeter", "again", timeout=30) == "hello, again"
    print(f"{sim.now:6.1f} s  one holder is slow: answered in {sim.now - began:.2f} s")

    alone = sim.live()[-1]
    sim.partition([alone])
    try:
        await sim.pool(alone).send("greeter", "anyone?", timeout=5)
    except TitanError as why:
        print(f"{sim.now:6.1f} s  a node that is cut off is told so: {type(why).__name__}")
    sim.heal()
    await asyncio.sleep(60)
    assert await sim.pool(alone).send("greeter", "back", timeout=30) == "hello, back"
    print(f"{sim.now:6.1f} s  and is back when the network is; trace {sim.trace_hash[:16]}")


if __name__ == "__main__":
    SimulatedPool.run(scenario, nodes=50, seed=7)
