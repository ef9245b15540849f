"""Definitions that are kept in the pool: immutable revisions, and a head with its history.

A revision is data of the pool, so its name is the hash of what it says. What can change is which of them is the head,
and an object in its owner's space (`~KEY/dag/definitions/NAME`) remembers who moved it, when and why.
"""

import re
from importlib.metadata import entry_points
from pathlib import Path

import msgspec

import titan_overlay as titan
from titan_objects.dag.checking import check
from titan_objects.dag.definition import Definition
from titan_objects.dag.reading import read_definition

HISTORY_MAX = 1_000
NOTE_LENGTH_MAX = 2_000
INSTALLED = "titan_objects.dags"
"""Group of entry points: definitions that come with installed packages."""
NAMED = re.compile(r"(?:~([0-9a-f]{32})/)?([A-Za-z_][A-Za-z0-9_.-]{0,99})(?:@([0-9a-f]{6,64}))?")


class Revision(msgspec.Struct, frozen=True, array_like=True):
    """From then on, this was the head."""

    data: str
    """`sha256:...`: the definition as JSON."""
    who: str
    when: float
    why: str = ""


class SetHead(titan.Message[None], namespace="dagdefinition"):
    """Makes a revision the head, a new one or one of before. Only the owner may."""

    data: str
    why: str = ""


class History(titan.Message[list[Revision]], namespace="dagdefinition"):
    """Asks for all that was the head; the last one is."""


@titan.mutable("*", policy=titan.Policy(faults=1))
class Definitions:
    """See the module."""

    history: list[Revision] = []

    def set_head(self, m: SetHead, ctx: titan.Context) -> None:
        """Raises Forbidden: it is another's. BadMessage: that is no name of data."""
        who = ctx.sender.id.hex()[:32]
        if not ctx.name.startswith(f"~{who}/"):
            raise titan.Forbidden(f"only the key in whose space {ctx.name!r} lies may say which revision is the head")
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", m.data):
            raise titan.BadMessage("a revision is named sha256:... by the data that it is")
        self.history = [*self.history, Revision(m.data, who, ctx.now, m.why[:NOTE_LENGTH_MAX])][-HISTORY_MAX:]

    @titan.readonly
    def list_history(self, m: History) -> list[Revision]:
        """All that was the head, within a bound."""
        return self.history


async def save(pool: titan.Pool, name: str, definition: Definition, why: str = "", *, faults: int = 0) -> str:
    """Keeps a definition under a name of this user's, and makes it the head; gives its revision.

    Raises:
        BadMessage: the definition makes no sense, or that is no name.
    """
    check(definition)
    try:
        written = msgspec.json.encode(definition, order="deterministic")
    except TypeError:
        raise titan.BadMessage(f"keys of maps are texts in what is kept, and some of {name!r} are not") from None
    place = _place(pool, name)
    try:
        await pool.read(place, History())
    except titan.NotFound:
        await pool.publish(Definitions, place, policy=titan.Policy(faults=faults))
    data = await pool.put(written)
    await pool.send(place, SetHead(data, why))
    return data


async def history(pool: titan.Pool, name: str) -> list[Revision]:
    """All that was the head under a name, the last one is. Raises NotFound."""
    return await pool.read(_place(pool, name), History())


async def load(pool: titan.Pool, name: str, base: Path | None = None) -> Definition:
    """The definition that a name stands for.

    Args:
        name: `./etl.yaml`, a file; `etl`, one that an installed package brings, else one of this user's in the pool;
            `~KEY/etl`, another's. `@` and the beginning of its hash name a revision that is not the head.
        base: the directory from which files are named.

    Raises:
        NotFound: there is none. ConfigError: it cannot be read, or makes no sense.
    """
    if name.startswith(("./", "../", "/")):
        path = (base or Path()) / name
        try:
            return read_definition(path.read_text(), str(path))
        except (OSError, UnicodeDecodeError) as why:
            raise titan.NotFound(f"{path}: {getattr(why, 'strerror', None) or 'is no text'}") from None
    installed = next(iter(entry_points(group=INSTALLED, name=name)), None)
    if installed is not None:
        found = installed.load()
        if not isinstance(found, Definition):
            raise titan.ConfigError(f"{installed.value} of an installed package is no definition of a DAG")
        return found
    try:
        revisions = await history(pool, name)
    except titan.NotFound:
        raise titan.NotFound(f"no definition {name!r}; keep one: titan dag save FILE --name {name}") from None
    begin = name.partition("@")[2]
    named = [each for each in revisions if each.data.startswith(f"sha256:{begin}")]
    if not named:
        raise titan.NotFound(f"{name!r}: there is no such revision; titan dag history shows those that there are")
    text = await pool.get(named[-1].data)
    return read_definition(text.decode(errors="replace"), f"{name}.json")


def _place(pool: titan.Pool, name: str) -> str:
    parts = NAMED.fullmatch(name)
    if parts is None:
        raise titan.BadMessage(f"{name!r} is no name of a definition: letters, digits, `_`, `-` and `.`; or ~KEY/NAME")
    return f"~{parts[1] or pool.id}/dag/definitions/{parts[2]}"
