"""Transactions: MULTI, EXEC, DISCARD, WATCH."""

from typing import TYPE_CHECKING

from titan_objects.store.admission import NESTED, WATCH_WITHIN, end
from titan_objects.store.resp import OK, CommandError, array, limit_reply
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("transactions")


@group.command("multi", 1, "noscript loading stale allow-busy fast", since="1.2.0")
def multi(e: "Engine", a: Args) -> bytes:
    """Starts a transaction."""
    if e.session.queue is not None:
        raise CommandError(NESTED)
    e.session.queue = []
    e.session.flawed = False
    e.session.look()
    return OK


@group.command("discard", 1, "noscript loading stale allow-busy fast", since="2.0.0")
def discard(e: "Engine", a: Args) -> bytes:
    """Discards a transaction."""
    if e.session.queue is None:
        raise CommandError(b"ERR DISCARD without MULTI")
    end(e, e.session)
    return OK


@group.command("exec", 1, "noscript loading stale skip-slowlog", since="1.2.0")
def exec_(e: "Engine", a: Args) -> bytes:
    """Executes all commands in a transaction."""
    session = e.session
    if session.queue is None:
        raise CommandError(b"ERR EXEC without MULTI")
    for db, key in session.watched:
        db.get(key)  # one that has expired meanwhile has changed
    queue, flawed, doomed = end(e, session)
    if flawed:
        raise CommandError(b"EXECABORT Transaction discarded because of previous errors.")
    if doomed:
        return e.reply.null_array
    start = len(e.effects)
    could_block, e.may_block = e.may_block, False
    replies: list[bytes] = []
    size = 0
    try:
        for args in queue:
            try:
                e.acl.check_queued(session, args, e.now)
                reply = e.call(args)
                size += len(reply)
                limit_reply(size)  # the command was executed, and the rest will be
            except CommandError as why:
                reply = why.reply
                if not why.counted:
                    e.stats.note_error(why.text)
            replies.append(reply)
    finally:
        e.may_block = could_block
        if e.pause.until:
            e.pause.hide()
    if len(e.effects) > start:
        e.wrap(start)
        e.quiet()
    return array(replies)


@group.command("watch", -2, "noscript loading stale allow-busy fast", keys=(1, -1, 1), since="2.2.0")
def watch(e: "Engine", a: Args) -> bytes:
    """Monitors changes to keys to determine the execution of a transaction."""
    if e.session.queue is not None:
        raise CommandError(WATCH_WITHIN)
    for key in a[1:]:
        e.db.get(key)
        e.watch(e.session, key)
    return OK


@group.command("unwatch", 1, "noscript loading stale allow-busy fast", since="2.2.0")
def unwatch(e: "Engine", a: Args) -> bytes:
    """Forgets about watched keys of a transaction."""
    e.unwatch(e.session)
    return OK
