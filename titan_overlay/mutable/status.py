"""How one member sees its group, for whoever asks (`health.py` makes one view of all of theirs)."""

from titan_overlay.mutable import talk
from titan_overlay.mutable.group import Group


def status_of(group: Group) -> talk.MemberStatus:
    """As things stand."""
    status = group.engine.status()
    trouble = group.trouble or ("it asks the others what it has promised" if group.is_absent else "")
    return talk.MemberStatus(
        member=group.me.hex(),
        role=talk.GIVEN_UP if group.has_stopped else status.role,
        leader=status.leader.hex() if status.leader else "",
        epoch=group.configuration.epoch,
        term=status.term,
        members=tuple(each.hex() for each in group.configuration.members),
        learners=tuple(each.hex() for each in group.configuration.learners),
        first=status.first,
        last=status.last,
        committed=status.committed,
        executed=group.machine.height,
        snapshot=group.states.checkpoint.index,
        trouble=trouble,
        changes=group.machine.changes,
        root=group.states.written_root.hex(),
    )
