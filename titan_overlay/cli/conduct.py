"""How a node has behaved towards the user's own node, in words."""

from collections import Counter
from typing import TYPE_CHECKING

from titan_overlay.cli import output
from titan_overlay.cli.face import Face

if TYPE_CHECKING:
    from titan_overlay.client import Pool
    from titan_overlay.pool.orders import Seen

HOUR = 3600.0
ASK_SECONDS = 3.0


async def seen_of(face: Face, pool: "Pool", name: str) -> "Seen | None":
    """What the node of this user on this machine has seen of the node with that name; None: there is none to ask."""
    from titan_overlay.errors import RemotableError
    from titan_overlay.identity import names
    from titan_overlay.pool.orders import Conduct
    from titan_overlay.storage.directory import DataDirectory

    own = DataDirectory.running(face.directory)
    if names.space(name) is not names.Space.NODE or own is None:
        return None
    try:
        return await pool.send(f"node:{own.node.hex()}", Conduct(bytes.fromhex(name[5:])), timeout=ASK_SECONDS)
    except (RemotableError, ValueError):  # it has just stopped, or this is another user's
        return None


def conduct(seen: "Seen") -> str:
    """One line: what went wrong in the last hour, the latest of it, and what follows from that."""
    speed = "" if seen.latency is None else f"answers in {seen.latency * 1000:.0f} ms; "
    recent = Counter(each.what for each in seen.misdeeds if each.ago <= HOUR)
    if not recent:
        return f"{speed}nothing wrong in the last hour"
    counted = ", ".join(f"{count} x {what}" for what, count in recent.most_common())
    latest = seen.misdeeds[-1]
    follows = (
        f"; asked after all others for {output.duration(seen.avoided_for)} from now" if seen.avoided_for > 0 else ""
    )
    return f"{speed}{counted} in the last hour, latest {output.duration(latest.ago)} ago: {latest.why}{follows}"
