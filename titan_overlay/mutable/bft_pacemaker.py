"""How long a leader is given. Safety never depends on it; that the group gets on does.

Once messages arrive within some time that nobody knows, and views last longer than that, the first view with an honest
leader commits. So every view that commits nothing makes the next one last twice as long (the pacemaker of DiemBFT v4).
"""

import msgspec

from titan_overlay.mutable.requests import REQUEST_BYTES_MAX


class BftSettings(msgspec.Struct, frozen=True):
    """Times in seconds; every bound that a group's memory and traffic have."""

    view: float = 1.0
    """A leader must commit what waits within this time."""
    view_max: float = 64.0
    repeats: int = 4
    """How often in a view what may have been lost is sent again."""
    block_bytes_max: int = 1 << 18
    """A single entry may be bigger; then it has a block for itself."""
    block_bytes_bound: int = REQUEST_BYTES_MAX + 2048
    """No votes for a block that is larger than the largest entry: it might fit into a proposal, but not be handed on
    with the certificates that prove it, and whoever missed it would be lost to the group."""
    block_entries_max: int = 1024
    queue_bytes_max: int = 8 << 20
    queue_entries_max: int = 4096
    """What a leader holds that is in no block yet."""
    reply_bytes_max: int = 1 << 19
    checkpoint_blocks: int = 128
    window_blocks: int = 512
    """No votes for blocks that are further than this above the last stable checkpoint: members that cannot agree on
    a state stop, and what they hold stays bounded."""


class Pacemaker:
    """Two clocks: one for giving the view up, one for sending again. Neither runs while nothing waits."""

    __slots__ = ("_failures", "_requests", "_settings", "_since", "patience", "repeat")

    def __init__(self, settings: BftSettings) -> None:
        self._settings = settings
        self._failures = 0
        """Views in a row that ended without a commit."""
        self.patience = settings.view
        """How long this view may commit nothing."""
        self._since: float | None = None
        """When the block under way began to wait, in this view."""
        self._requests: float | None = None
        """Since when, in this view, the request that has waited longest waits."""
        self.repeat: float | None = None
        """When to send again."""

    @property
    def expires(self) -> float | None:
        """When the view must be given up; None: not as things are."""
        if self._since is None or self._requests is None:
            since = self._requests if self._since is None else self._since
        else:
            since = min(self._since, self._requests)
        return None if since is None else since + self.patience

    def enter(self, now: float) -> None:
        """A view begins, because the last one was given up."""
        self._fail(self._failures + 1)
        self._since = None
        self.repeat = None
        if self._requests is not None:
            self._requests = now

    def commit(self, now: float) -> None:
        """A block of this view has been committed."""
        self._fail(0)
        self._since = now if self._since is not None else None
        self.repeat = now + self._pause if self.repeat is not None else None

    def requests(self, waiting: bool, now: float) -> None:
        """Another request has become the one that has waited longest, or none waits."""
        self._requests = now if waiting else None

    def observe(self, on_leader: bool, on_others: bool, now: float) -> None:
        """Winds the clocks, or stops them: whether a block is under way that the leader must see committed, and
        whether others are to send something.
        """
        if not on_leader:
            self._since = None
        elif self._since is None:
            self._since = now
        if not on_leader and not on_others and self._requests is None:
            self.repeat = None
        elif self.repeat is None:
            self.repeat = now + self._pause

    def repeated(self, now: float) -> None:
        """What may have been lost was sent again."""
        self.repeat = now + self._pause

    def _fail(self, times: int) -> None:
        self._failures = times
        self.patience = min(self._settings.view * 2.0 ** min(times, 64), self._settings.view_max)

    @property
    def _pause(self) -> float:
        return self.patience / self._settings.repeats
