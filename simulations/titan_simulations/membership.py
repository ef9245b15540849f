"""Who the members of groups really are, looked at from outside every second, and how long it took to replace one."""

from titan_overlay.identity.ids import ObjectId
from titan_overlay.mutable.group import Group
from titan_overlay.mutable.runner import GroupRunner
from titan_overlay.testing.pool import SimulatedNode
from titan_simulations.interruptions import Interruptions
from titan_simulations.operations import Book
from titan_simulations.world import World


class Watched:
    """One group as it was when it was last looked at."""

    __slots__ = ("book", "coming", "epoch", "lost_quorum", "members", "quorum_up")

    def __init__(self, book: Book) -> None:
        self.book = book
        self.epoch = 0
        self.members: frozenset[int] = frozenset()
        """Nodes."""
        self.coming: dict[int, float | None] = {}
        """Members that do not vote yet -> when those last died whom they replace; None: they never did."""
        self.quorum_up = True
        self.lost_quorum = 0
        """Times that fewer than a majority of its members were up."""

    @property
    def quorum(self) -> int:
        return len(self.members) // 2 + 1


class Membership:
    """Looks at all groups of a world."""

    def __init__(self, world: World, books: list[Book], interruptions: Interruptions) -> None:
        self.groups = [Watched(book) for book in books]
        self.replaced = 0
        self.replaced_alive = 0
        """Of them, had returned when the epoch began."""
        self.repair_seconds: list[float] = []
        """From a member's death to the vote of the one in its place."""
        self._world = world
        self._interruptions = interruptions
        self._numbers = {node.key.id: node.number for node in world.sim.nodes}

    def look(self) -> None:
        """Now."""
        for each in self.groups:
            self._look(each)

    def without_quorum(self) -> int:
        """Groups of which too few members are up."""
        return sum(not each.quorum_up for each in self.groups)

    def incomplete(self) -> int:
        """Groups of which not all members are up."""
        return sum(len(self._up(each)) < each.book.size for each in self.groups)

    def unrecoverable(self) -> list[Watched]:
        """Groups of which too few members are not gone for good."""
        gone = self._interruptions.gone
        return [each for each in self.groups if len(each.members - gone) < each.quorum]

    def _look(self, each: Watched) -> None:
        here = self._members_here(each.book.object_id)
        newest = max((group for _, group in here), key=lambda group: group.configuration.epoch, default=None)
        if newest is not None and newest.configuration.epoch > each.epoch:
            self._next_epoch(each, newest)
        for number, group in here:
            if number in each.coming and group.is_member and not group.is_absent:
                died = each.coming.pop(number)
                if died is not None:
                    self.repair_seconds.append(self._world.sim.now - died)
        up = len(self._up(each)) >= each.quorum
        each.lost_quorum += each.quorum_up and not up
        each.quorum_up = up

    def _next_epoch(self, each: Watched, group: Group) -> None:
        members = frozenset(map(self._number, group.configuration.members))
        left, came = sorted(each.members - members), sorted(members - each.members)
        if each.epoch:
            self.replaced += len(left)
            self.replaced_alive += sum(self._world.sim.nodes[number].alive for number in left)
            for number, replaced in zip(came, left, strict=False):
                each.coming[number] = self._interruptions.departed_at.get(replaced)
        each.epoch, each.members = group.configuration.epoch, members

    def _members_here(self, object_id: ObjectId) -> list[tuple[int, Group]]:
        """Of that group, on nodes that are up: by the number of the node."""
        found = []
        for number in self._world.truth.objects[object_id].holders:
            group = group_at(self._world.sim.nodes[number], object_id)
            if group is not None:
                found.append((number, group))
        return found

    def _up(self, each: Watched) -> list[int]:
        return [number for number in each.members if self._world.sim.nodes[number].alive]

    def _number(self, member: bytes) -> int:
        for node in self._world.sim.nodes[len(self._numbers) :]:
            self._numbers[node.key.id] = node.number
        return self._numbers[member]  # type: ignore[index]


def group_at(node: SimulatedNode, object_id: ObjectId) -> Group | None:
    """A node's part in a group; None: it has none now."""
    if not node.alive:
        return None
    resident = node.running.host.get(object_id)
    if resident is None or not isinstance(resident.runner, GroupRunner):
        return None
    return getattr(resident.runner, "group", None)  # it may just be starting
