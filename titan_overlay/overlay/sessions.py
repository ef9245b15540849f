"""A session: what two peers share once they have proven their keys to each other.

Every datagram inside a session is

    kind u8 | session id u32 | counter u32 | flags u8 | call id u32 | ... | tag 16

The session id is the receiver's choice, the counter never repeats, and the tag is a keyed BLAKE2b (RFC 7693) over all
that comes before it, with one key per direction. UDP is authentic, not confidential: secrets use links.
"""

import struct
from hashlib import blake2b
from hmac import compare_digest
from math import inf

import msgspec

from titan_overlay.buckets import Limit
from titan_overlay.identity.contacts import Address, Contact

DATA = 0x10
"""First byte of a datagram inside a session; those of the handshake are in `handshake.py`."""

TAG_BYTES = 16
KEY_BYTES = 32
HEAD = struct.Struct(">BIIBI")
MIN_BYTES = HEAD.size + TAG_BYTES

REQUEST, REPLY, REFUSAL, CHALLENGE, PROOF = range(5)
"""What a datagram is: the low three bits of its flags."""
SERVING = 0x08
"""Flag: the sender takes part in routing tables."""
PURPOSE_SHIFT = 4
"""The high four bits of the flags: which account the traffic belongs to (see `traffic.py`)."""

REQUESTS = Limit(rate=500.0, burst=2000.0)
"""Of one peer on another machine, however often it begins a session. Above it, it is refused."""

WINDOW_BITS = 64
REKEY_SECONDS = 12 * 3600.0
REKEY_DATAGRAMS = 1 << 30

TIMEOUT_SECONDS = 1.0
TIMEOUT_SECONDS_MIN = 0.2
TIMEOUT_SECONDS_MAX = 3.0


class RoundTrip(msgspec.Struct, gc=False, eq=False):
    """How long answers take, smoothed (RFC 6298, 2.2 and 2.3)."""

    seconds: float = -1.0
    """Below 0: nothing has been measured."""
    variation: float = 0.0

    def measured(self, seconds: float) -> None:
        """One answer to something that was sent once."""
        if self.seconds < 0:
            self.seconds, self.variation = seconds, seconds / 2
        else:
            self.variation += (abs(self.seconds - seconds) - self.variation) / 4
            self.seconds += (seconds - self.seconds) / 8

    def timeout(self, least: float, most: float) -> float:
        """Seconds after which an answer is late; `TIMEOUT_SECONDS` while nothing is known."""
        if self.seconds < 0:
            return TIMEOUT_SECONDS
        return min(max(self.seconds + 4 * self.variation, least), most)


class Unproven(msgspec.Struct, gc=False, eq=False):
    """An address that datagrams of a session came from, and that the peer has not echoed a challenge from yet."""

    address: Address
    challenge: bytes = b""
    """What was sent there to be echoed; empty: nothing yet."""
    allowance: int = 0
    """Bytes that may still be sent there: never more than came from there."""


class Session(msgspec.Struct, gc=False, eq=False, kw_only=True):
    """One peer, proven. Knows the keys, the replay window, the peer's proven address and how fast it answers.

    Invariant: `address` is one from which the peer has answered something that only it could know.

    A node has hundreds, a simulated pool millions: they are small, and no work for the garbage collector, as nothing
    that one refers to refers to it.
    """

    contact: Contact
    send_id: int
    receive_id: int
    keys: bytes
    """Of what is sent, then of what is received: 32 bytes each."""
    serving: bool
    credentials: bytes
    born: float
    called: bool = False
    """Whether the peer began it."""
    address: Address = ("", 0)
    second: Address | None = None
    """Its address of the other family, proven likewise; datagrams from there are answered there."""
    heard: float = 0.0
    ends: float = inf
    """When it is given up, even in use."""
    sent: int = 0
    highest: int = 0
    window: int = 0
    round_trip: RoundTrip | None = None
    """None: nothing has been measured."""
    silent: int = 0
    """Calls in a row that got no answer."""
    watched: bool = True
    """The next datagram is news: it is the first, or the peer was silent."""
    kept: bool = False
    """Whether the peer is in the routing table: such sessions are the last to be given up."""
    mentioned: bool = False
    """Whether the peer has been told of this node's other address."""
    unproven: Unproven | None = None

    def __post_init__(self) -> None:
        self.address, self.heard = self.contact.address, self.born

    def seal(self, flags: int, call_id: int, rest: bytes) -> bytes:
        """The next datagram to the peer."""
        self.sent = counter = self.sent + 1
        body = HEAD.pack(DATA, self.send_id, counter, flags, call_id) + rest
        return body + blake2b(body, digest_size=TAG_BYTES, key=self.keys[:KEY_BYTES]).digest()

    def opens(self, data: bytes, counter: int) -> bool:
        """Whether this datagram is the peer's and new; if so it is seen from now on (RFC 4303, 3.4.3)."""
        ahead = counter - self.highest
        if ahead <= 0 and (ahead <= -WINDOW_BITS or self.window >> -ahead & 1):
            return False
        tag = blake2b(data[:-TAG_BYTES], digest_size=TAG_BYTES, key=self.keys[KEY_BYTES:]).digest()
        if not compare_digest(tag, data[-TAG_BYTES:]):
            return False
        if ahead > 0:
            self.highest = counter
            self.window = (self.window << ahead | 1) & 0xFFFFFFFFFFFFFFFF if ahead < WINDOW_BITS else 1
        else:
            self.window |= 1 << -ahead
        return True

    def measured(self, seconds: float) -> None:
        """One round trip of a request that was sent once."""
        if self.round_trip is None:
            self.round_trip = RoundTrip()
        self.round_trip.measured(seconds)

    def timeout(self) -> float:
        """Seconds after which an answer is late."""
        if self.round_trip is None:
            return TIMEOUT_SECONDS
        return self.round_trip.timeout(TIMEOUT_SECONDS_MIN, TIMEOUT_SECONDS_MAX)

    def worn(self, now: float) -> bool:
        """Whether it is time for new keys."""
        return now - self.born > REKEY_SECONDS or self.sent > REKEY_DATAGRAMS

    def moved(self, address: Address, size: int) -> None:
        """A valid datagram of `size` bytes came from elsewhere: so many may go there."""
        if self.unproven is None or self.unproven.address != address:
            self.unproven = Unproven(address)
        self.unproven.allowance += size

    def proves(self, address: Address, echo: bytes) -> bool:
        """Whether this, from there, shows that the peer hears at its unproven address."""
        unproven = self.unproven
        return unproven is not None and unproven.address == address and echo == unproven.challenge != b""

    def may_send(self, address: Address, size: int) -> bool:
        """Whether `size` bytes may go there; spends the allowance of an unproven address."""
        if address == self.address or address == self.second:
            return True
        unproven = self.unproven
        if unproven is None or unproven.address != address or size > unproven.allowance:
            return False
        unproven.allowance -= size
        return True

    def __repr__(self) -> str:
        return f"Session({self.contact!r})"
