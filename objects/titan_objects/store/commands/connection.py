"""A client's own connection: who it is, which database, which protocol; and CLIENT, which looks at the others."""

from typing import TYPE_CHECKING

from titan_objects.store.arguments import INT_MAX, integer, integer_within, option
from titan_objects.store.resp import (
    OK,
    ONE,
    PONG,
    RESP2,
    RESP3,
    ZERO,
    CommandError,
    array,
    bad_subcommand,
    bulk,
    simple,
    syntax_error,
)
from titan_objects.store.resp import integer as number
from titan_objects.store.session import Session
from titan_objects.store.table import Args, Group

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("connection")

SERVER_VERSION = "7.0.15"
"""The Redis whose commands and replies are followed; clients read it to know what they may use."""


@group.command("ping", -1, "fast")
def ping(e: "Engine", a: Args) -> bytes:
    """Returns the server's liveliness response."""
    if len(a) > 2:
        raise CommandError(b"ERR wrong number of arguments for 'ping' command")
    if e.session.subscribed and e.reply.version == 2:
        return array([bulk(b"pong"), bulk(a[1] if len(a) == 2 else b"")])
    return bulk(a[1]) if len(a) == 2 else PONG


@group.command("echo", 2, "fast loading stale")
def echo(e: "Engine", a: Args) -> bytes:
    """Returns the given string."""
    return bulk(a[1])


@group.command("select", 2, "loading stale fast")
def select(e: "Engine", a: Args) -> bytes:
    """Changes the selected database."""
    index = integer_within(a[1], -(1 << 31), (1 << 31) - 1)
    if not 0 <= index < len(e.databases):
        raise CommandError(b"ERR DB index is out of range")
    e.db = e.session.db = e.databases[index]
    return OK


def _index(word: bytes, error: bytes) -> int:
    """The number of a database, in 32 bits. Raises CommandError with that text."""
    index = integer(word, error)
    if not -(1 << 31) <= index < 1 << 31:
        raise CommandError(error)
    return index


@group.command("swapdb", 3, "write fast", since="4.0.0")
def swapdb(e: "Engine", a: Args) -> bytes:
    """Swaps two Redis databases."""
    one, other = _index(a[1], b"ERR invalid first DB index"), _index(a[2], b"ERR invalid second DB index")
    if not (0 <= one < len(e.databases) and 0 <= other < len(e.databases)):
        raise CommandError(b"ERR DB index is out of range")
    if one != other:
        e.swap(one, other)
        e.dirty = True
    return OK


@group.command("quit", -1, "noscript allow-busy loading stale fast no-auth")
def quit_(e: "Engine", a: Args) -> None:
    """Closes the connection."""
    session = e.session
    if session.replies == "on":
        session.out.append(OK)
    session.closing = True  # and as nothing is returned, what follows in the pipeline is not executed


@group.command("reset", 1, "noscript allow-busy loading stale fast no-auth", since="6.2.0")
def reset(e: "Engine", a: Args) -> bytes:
    """Resets the connection."""
    session = e.session
    session.queue, session.flawed = None, False
    e.unwatch(session)
    e.exchange.leave(session)
    e.tracking.leave(session)
    e.monitors.leave(session)
    session.told = False
    session.resp = e.reply = RESP2
    session.db = e.db = e.databases[0]
    session.name, session.replies = b"", "on"
    session.user = e.acl.first_user()
    session.look()
    e.look()
    return simple(b"RESET")


# ---- who is there ------------------------------------------------------------------------------------------------


def _authenticate(e: "Engine", word: bytes, name: bytes, password: bytes) -> None:
    wait = e.acl.seconds_to_wait(e.session.address, e.now)
    if wait:
        raise CommandError(f"ERR too many failed AUTH attempts from this address; try again in {wait} s")
    known = name.decode("utf-8", "replace")
    user = e.acl.authenticate(known, password)
    if user is None:
        e.acl.note_failure(e.session, word, known, e.now)
        raise CommandError(b"WRONGPASS invalid username-password pair or user is disabled.")
    e.session.user = user
    e.session.look()


