"""The object itself at one member: an instance of its class, called as the order says. No I/O.

**A handler that raises has changed nothing.** Taking the state apart before each message would cost as much as the
state is large, so nothing is done before. Where a handler raises, the instance goes back to its last checkpoint and
executes again what has come since: handlers are deterministic, so that ends where it began.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Final

from titan_overlay.errors import BadMessage, RemotableError, RemoteError, StorageError
from titan_overlay.identity.ids import node_id
from titan_overlay.mutable.context import Effects, OrderedContext, Turn
from titan_overlay.mutable.declare import MutableType
from titan_overlay.mutable.in_order import in_order, may_have_sets
from titan_overlay.mutable.requests import Part, Reply, failed, text_of
from titan_overlay.pool.context import Sender
from titan_overlay.pool.hosting.handlers import Handler
from titan_overlay.wire import codec

TURNS_MIN = 256
"""Messages between two checkpoints, at the least."""
BYTES_A_TURN = 1024
"""With more state than `TURNS_MIN` of these, checkpoints are rarer: they cost no more than the messages do."""
OUTBOX_MAX: Final = 4096
TIMERS_MAX: Final = 4096
SNAPSHOT_CHUNK_BYTES = 256 << 10


class Instance:
    """See the module.

    Args:
        value: of the class; its state is what it shall be.
    """

    def __init__(self, kind: MutableType, value: Any, name: str, object_id: bytes) -> None:
        self.kind = kind
        self.value = value
        self._name = name
        self._object_id = object_id
        self._handlers: dict[str, Handler] = kind.handlers
        self._since: list[Turn] = []
        """Executed since the checkpoint, in order."""
        self._checkpoint = b"" if kind.state is None else kind.state.encode(value)
        self._next_checkpoint = self._turns()
        """Messages after which it is due."""

    # ---- calling ---------------------------------------------------------------------------------------------

    def call(self, turn: Turn, effects: Effects) -> list[Reply]:
        """One call of a handler; a reply for each message. RemotableError: what it raised; nothing has changed."""
        handler, messages = self._understand(turn.parts)
        try:
            replies = self._call(handler, messages, turn, effects)
        except RemotableError:
            self._undo()
            raise
        if self.kind.state is not None:
            self._since.append(turn)
        return replies

    def together(self, parts: tuple[Part, ...], start: int) -> int:
        """Where the messages end that one call of a handler takes, from `start` on."""
        first = self._handlers.get(parts[start].type)
        end = start + 1
        if first is not None and first.batch:
            while end < len(parts):
                handler = self._handlers.get(parts[end].type)
                if handler is None or handler.method != first.method:
                    break
                end += 1
        return end

    def reads(self, type: str) -> bool:
        """Whether the handler of this type is declared `@titan.readonly`."""
        handler = self._handlers.get(type)
        return handler is not None and handler.readonly

    def read(self, turn: Turn) -> Reply:
        """As `call`, of a handler that changes nothing. Attributes that it has set are put back, and it fails.

        What it changes within a container is not seen: that would take a copy of the state for each read.
        """
        handler, messages = self._understand(turn.parts)
        before = {} if self.kind.state is None else self.kind.state.held(self.value)
        try:
            (reply,) = self._call(handler, messages, turn, Effects(0))
        finally:
            changed = [name for name, value in before.items() if getattr(self.value, name, None) is not value]
            for name in changed:
                setattr(self.value, name, before[name])
        if changed:
            text = (
                f"{handler.method} is declared @titan.readonly, and changes {', '.join(changed)}: nothing has changed"
            )
            raise RemoteError(text, type="TypeError", maybe_executed=False)
        return reply

    def _understand(self, parts: tuple[Part, ...]) -> tuple[Handler, list[Any]]:
        """The handler of these messages, and what is in them. BadMessage: there is none."""
        handler = self._handlers.get(parts[0].type)
        if handler is None:
            takes = ", ".join(sorted(self._handlers))
            raise BadMessage(f"{self._name!r} takes {takes} (and Ping, Info, Stats, Schema), not {parts[0].type!r}")
        try:
            return handler, [self._handlers[each.type].decoder.decode(each.body) for each in parts]
        except (RemotableError, KeyboardInterrupt):
            raise
        except BaseException as why:  # a message's own `__post_init__` may raise anything, like a handler
            raise BadMessage(f"this is not a {parts[0].type}: {text_of(why)}") from None

    def _call(self, handler: Handler, messages: list[Any], turn: Turn, effects: Effects) -> list[Reply]:
        """Runs a handler; gives a reply for each message. RemotableError: what it raised."""
        kept = None if handler.readonly else effects
        context = OrderedContext(sender_of(turn.sender), self._name, self._object_id, turn, kept)
        method = getattr(self.value, handler.method)
        given = messages if handler.batch else messages[0]
        try:
            made = method(given, context) if handler.takes_context else method(given)
            if not handler.batch:
                return [_reply(handler, made)]
            if not isinstance(made, list) or len(made) != len(messages):
                raise TypeError(f"{handler.method} takes {len(messages)} messages, and gives a list of as many replies")
            return [failed(each) if isinstance(each, RemotableError) else _reply(handler, each) for each in made]
        except RemotableError as why:
            why.maybe_executed = False  # and it was not: what it did is undone
            raise
        except KeyboardInterrupt:
            raise  # of whoever stops the node: the others do not see it, so it must not be in the state
        except BaseException as why:  # SystemExit in a handler must not stop all members, and again whenever they start
            raise RemoteError(text_of(why), type=type(why).__name__, maybe_executed=False) from None

    # ---- going back ------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Between two entries: a checkpoint, if one is due."""
        if self.kind.state is not None and len(self._since) >= self._next_checkpoint:
            self._take_checkpoint()

    def _turns(self) -> int:
        return max(TURNS_MIN, len(self._checkpoint) // BYTES_A_TURN)

    def _take_checkpoint(self) -> None:
        assert self.kind.state is not None
        try:
            self._checkpoint = self.kind.state.encode(self.value)
        except TypeError:  # there is something in it that cannot be kept, now: the last one still leads here
            self._next_checkpoint = max(TURNS_MIN, 2 * len(self._since))
        else:
            self._next_checkpoint = self._turns()
            self._since.clear()

    def _undo(self) -> None:
        """The state as it was before the handler that has just raised."""
        if self.kind.state is None:
            return
        self.kind.state.decode(self._checkpoint, self.value)
        for turn in self._since:
            # What they ordered has been kept already.
            try:
                self._call(*self._understand(turn.parts), turn, Effects(0))
            except RemotableError as why:
                type = turn.parts[0].type
                raise RuntimeError(f"{self._name!r} is not deterministic: {type} ended well, and now: {why}") from None
        if self._since:
            self._take_checkpoint()  # who makes handlers raise again and again does not pay with others' time

    # ---- the state -------------------------------------------------------------------------------------------

    def state(self) -> Iterator[bytes]:
        """As it is now, in chunks: the object's own part of a snapshot.

        Raises (at any chunk too):
            TypeError: it cannot be kept. StorageError: the object's own `snapshot` raises.
        """
        if self.kind.state is None:
            # A generator begins at its first step: taken here, so that it sees the state of this moment.
            rest = self._own_chunks()
            return chain([*islice(rest, 1)], rest)
        state = self.kind.state.encode(self.value)
        size = SNAPSHOT_CHUNK_BYTES
        return (state[start : start + size] for start in range(0, len(state), size))

    def _own_chunks(self) -> Iterator[bytes]:
        try:
            yield from self.value.snapshot()
        except (Exception, SystemExit) as why:  # an object that exits must not stop the node
            name = self.kind.cls.__name__
            raise StorageError(f"{name}.snapshot does not work: {type(why).__name__}: {text_of(why)}") from None


class Taking:
    """A new value of a class, as it takes in a state chunk by chunk. All of it raises BadMessage: it does not take
    this.

    Args:
        of_another: class, whose place this one takes.
    """

    def __init__(self, kind: MutableType, *, of_another: bool = False) -> None:
        self.kind = kind
        self._of_another = of_another
        try:
            self.value = kind.cls()
        except (Exception, SystemExit) as why:
            raise BadMessage(f"{kind.cls.__name__}() does not work: {type(why).__name__}: {why}") from None
        self._chunks: list[bytes] = []
        self._done = False

    def add(self, chunk: bytes) -> None:
        """The next chunk."""
        if self.kind.state is not None:
            self._chunks.append(chunk)
            return
        try:
            self.value.restore(chunk)
        except (Exception, SystemExit) as why:
            name = self.kind.cls.__name__
            raise BadMessage(f"{name}.restore does not take this: {type(why).__name__}: {why}") from None

    def done(self) -> None:
        """That was all."""
        state = self.kind.state
        if state is not None and not self._done:
            try:
                state.decode(b"".join(self._chunks), self.value, of_another=self._of_another)
            except BadMessage:
                raise
            except (Exception, SystemExit) as why:  # of `migrate`
                name = self.kind.cls.__name__
                raise BadMessage(f"{name}.migrate does not take this: {type(why).__name__}: {why}") from None
            self._chunks.clear()
        self._done = True


def _reply(handler: Handler, made: Any) -> Reply:
    return Reply(codec.encode(in_order(made) if may_have_sets(handler.reply) else made))


@lru_cache(maxsize=1024)
def sender_of(public: bytes) -> Sender:
    """Who has this key."""
    return Sender(node_id(public), public)
