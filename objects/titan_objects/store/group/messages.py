"""What a door says to the group, and what it hears. All commands that come together travel as one message."""

import msgspec

import titan_overlay as titan


class Section(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Commands of one connection that follow one another."""

    commands: list[list[bytes]]
    db: int = 0
    resp: int = 2
    """In which version of the protocol it is answered."""
    atomic: bool = False
    """They are a transaction."""
    guard: int = 0
    """Of what this connection watches; 0: nothing."""
    heard: dict[bytes, int] = {}
    """How many listen at that door to the channels that the section publishes to."""


class Waiting(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last command found nothing and would wait. It may be tried again once its guard is touched."""

    guard: int
    ms: int
    """How long, from now; 0: for ever."""
    again: list[bytes]
    """The command to try then: what it says of "now" (`$` of XREAD) means the moment of the first try."""
    nothing: bytes
    """The reply once it has waited long enough."""


class Done(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of a section."""

    replies: bytes
    db: int
    executed: int
    """Commands: those behind one that waits, or behind long replies, were not, and are to be sent again."""
    guard: int = 0
    waiting: Waiting | None = None
    parked: tuple[int, int] | None = None
    """Number and size of the replies, which are too long to travel at once: they are fetched with `Rest`."""


class Published(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message for those who listen."""

    channel: bytes
    message: bytes
    shard: bool = False


class News(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What happened besides replies: every door that watches the group brings it to its clients."""

    published: list[Published] = []
    touched: list[int] = []
    """Guards whose key was touched."""


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of all sections, in their order."""

    done: list[Done]
    news: News


class Run(titan.Message[Outcome], namespace="store"):
    """Executes commands at their place in the order."""

    sections: list[Section]
    drop: list[int] = []
    """Guards that nobody needs any more."""


class Look(titan.Message[list[bytes] | None], namespace="store"):
    """Answers commands that only read; None: they depend on what time it is, and have to be ordered."""

    sections: list[Section]
    now: int
    """By the clock of who asks, unix milliseconds."""


class Rest(titan.Message[bytes | None], namespace="store"):
    """Asks for more of replies that are parked; None: they are not kept any more."""

    number: int
    offset: int


class Overview(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What INFO and CONFIG GET say of the group."""

    settings: dict[str, str]
    keys: list[tuple[int, int, int]]
    """Database, keys, of those with an end."""
    expired: int
    evicted: int
    used_bytes: int
    """Estimated; 0 where there is no limit."""


class Survey(titan.Message[Overview], namespace="store"):
    """Asks for an overview."""


class Wake(titan.Message[News], namespace="store"):
    """The store reminds itself that something ends now. From others it changes nothing but the time."""


class Mark(titan.Message[None], namespace="store"):
    """Changes nothing: whoever watches and sees its own mark hears all that comes after it."""

    token: bytes