@group.command("auth", -2, "noscript allow-busy loading stale fast no-auth")
def auth(e: "Engine", a: Args) -> bytes:
    """Authenticates the connection."""
    if len(a) > 3:
        raise syntax_error()
    if len(a) == 2 and e.acl.default.nopass:
        raise CommandError(
            b"ERR AUTH <password> called without any password configured for the default user. "
            b"Are you sure your configuration is correct?"
        )
    _authenticate(e, a[0], a[1] if len(a) == 3 else b"default", a[-1])
    return OK


@group.command("hello", -1, "noscript allow-busy loading stale fast no-auth", since="6.0.0")
def hello(e: "Engine", a: Args) -> bytes:
    """Handshakes with the Redis server."""
    session = e.session
    version = session.resp.version
    at = 1
    if len(a) > 1:
        version = integer(a[1], b"ERR Protocol version is not an integer or out of range")
        if version not in (2, 3):
            raise CommandError(b"NOPROTO unsupported protocol version")
        at = 2
    name: bytes | None = None
    credentials: tuple[bytes, bytes] | None = None
    while at < len(a):
        word = a[at].upper()
        if word == b"AUTH" and at + 2 < len(a):
            credentials = (a[at + 1], a[at + 2])
            at += 3
        elif word == b"SETNAME" and at + 1 < len(a):
            name = _checked_name(a[at + 1])
            at += 2
        else:
            raise CommandError(b"ERR Syntax error in HELLO option '%b'" % a[at])
    if credentials is not None:
        _authenticate(e, a[0], *credentials)
    if session.user is None:
        raise CommandError(
            b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH "
            b"<user> <pass> option can be used to authenticate the client and select the RESP protocol version "
            b"at the same time"
        )
    if name is not None:
        session.name = name
    session.resp = e.reply = RESP3 if version == 3 else RESP2
    session.look()
    return e.reply.map(
        [
            (bulk(b"server"), bulk(b"redis")),
            (bulk(b"version"), bulk(SERVER_VERSION.encode())),
            (bulk(b"proto"), number(version)),
            (bulk(b"id"), number(session.id)),
            (bulk(b"mode"), bulk(b"standalone")),
            (bulk(b"role"), bulk(b"master")),
            (bulk(b"modules"), array([])),
        ]
    )


def _checked_name(name: bytes) -> bytes:
    if any(not 33 <= byte <= 126 for byte in name):
        raise CommandError(b"ERR Client names cannot contain spaces, newlines or special characters.")
    return name


# ---- CLIENT ------------------------------------------------------------------------------------------------------


@group.command("client", -2, since="2.4.0")
def client(e: "Engine", a: Args) -> bytes | None:
    """A container for client connection commands."""
    raise CommandError(b"ERR unknown subcommand '%b'. Try CLIENT HELP." % a[1])


@group.command("client|id", 2, "noscript loading stale", since="5.0.0")
def client_id(e: "Engine", a: Args) -> bytes:
    """Returns the unique client ID of the connection."""
    return number(e.session.id)


@group.command("client|setname", 3, "noscript loading stale", since="2.6.9")
def client_setname(e: "Engine", a: Args) -> bytes:
    """Sets the connection name."""
    e.session.name = _checked_name(a[2])
    return OK


@group.command("client|getname", 2, "noscript loading stale", since="2.6.9")
def client_getname(e: "Engine", a: Args) -> bytes:
    """Returns the name of the connection."""
    return bulk(e.session.name) if e.session.name else e.reply.null


@group.command("client|setinfo", 4, "noscript loading stale", since="7.2.0")
def client_setinfo(e: "Engine", a: Args) -> bytes:
    """Sets information specific to the client or connection."""
    word = a[2].lower()
    if word not in e.session.library:
        raise CommandError(b"ERR Unrecognized option '%b'" % a[2])
    e.session.library[word] = _checked_name(a[3])
    return OK


