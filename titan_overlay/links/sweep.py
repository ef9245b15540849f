"""Which links end because nobody uses them, nobody answers on them, or the peer makes this node wait."""

from collections.abc import Sequence

from titan_overlay.links.connection import OPEN
from titan_overlay.links.link import Link
from titan_overlay.links.shared import Limits


def sweep(links: Sequence[Link], limits: Limits, now: float) -> None:
    """Looks at all links of a node; to be called every `limits.probe` seconds."""
    for link in links:
        if link.state is not OPEN:
            continue
        if stuck := link.stuck(limits.progress * limits.probe):
            link.fail(stuck, abort=True)
        elif link.leaving_since is not None and link.quiet:
            link.fail("it was no longer used")
        elif (link.in_flight or link.probed) and now - link.heard > limits.probe:
            if link.probed:
                link.fail("the peer has fallen silent", abort=True)
            else:
                link.ping()
        elif link.quiet and now - max(link.used, link.heard) > limits.idle:
            link.leave()
    _give_up_half_sent(links, limits.half_sent_bytes)


def _give_up_half_sent(links: Sequence[Link], most: int) -> None:
    """The largest of the frames that have begun go first, while all together take too much memory."""
    sizes = {link: link.half_received for link in links if link.half_received}
    while sizes and sum(sizes.values()) > most:
        largest = max(sizes, key=sizes.__getitem__)
        del sizes[largest]
        largest.fail("too much memory for frames that are not complete", abort=True)
