"""CLIENT TRACKING and what belongs to it: clients that cache what they read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from titan_objects.store.arguments import integer, option
from titan_objects.store.resp import OK, CommandError, array, bulk, syntax_error
from titan_objects.store.resp import integer as number
from titan_objects.store.table import Args, Group
from titan_objects.store.tracking import PREFIXES_MAX, Tracker

if TYPE_CHECKING:
    from titan_objects.store.engine import Engine

group = Group("connection")

_ANOTHER = b"before disabling tracking for this client, and then re-enabling it with a different mode."


def _wanted(e: "Engine", a: Args) -> tuple[Tracker, list[bytes], set[bytes]]:
    """The options of CLIENT TRACKING, and of them the prefixes, and OPTIN and OPTOUT."""
    wanted, given = Tracker(), list[bytes]()
    choices = set()
    at = 3
    while at < len(a):
        word = a[at].upper()
        if word == b"REDIRECT":
            if wanted.redirect:
                raise CommandError(b"ERR A client can only redirect to a single other client")
            wanted.redirect = integer(option(a, at + 1))
            if wanted.redirect not in e.sessions:
                raise CommandError(b"ERR The client ID you want redirect to does not exist")
            at += 1
        elif word == b"BCAST":
            wanted.broadcasts = True
        elif word in (b"OPTIN", b"OPTOUT"):
            wanted.choice = word.decode().lower()
            choices.add(word)
        elif word == b"NOLOOP":
            wanted.noloop = True
        elif word == b"PREFIX":
            given.append(option(a, at + 1))
            at += 1
        else:
            raise syntax_error()
        at += 1
    return wanted, given, choices


def _check_modes(before: Tracker | None, wanted: Tracker, given: list[bytes], choices: set[bytes]) -> None:
    if given and not wanted.broadcasts:
        raise CommandError(b"ERR PREFIX option requires BCAST mode to be enabled")
    if before is not None and before.broadcasts != wanted.broadcasts:
        raise CommandError(b"ERR You can't switch BCAST mode on/off " + _ANOTHER)
    if wanted.broadcasts and choices:
        raise CommandError(b"ERR OPTIN and OPTOUT are not compatible with BCAST")
    if len(choices) > 1:
        raise CommandError(b"ERR You can't specify both OPTIN mode and OPTOUT mode")
    if before is not None and before.choice and wanted.choice and before.choice != wanted.choice:
        raise CommandError(b"ERR You can't switch OPTIN/OPTOUT mode " + _ANOTHER)


def _check_prefixes(before: Sequence[bytes], given: list[bytes]) -> None:
    for at, prefix in enumerate(given):
        for others, what in ((before, b"an existing"), (given[at + 1 :], b"another provided")):
            for other in others:
                if prefix.startswith(other) or other.startswith(prefix):
                    overlap = b"Prefix '%b' overlaps with %b prefix '%b'" % (prefix, what, other)
                    raise CommandError(b"ERR %b. Prefixes for a single client must not overlap." % overlap)


@group.command("client|tracking", -3, "noscript loading stale", since="6.0.0")
def client_tracking(e: "Engine", a: Args) -> bytes:
    """Controls server-assisted client-side caching for the connection."""
    wanted, given, choices = _wanted(e, a)
    switch = a[2].upper()
    if switch == b"OFF":
        e.tracking.leave(e.session)
        return OK
    if switch != b"ON":
        raise syntax_error()
    before = e.session.tracker
    _check_modes(before, wanted, given, choices)
    if wanted.broadcasts:
        kept = before.prefixes if before is not None else ()
        given = given or [b""]
        if len(kept) + len(given) > PREFIXES_MAX:
            raise CommandError(f"ERR A client can have {PREFIXES_MAX} prefixes")
        _check_prefixes(kept, given)
        wanted.prefixes = (*kept, *given)
    e.tracking.begin(e.session, wanted)
    return OK


@group.command("client|caching", 3, "noscript loading stale", since="6.0.0")
def client_caching(e: "Engine", a: Args) -> bytes:
    """Instructs the server whether to track the keys in the next request."""
    tracker = e.session.tracker
    if tracker is None:
        raise CommandError(
            b"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode "
            b"enabled"
        )
    word = a[2].upper()
    if word not in (b"YES", b"NO"):
        raise syntax_error()
    needed = "optin" if word == b"YES" else "optout"
    if tracker.choice != needed:
        text = f"ERR CLIENT CACHING {word.decode()} is only valid when tracking is enabled in {needed.upper()} mode."
        raise CommandError(text)
    tracker.chosen = True
    return OK


@group.command("client|getredir", 2, "noscript loading stale", since="6.0.0")
def client_getredir(e: "Engine", a: Args) -> bytes:
    """Returns the client ID to which the connection's tracking notifications are redirected."""
    tracker = e.session.tracker
    return number(-1 if tracker is None else tracker.redirect)


@group.command("client|trackinginfo", 2, "noscript loading stale", since="6.2.0")
def client_trackinginfo(e: "Engine", a: Args) -> bytes:
    """Returns information about server-assisted client-side caching for the connection."""
    tracker = e.session.tracker
    flags = ["off"]
    if tracker is not None:
        said = tracker.choice and tracker.chosen and ("caching-yes" if tracker.choice == "optin" else "caching-no")
        flags = ["on", "bcast" if tracker.broadcasts else "", tracker.choice, said or ""]
        flags += ["noloop" if tracker.noloop else "", "broken_redirect" if tracker.broken else ""]
    return e.reply.map(
        [
            (bulk(b"flags"), e.reply.set([bulk(flag.encode()) for flag in flags if flag])),
            (bulk(b"redirect"), number(-1 if tracker is None else tracker.redirect)),
            (bulk(b"prefixes"), array([bulk(each) for each in (tracker.prefixes if tracker is not None else ())])),
        ]
    )