def described(e: "Engine", session: Session) -> str:
    """One line of CLIENT LIST."""
    flags = ("S" if session in e.replication.replicas else "") + ("P" if session.subscribed else "")
    flags += ("b" if session.waiter else "") + ("x" if session.queue is not None else "")
    flags += ("O" if session in e.monitors else "") + ("d" if session.doomed else "")
    flags += "e" if session.no_evict else ""
    tracker = session.tracker
    if tracker is not None:
        flags += "t" + ("R" if tracker.broken else "") + ("B" if tracker.broadcasts else "")
    fields = {
        "id": session.id,
        "addr": session.address,
        "laddr": session.local_address,
        "fd": session.id,
        "name": session.name.decode(),
        "age": (e.now - session.created_ms) // 1000,
        "idle": (e.now - session.last_ms) // 1000,
        "flags": flags or "N",
        "db": session.db.index,
        "sub": len(session.channels),
        "psub": len(session.patterns),
        "ssub": len(session.shards),
        "multi": len(session.queue) if session.queue is not None else -1,
        "watch": len(session.watched),
        # Clients look for these buffers of Redis, which are not counted apart here.
        **dict.fromkeys(("qbuf", "qbuf-free", "argv-mem", "multi-mem", "rbs", "rbp", "obl"), 0),
        "oll": len(session.out),
        "omem": sum(map(len, session.out)),
        "tot-mem": sum(map(len, session.out)),
        "events": "r",
        "cmd": _last_command(e, session),
        "user": session.user.name if session.user else "default",
        "redir": -1 if tracker is None else tracker.redirect,
        "resp": session.resp.version,
        "lib-name": session.library[b"lib-name"].decode(),
        "lib-ver": session.library[b"lib-ver"].decode(),
    }
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _last_command(e: "Engine", session: Session) -> str:
    """The full name. Of a pipeline it is the last that has come, but for the client that asks just now."""
    command = e.table.find(session.last_command)
    if session is e.session or (command is not None and session.last_subcommand.startswith(f"{command.name}|")):
        return session.last_subcommand
    return "NULL" if command is None or command.subcommands else command.name


def kind_of(e: "Engine", session: Session) -> bytes:
    """`normal`, `replica` or `pubsub`."""
    if session in e.replication.replicas:
        return b"replica"
    return b"pubsub" if session.subscribed else b"normal"


def _of_kind(e: "Engine", kind: bytes) -> list[Session]:
    """Clients of a kind. Raises CommandError: there is no such kind."""
    wanted = kind.lower()
    if wanted not in (b"normal", b"master", b"replica", b"slave", b"pubsub"):
        raise CommandError(b"ERR Unknown client type '%b'" % kind)
    wanted = b"replica" if wanted == b"slave" else wanted
    return [session for session in e.sessions.values() if kind_of(e, session) == wanted]


_NO_ID = b"ERR client-id should be greater than 0"


@group.command("client|list", -2, "admin noscript loading stale", since="2.4.0")
def client_list(e: "Engine", a: Args) -> bytes:
    """Lists open connections."""
    chosen = list(e.sessions.values())
    if len(a) > 2:
        word = a[2].upper()
        if word == b"TYPE" and len(a) == 4:
            chosen = _of_kind(e, a[3])
        elif word == b"ID" and len(a) > 3:
            ids = {integer(each, b"ERR Invalid client ID") for each in a[3:]}
            chosen = [session for session in chosen if session.id in ids]
        else:
            raise syntax_error()
    return e.reply.verbatim("".join(f"{described(e, session)}\n" for session in chosen).encode())


@group.command("client|info", 2, "noscript loading stale", since="6.2.0")
def client_info(e: "Engine", a: Args) -> bytes:
    """Returns information about the connection."""
    return e.reply.verbatim(f"{described(e, e.session)}\n".encode())


def _kill(e: "Engine", session: Session) -> None:
    session.closing = True
    session.killed = session is not e.session
    e.outgoing[session] = None


