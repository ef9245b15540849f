"""Room on disk: what is taken of what this node lends, and what the disk itself has left."""

from titan_overlay.errors import Overloaded
from titan_overlay.storage.disk import Disk
from titan_overlay.values import MIB, format_size

RETRY_SECONDS = 600.0
"""When it is worth asking a full node again."""


class Room:
    """At most `max_bytes`; `used` counts what is taken or reserved."""

    def __init__(self, disk: Disk, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0
        self._disk = disk

    def fits(self, cost: int) -> bool:
        """Whether so many bytes more are within the quota."""
        return self.used + cost <= self.max_bytes

    def check(self, cost: int) -> None:
        """Raises Overloaded: so many bytes are more than this node lends at all."""
        if cost > self.max_bytes:
            # Rounded up: a file as large as what is lent has a manifest beside it, and both would read "1 GiB".
            raise Overloaded(
                f"no room for {_human(cost)}: this node lends {format_size(self.max_bytes)}; its operator may raise "
                f"that with --max-bytes ({-(-cost // MIB)}MiB at least)",
                retry_after=RETRY_SECONDS,
            )

    async def reserve(self, cost: int, *, on_disk: int) -> None:
        """Counts `cost` bytes as used, of which `on_disk` are written already.

        Raises:
            Overloaded: above the quota, or more than the disk has.
        """
        if not self.fits(cost):
            raise Overloaded(
                f"no room for {_human(cost)}: this node lends {format_size(self.max_bytes)} and {_human(self.used)} "
                "of it are taken; its operator may raise the quota with --max-bytes",
                retry_after=RETRY_SECONDS,
            )
        self.used += cost
        try:
            free = await self._disk.free()
        except BaseException:
            self.used -= cost
            raise
        if cost - on_disk > free:
            self.used -= cost
            raise Overloaded(
                f"no room for {_human(cost)}: the disk of this node has {_human(free)} left, although its quota "
                "(--max-bytes) would allow it",
                retry_after=RETRY_SECONDS,
            )


def _human(size: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
