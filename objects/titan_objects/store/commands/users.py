"""ACL: users and what they may do."""

from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING

from titan_objects.store.acl_categories import categories
from titan_objects.store.acl_log import Entry
from titan_objects.store.acl_selector import Selector
from titan_objects.store.acl_user import User
from titan_objects.store.arguments import integer
from titan_objects.store.resp import OK, CommandError, array, bulk, bulks
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine
    from titan_objects.store.session import Session

group = Group("server")

_FLAGS = "admin noscript loading stale"


@group.command("acl", -2, since="6.0.0")
def acl(e: "Engine", a: Args) -> bytes:
    """A container for Access List Control commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try ACL HELP." % a[1])


@group.command("acl|whoami", 2, "noscript loading stale", since="6.0.0")
def acl_whoami(e: "Engine", a: Args) -> bytes:
    """Returns the authenticated username of the current connection."""
    return bulk(e.session.user.name.encode() if e.session.user is not None else b"")


@group.command("acl|users", 2, _FLAGS, since="6.0.0")
def acl_users(e: "Engine", a: Args) -> bytes:
    """Lists all ACL users."""
    return bulks([name.encode() for name in sorted(e.acl.users)])


@group.command("acl|list", 2, _FLAGS, since="6.0.0")
def acl_list(e: "Engine", a: Args) -> bytes:
    """Dumps the effective rules in ACL file format."""
    return bulks([user.described() for _, user in sorted(e.acl.users.items())])


def _look_anew(e: "Engine", users: Collection[User]) -> None:
    """Their rules have changed; whoever listens to what it may not hear any more is let go."""
    for session in e.sessions.values():
        user = session.user
        if user is not None and user in users:
            session.look()
            if not _may_listen(session, user):
                _let_go(e, session)


def _may_listen(session: "Session", user: User) -> bool:
    heard = all(user.may_hear(each, exact=False) for each in (*session.channels, *session.shards))
    return heard and all(user.may_hear(each, exact=True) for each in session.patterns)


@group.command("acl|setuser", -3, _FLAGS, since="6.0.0")
def acl_setuser(e: "Engine", a: Args) -> bytes:
    """Creates and modifies an ACL user and its rules."""
    name = a[2].decode("utf-8", "backslashreplace")
    if not name or " " in name or "\0" in name:
        raise CommandError(b"ERR Usernames can't contain spaces or null characters")
    _look_anew(e, [e.acl.change(name, a[3:])])
    return OK


@group.command("acl|deluser", -3, _FLAGS, since="6.0.0")
def acl_deluser(e: "Engine", a: Args) -> bytes:
    """Deletes ACL users, and terminates their connections."""
    names = [name.decode("utf-8", "backslashreplace") for name in a[2:]]
    if "default" in names:
        raise CommandError(b"ERR The 'default' user cannot be removed")
    gone = [user for name in names if (user := e.acl.users.pop(name, None)) is not None]
    _forget(e, gone)
    return number(len(gone))


def _forget(e: "Engine", gone: list[User]) -> None:
    for session in e.sessions.values():
        if session.user in gone:
            session.user = None
            session.look()
            _let_go(e, session)


def _let_go(e: "Engine", session: "Session") -> None:
    session.closing = True
    session.killed = session is not e.session
    e.outgoing[session] = None


@group.command("acl|save", 2, _FLAGS, since="6.0.0")
def acl_save(e: "Engine", a: Args) -> bytes:
    """Saves the effective ACL rules in the configured ACL file."""
    e.acl.save()
    return OK


@group.command("acl|load", 2, _FLAGS, since="6.0.0")
def acl_load(e: "Engine", a: Args) -> bytes:
    """Reloads the rules from the configured ACL file."""
    _forget(e, e.acl.load())
    _look_anew(e, frozenset(e.acl.users.values()))
    return OK


@group.command("acl|getuser", 3, _FLAGS, since="6.0.0")
def acl_getuser(e: "Engine", a: Args) -> bytes:
    """Lists the ACL rules of a user."""
    user = e.acl.users.get(a[2].decode("utf-8", "backslashreplace"))
    if user is None:
        return e.reply.null
    flags = [b"on" if user.enabled else b"off", *([b"nopass"] if user.nopass else [])]
    return e.reply.map(
        [
            (bulk(b"flags"), e.reply.set([bulk(flag) for flag in flags])),
            (bulk(b"passwords"), bulks([each.encode() for each in user.passwords])),
            *_rules(user.root),
            (bulk(b"selectors"), array([e.reply.map(_rules(each)) for each in user.selectors])),
        ]
    )


def _rules(selector: Selector) -> list[tuple[bytes, bytes]]:
    return [
        (bulk(b"commands"), bulk(selector.command_rules())),
        (bulk(b"keys"), bulk(selector.key_rules())),
        (bulk(b"channels"), bulk(selector.channel_rules())),
    ]


@group.command("acl|cat", -2, "noscript loading stale", since="6.0.0")
def acl_cat(e: "Engine", a: Args) -> bytes:
    """Lists the ACL categories, or the commands inside a category."""
    if len(a) == 2:
        return bulks(sorted({each.encode() for command in e.table for each in categories(command)}))
    wanted = a[2].decode("latin-1").lower()
    found = [command.name.encode() for command in e.table if wanted in categories(command)]
    if not found:
        raise CommandError(b"ERR Unknown category '%b'" % a[2])
    return bulks(found)


@group.command("acl|genpass", -2, "noscript loading stale", since="6.0.0")
def acl_genpass(e: "Engine", a: Args) -> bytes:
    """Generates a pseudorandom, secure password that can be used to identify ACL users."""
    bits = integer(a[2]) if len(a) > 2 else 256
    if not 0 < bits <= 4096:
        raise CommandError(
            b"ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096"
        )
    digits = -(-bits // 4)
    return bulk(b"%0*x" % (digits, e.chance.getrandbits(digits * 4)))


@group.command("acl|dryrun", -4, _FLAGS, since="7.0.0")
def acl_dryrun(e: "Engine", a: Args) -> bytes:
    """Simulates the execution of a command by a user, without executing the command."""
    user = e.acl.users.get(a[2].decode("utf-8", "backslashreplace"))
    if user is None:
        raise CommandError(b"ERR User '%b' not found" % a[2])
    command = e.table.find_full(a[3:])
    if command is None:
        raise CommandError(b"ERR Command '%b' not found" % a[3])
    if not command.takes(len(a) - 3):
        raise CommandError(f"ERR wrong number of arguments for '{command.name}' command")
    denial = user.denial(command, a[3:])
    if denial is None:
        return OK
    if denial.reason == "command":
        return bulk(b"This user has no permissions to run the '%b' command" % denial.object)
    return bulk(b"This user has no permissions to access the '%b' %b" % (denial.object, denial.reason.encode()))


@group.command("acl|log", -2, _FLAGS, since="6.0.0")
def acl_log(e: "Engine", a: Args) -> bytes:
    """Lists recent security events generated due to ACL rules."""
    if len(a) > 3:
        raise CommandError(b"ERR wrong number of arguments for 'acl|log' command")
    entries = e.acl.log.entries
    if len(a) == 3 and a[2].upper() == b"RESET":
        entries.clear()
        return OK
    count = integer(a[2]) if len(a) == 3 else 10
    return array([_denied(e, each) for each in islice(entries, max(0, count))])


def _denied(e: "Engine", entry: Entry) -> bytes:
    return e.reply.map(
        [
            (bulk(b"count"), number(entry.count)),
            (bulk(b"reason"), bulk(entry.reason.encode())),
            (bulk(b"context"), bulk(entry.context.encode())),
            (bulk(b"object"), bulk(entry.object)),
            (bulk(b"username"), bulk(entry.user.encode())),
            (bulk(b"age-seconds"), e.reply.double((e.now - entry.last_ms) / 1000)),
            (bulk(b"client-info"), bulk(entry.client.encode())),
        ]
    )