@group.command("client|kill", -3, "admin noscript loading stale", since="2.4.0")
def client_kill(e: "Engine", a: Args) -> bytes:
    """Terminates open connections."""
    if len(a) == 3:
        for session in e.sessions.values():
            if session.address.encode() == a[2]:
                _kill(e, session)
                return OK
        raise CommandError(b"ERR No such client")
    chosen = list(e.sessions.values())
    skip_me = True
    for at in range(2, len(a), 2):
        word, value = a[at].upper(), option(a, at + 1)
        if word == b"ID":
            wanted = integer(value, _NO_ID)
            if wanted <= 0:
                raise CommandError(_NO_ID)
            chosen = [session for session in chosen if session.id == wanted]
        elif word in (b"ADDR", b"LADDR"):
            field = "address" if word == b"ADDR" else "local_address"
            chosen = [session for session in chosen if getattr(session, field).encode() == value]
        elif word == b"TYPE":
            kind = _of_kind(e, value)
            chosen = [session for session in chosen if session in kind]
        elif word == b"USER":
            name = value.decode("utf-8", "replace")
            if name not in e.acl.users:
                raise CommandError(b"ERR No such user '%b'" % value)
            chosen = [session for session in chosen if session.user and session.user.name == name]
        elif word == b"SKIPME" and value.lower() in (b"yes", b"no"):
            skip_me = value.lower() == b"yes"
        else:
            raise syntax_error()
    if skip_me:
        chosen = [session for session in chosen if session is not e.session]
    for session in chosen:
        _kill(e, session)
    return number(len(chosen))


@group.command("client|reply", 3, "noscript loading stale", since="3.2.0")
def client_reply(e: "Engine", a: Args) -> bytes | None:
    """Instructs the server whether to reply to commands."""
    word = a[2].lower()
    if word not in (b"on", b"off", b"skip"):
        raise syntax_error()
    if word == b"skip":
        if e.session.replies != "off":
            e.session.replies = "skip-next"
    else:
        e.session.replies = word.decode()
    e.session.look()
    return OK if word == b"on" else None


@group.command("client|unblock", -3, "admin noscript loading stale", since="5.0.0")
def client_unblock(e: "Engine", a: Args) -> bytes:
    """Unblocks a client blocked by a blocking command from a different connection."""
    if len(a) > 4:
        raise bad_subcommand(a)
    how = a[3].upper() if len(a) == 4 else b"TIMEOUT"
    if how not in (b"TIMEOUT", b"ERROR"):
        raise CommandError(b"ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    session = e.sessions.get(integer(a[2]))
    if session is None or session.waiter is None or session in e.pause.held or session in e.halted:
        return ZERO
    error = b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"
    e.waiting.release(session.waiter, session.waiter.on_timeout if how == b"TIMEOUT" else error)
    return ONE


@group.command("client|no-evict", 3, "admin noscript loading stale", since="7.0.0")
def client_no_evict(e: "Engine", a: Args) -> bytes:
    """Sets the client eviction mode of the connection."""
    if a[2].lower() not in (b"on", b"off"):
        raise syntax_error()
    e.session.no_evict = a[2].lower() == b"on"
    return OK


@group.command("client|pause", -3, "admin noscript loading stale", since="2.9.50")
def client_pause(e: "Engine", a: Args) -> bytes:
    """Suspends commands processing."""
    if len(a) > 4 or (len(a) == 4 and a[3].upper() not in (b"WRITE", b"ALL")):
        raise CommandError(b"ERR CLIENT PAUSE mode must be WRITE or ALL")
    ms = integer(a[2], b"ERR timeout is not an integer or out of range")
    if ms < 0:
        raise CommandError(b"ERR timeout is negative")
    if ms > INT_MAX - e.now:
        raise CommandError(b"ERR timeout is out of range")
    e.pause.begin(e.now + ms, len(a) == 3 or a[3].upper() == b"ALL")
    return OK


@group.command("client|unpause", 2, "admin noscript loading stale", since="6.2.0")
def client_unpause(e: "Engine", a: Args) -> bytes:
    """Resumes processing commands from paused clients."""
    e.pause.end()
    return OK
