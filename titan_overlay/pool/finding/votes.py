"""Calling a service whose policy asks for votes: several holders are asked, more where they differ; most must agree.

`polling.py` decides; this asks. Voters are drawn at random among those that were asked to hold the object and have
behaved well: not by speed, of which liars have as much as they like. Who holds the object itself does not come here at
all: it trusts its own copy.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from math import log

from titan_overlay.ambient import Ambient
from titan_overlay.errors import (
    BadMessage,
    DeadlineExceeded,
    LinkError,
    NotHere,
    Overloaded,
    RemotableError,
    TitanError,
    Unavailable,
)
from titan_overlay.identity.contacts import Contact
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.records import Signed
from titan_overlay.identity.statements import Advertisement
from titan_overlay.pool.finding.any_holder import AnyHolder, Request, Tally, is_idempotent
from titan_overlay.pool.finding.comparing import Comparison, Form
from titan_overlay.pool.finding.places import Place, Places
from titan_overlay.pool.finding.polling import Ballot, Poll, majority
from titan_overlay.pool.finding.voters import asked_to, distinct
from titan_overlay.pool.finding.witness import Witness
from titan_overlay.pool.questions import QUESTIONS

CLOSES_BEFORE = 0.05
"""Share of the time given that is kept back to say what came of the vote (at most `CLOSES_BEFORE_MOST`)."""
CLOSES_BEFORE_MOST = 0.2

_NO_VOTE = (NotHere, Overloaded, LinkError, DeadlineExceeded)
"""What a holder says of itself, not what the object answers."""


Holder = Signed[Advertisement]


class Votes:
    """The caller of services with `Policy(votes=...)`."""

    def __init__(self, places: Places, any_holder: AnyHolder, ambient: Ambient, witness: Witness, pool: PoolId) -> None:
        self._places = places
        self._any_holder = any_holder
        self._ambient = ambient
        self._witness = witness
        self._pool = pool

    def stream(self, place: Place, request: Request) -> AsyncIterator[bytes]:
        """Raises BadMessage: streams cannot be compared."""
        raise BadMessage(
            f"{place.descriptor.value.name!r} is voted on: a stream of replies cannot be; send the message"
        )

    async def __call__(self, place: Place, request: Request) -> bytes:
        """The answer of a majority; `request.tally` says how it came about.

        Raises:
            RemotableError: the error of which a majority agrees that it is the answer.
            BadMessage: messages of this type may not run more than once.
            Unavailable: there is no majority, or there are not enough voters.
        """
        descriptor = place.descriptor.value
        if request.type in QUESTIONS:  # about the copy itself
            return await self._any_holder(place, request)
        if not is_idempotent(descriptor, request.type):
            raise BadMessage(
                f"{descriptor.name!r} is voted on, so its messages run at several holders, "
                f"and {request.type!r} is not declared idempotent there (@titan.idempotent)"
            )
        votes = descriptor.policy.votes
        voters = self.asked(place)
        few = len(voters) < votes
        if few:
            place = await self.look_up(place, request)
            voters = self.voters(place, ())
        if len(voters) < majority(votes):
            raise Unavailable(
                f"{descriptor.name!r} is voted on: {majority(votes)} of {votes} holders of distinct owners and "
                f"subnets have to agree, and {len(voters)} are known; see: titan locate {descriptor.name}"
            )
        return await _Vote(self, self._any_holder, self._witness, place, request).run(voters, are_all=few)

    def voters(self, place: Place, before: Sequence[Holder]) -> list[Holder]:
        """Who may vote beside those before, in the order to ask them.

        Those that were asked to hold it; only where they are fewer than a majority, which could not elect whatever
        they say, others after them. One of those for an empty seat would be one more liar.
        """
        asked, others = self._drawn(place)
        voters = self._distinct(place, [*before, *asked])
        if len(voters) < majority(place.descriptor.value.policy.votes):
            voters = self._distinct(place, [*before, *asked, *others])
        return voters[len(before) :]

    def asked(self, place: Place) -> list[Holder]:
        """As `voters`, of those alone that were asked to hold it."""
        return self._distinct(place, self._drawn(place)[0])

    def _distinct(self, place: Place, holders: Sequence[Holder]) -> list[Holder]:
        return distinct(holders, self._pool, place.contact)

    def _drawn(self, place: Place) -> tuple[list[Holder], list[Holder]]:
        """Holders that were asked to hold it and others, each in the order of a draw."""
        current = place.descriptor.value.version
        holders = [each for each in place.holders if each.value.version >= current and not each.value.passing]
        likely = asked_to(holders, place.descriptor, self._pool)

        def turn(holder: Holder) -> tuple[bool, float]:
            # Drawn without putting back, by weight (Efraimidis and Spirakis 2006, algorithm A).
            drawn = -log(1.0 - self._ambient.random.random()) / likely.get(holder, 1.0)
            return self._witness.avoids(holder.signer), drawn

        return sorted(likely, key=turn), sorted((each for each in holders if each not in likely), key=turn)

    async def look_up(self, place: Place, request: Request) -> Place:
        """The place, with all holders that the region knows of."""
        name = place.descriptor.value.name
        return await self._places.find(request.object_id, name=name, deadline=request.deadline, fresh=True)


class _Vote:
    """One vote under way."""

    def __init__(self, votes: Votes, any_holder: AnyHolder, witness: Witness, place: Place, request: Request) -> None:
        self._votes = votes
        self._any_holder = any_holder
        self._witness = witness
        self._place = place
        self._request = request
        self._name = place.descriptor.value.name
        self._comparison = Comparison(place.descriptor.value.policy.compare)
        self._running: dict[asyncio.Task[Form], Holder] = {}
        self._due: dict[asyncio.Task[Form], float] = {}
        self._loop = asyncio.get_running_loop()

    async def run(self, voters: list[Holder], *, are_all: bool) -> bytes:
        """The elected answer; `are_all`: others were looked for. Raises as `Votes`."""
        poll = Poll(self._place.descriptor.value.policy.votes, voters, self._comparison, are_all=are_all)
        left = self._request.deadline - self._loop.time()
        closes = self._request.deadline - min(CLOSES_BEFORE_MOST, CLOSES_BEFORE * left)
        self._ask(poll.start())
        try:
            while poll.elected is None and not poll.hopeless and self._loop.time() < closes:
                if poll.is_short:
                    self._ask(poll.more(await self._more(voters, closes)))
                elif self._running:
                    await self._wait(poll, closes)
                else:
                    break
            poll.close()
        except BaseException:
            self._cancel()
            raise
        self._request.tally = Tally(poll.asked, len(poll.ballots), poll.leading, poll.needed)
        if poll.elected is None:
            self._cancel()
            raise Unavailable(
                f"no majority for {self._name!r}: {poll.asked} holders asked, {len(poll.ballots)} answered, "
                f"{poll.leading} agreed, {poll.needed} of {poll.electorate} needed"
            )
        self._remember(poll, poll.elected)
        if poll.elected.form.error is not None:
            raise poll.elected.form.error
        return poll.elected.form.body

    def _ask(self, holders: Iterable[Holder]) -> None:
        for holder in holders:
            contact = self._place.contact(holder)
            task = self._loop.create_task(self._answer(contact))
            self._running[task] = holder
            self._due[task] = self._loop.time() + self._any_holder.patience(contact.id)

    async def _answer(self, contact: Contact) -> Form:
        """What the object answers there, be it an error. Raises what the holder says of itself."""
        answer: bytes | RemotableError
        try:
            answer = await self._any_holder.ask(contact, self._place.descriptor.value, self._request)
        except _NO_VOTE:
            raise
        except RemotableError as why:
            answer = why
        return self._comparison.form(answer)

    async def _wait(self, poll: Poll[Holder], closes: float) -> None:
        """Until something has happened, and what follows from it."""
        first = min(self._due.values(), default=closes)
        timeout = max(0.0, min(first, closes) - self._loop.time())
        done, _ = await asyncio.wait(self._running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in [each for each in self._running if each in done]:
            if poll.elected is not None:
                return  # what else has come is heard late
            holder = self._running.pop(task)
            self._due.pop(task, None)
            try:
                self._ask(poll.answered(holder, task.result()))
            except TitanError as why:
                self._witness.failed(holder.signer, self._name, why)
                self._ask(poll.failed(holder))
        for task in [each for each, when in self._due.items() if when <= self._loop.time()]:
            del self._due[task]
            self._witness.late(self._running[task].signer, self._name)
            self._ask(poll.late(self._running[task]))

    async def _more(self, before: Sequence[Holder], closes: float) -> list[Holder] | None:
        """Voters that nobody had heard of; None: that could not be found out."""
        try:
            async with asyncio.timeout_at(closes):
                return self._votes.voters(await self._votes.look_up(self._place, self._request), before)
        except (TimeoutError, RemotableError):
            return None

    def _remember(self, poll: Poll[Holder], elected: Ballot[Holder]) -> None:
        """The minority, and the majority. Who has not answered yet is no longer waited for, but still heard."""
        for ballot in poll.ballots:
            self._judge(ballot.voter, ballot.form, elected)
        for task, holder in self._running.items():
            task.add_done_callback(partial(self._heard_late, holder, elected))
        _LAGGING.update(self._running)

    def _judge(self, holder: Holder, form: Form, elected: Ballot[Holder]) -> None:
        if self._comparison.same(form, elected.form):
            self._witness.good(holder.signer)
        else:
            self._witness.outvoted(holder.signer, f"{self._name}: {elected.agreed} others agreed on another answer")

    def _heard_late(self, holder: Holder, elected: Ballot[Holder], task: "asyncio.Task[Form]") -> None:
        _LAGGING.discard(task)
        if task.cancelled():
            return
        why = task.exception()
        if why is None:
            self._judge(holder, task.result(), elected)
        elif isinstance(why, TitanError):
            self._witness.failed(holder.signer, self._name, why)

    def _cancel(self) -> None:
        for task in self._running:
            task.cancel()


_LAGGING: set[asyncio.Task[Form]] = set()
"""Voters whose answer is no longer waited for (a loop keeps no reference to its tasks). Each ends by its deadline."""
