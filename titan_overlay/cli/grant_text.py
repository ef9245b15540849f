"""Grants as people see and mail them: as text, and in words."""

from typing import Any

GRANT_PREFIX = "titan-grant:"
DAY = 86400.0


def encode_grant(raw: bytes) -> str:
    """A grant as a text that can be mailed."""
    import base64

    return GRANT_PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_grant(text: str) -> bytes:
    """The grant in a text that `encode_grant` made. Raises ConfigError where there is none."""
    import base64
    import binascii

    from titan_overlay.errors import ConfigError

    text = "".join(text.split())
    if text.startswith(GRANT_PREFIX):
        body = text.removeprefix(GRANT_PREFIX)
        try:
            return base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            pass
    raise ConfigError(f"{text[:40]!r} holds no grant; it begins with {GRANT_PREFIX}, as `titan grant` prints it")


def grant_facts(raw: bytes, now: float) -> dict[str, Any]:
    """What a grant says, for people. `state`: "valid", "expired" or "unreadable"."""
    from titan_overlay.errors import BadMessage, Forbidden
    from titan_overlay.identity import grants
    from titan_overlay.identity.revocations import mark_of_grant

    try:
        pool = grants.claimed_pool(raw)
        links = grants.chain(raw, pool)
    except (BadMessage, Forbidden):
        return {"state": "unreadable"}
    value = links[-1].value
    return {
        "state": "valid" if grants.holds_at(links, now) else "expired",
        "id": mark_of_grant(raw).hex(),
        "rights": grants.words(value.rights).split(","),
        "names": value.pattern,
        "grantee": value.grantee.hex(),
        "expires": value.expires,
        "days_left": round((value.expires - now) / DAY, 2),
        "passes_on": value.depth,
        "pool": pool.hex(),
    }


def grant_line(facts: dict[str, Any]) -> str:
    """The same in a line."""
    if facts["state"] == "unreadable":
        return "unreadable"
    left = {
        "valid": f"{facts['days_left']:g} days left",
        "expired": "expired: ask for a new one",
        "revoked": "revoked",
    }[facts["state"]]
    passes = ", may be passed on" if facts["passes_on"] else ""
    return f"{','.join(facts['rights'])} on {facts['names']} in pool {facts['pool'][:12]}{passes}, {left}"
