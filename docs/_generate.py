"""Parts of the documentation that the code itself writes, when the site is built.

A page asks for them with a comment on a line of its own:

    <!-- generate:files titan_overlay/overlay -->      the modules of a package, with what each is for
    <!-- generate:commands -->                         every command line, with its options
    <!-- generate:conduct -->                          what counts how much against a peer
    <!-- generate:votes -->                            how often colluding liars win a vote, or spoil it
    <!-- generate:groups -->                           how often a group drawn at random has too many liars
    <!-- generate:redis -->                            which commands of Redis 7.0 the store knows
    <!-- generate:classic -->                          what each opcode of the Titan orchestrator is answered with

Where `<!-- generated -->` stands on a later line, the part between stands in the page itself, for those who read it as
a file: `python docs/_generate.py` writes it there, and a test compares. So these pages cannot fall behind the code.
`mkdocs.yml` names this file under `hooks`.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from math import comb
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
END = "<!-- generated -->"
MARK = re.compile(rf"^<!-- generate:(\w+) ?([^\n]*?) -->$(\n(?:(?!<!-- generate:)[^\n]*\n)*?{END}$)?", re.MULTILINE)

COMMANDS = (
    ("titan", "titan_overlay.cli.titan"),
    ("titan-sim", "titan_simulations.cli"),
)

COMMON = ("--json", "--data", "--verbose", "--bootstrap")
"""What every sub-command of `titan` takes; the page says so once."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page, before it is rendered."""
    return MARK.sub(lambda found: GENERATORS[found[1]](found[2]), markdown)


def written(markdown: str) -> str:
    """A page with those parts renewed that stand in it."""

    def renewed(found: re.Match[str]) -> str:
        head = found[0].partition("\n")[0]
        return f"{head}\n\n{GENERATORS[found[1]](found[2])}\n\n{END}" if found[3] else found[0]

    return MARK.sub(renewed, markdown)


def files(package: str) -> str:
    """A table of the modules of a package (not of those below it), with the first sentence of each docstring."""
    place = ROOT / package
    if not place.is_dir():
        raise FileNotFoundError(f"the documentation names {package}, which is not there")
    rows = ["| file | what it is for |", "|---|---|"]
    for path in sorted(place.glob("*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if path.name != "__init__.py":
            rows.append(f"| `{path.name}` | {_first_sentence(text)} |")
    return "\n".join(rows)


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    sentence = re.split(r"(?<=[.!?]) (?=[A-Z`])", paragraph)[0]
    return sentence.replace("|", "\\|")


def commands(_: str) -> str:
    """Usage, text and options of every command and sub-command."""
    parts: list[str] = [*_node_command()]
    for name, module in COMMANDS:
        parts += _described(_command_of(module), name, 2)
    return "\n\n".join(parts)


def conduct(_: str) -> str:
    """A table of what is remembered of peers, gravest first."""
    from titan_overlay.identity.conduct import Offence

    gravest = sorted(Offence, key=lambda each: (not each.proven, -each.weight))
    rows = [f"| {each.text} | {each.weight:g} | {'proven' if each.proven else 'may be bad luck'} |" for each in gravest]
    return "\n".join(["| what | counts | |", "|---|---|---|", *rows])


REDIS_COMMANDS = ROOT / "docs" / "_redis_commands.txt"


def redis(_: str) -> str:
    """A table of Redis 7.0's commands by group: how many the store knows, and the names of those that it does not."""
    from titan_objects.store.commands import all_commands

    # Those of a cluster are there to say that there is none.
    ours = {command.name for command in all_commands() if command.group != "cluster"}
    rows, known, total = [], 0, 0
    for line in REDIS_COMMANDS.read_text(encoding="utf-8").splitlines():
        group, _, names = line.partition(": ")
        if not line.startswith("#"):
            theirs = set(names.split())
            known, total = known + len(theirs & ours), total + len(theirs)
            missing = ", ".join(f"`{name.upper().replace('|', ' ')}`" for name in sorted(theirs - ours))
            rows.append(f"| {group} | {len(theirs & ours)} of {len(theirs)} | {missing} |")
    head = ["| group | commands | not there |", "|---|---:|---|"]
    return "\n".join([*head, *rows, f"| **all** | {known} of {total} ({known / total:.0%}) | |"])


def classic(_: str) -> str:
    """A table of the Titan orchestrator's opcodes: answered, or refused with a reason."""
    from titan_objects.dag.classic.opcodes import table

    return table()


VOTES = (3, 5, 7, 9)
LIARS = (0.1, 0.2, 0.3, 0.4, 0.5)


def votes(_: str) -> str:
    """A table: how often a vote of v elects the lie of a share of liars, and how often nothing, with 2 v holders.

    The lie needs more than v of 2 v; or just v, if they are those who are asked first.
    """
    rows = ["| votes | " + " | ".join(f"{share:.0%} liars" for share in LIARS) + " |", "|---" * (1 + len(LIARS)) + "|"]
    for count in VOTES:
        cells = []
        for share in LIARS:
            alone = (share * (1 - share)) ** count  # v liars or v honest ones were asked first, and the others last
            tie = more_than(count - 1, 2 * count, share) - more_than(count, 2 * count, share)
            cells.append(f"{more_than(count, 2 * count, share) + alone:.2%}, {tie - 2 * alone:.1%}")
        rows.append(f"| {count} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _command_of(module: str) -> Any:
    import typer.main

    face = importlib.import_module(module)
    return typer.main.get_command(face.complete() if hasattr(face, "complete") else face.app)


def _node_command() -> Iterator[str]:
    """`titan-node` has a parser of its own."""
    from titan_overlay.cli.node import parser

    yield "## titan-node"
    yield f"```text\n{parser().format_help().strip()}\n```"


def _described(command: Any, name: str, level: int) -> Iterator[str]:
    """Markdown for one command of the parser, and for those below it."""
    if command.hidden:
        return
    yield f"{'#' * min(level, 4)} {name}"
    if command.help:
        yield "\n".join(line.strip() for line in command.help.replace("\f", "").splitlines())
    words = [_placeholder(each) for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    if name.startswith("titan "):
        options = [each for each in options if each.opts[0] not in COMMON]
    below = getattr(command, "commands", {})
    tail = ["COMMAND"] if below else words
    yield f"```text\n{' '.join([name, *(['[OPTIONS]'] if options else []), *tail])}\n```"
    if options:
        rows = ["| option | meaning |", "|---|---|"]
        rows += [f"| `{_spelled(each)}` | {_cell(each.help)} |" for each in options]
        yield "\n".join(rows)
    for each in below:
        yield from _described(below[each], f"{name} {each}", level + 1)


def _placeholder(argument: Any) -> str:
    text = (argument.metavar or argument.name.upper()) + ("..." if argument.nargs == -1 else "")
    return text if argument.required or text.startswith("[") else f"[{text}]"


def _spelled(option: Any) -> str:
    flags = ", ".join([*option.opts, *option.secondary_opts])
    return flags if option.is_flag else f"{flags} {option.metavar or option.name.upper()}"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


SHARES = (0.1, 0.2, 0.3)
GROUPS = (4, 7, 10, 13)


def groups(_: str) -> str:
    """How often a group of n = 3t + 1, drawn at random among many nodes, has too many liars."""
    rows = ["| members | liars it survives | " + " | ".join(f"{share:.0%} liars" for share in SHARES) + " |"]
    rows.append("|---|---|" + "---|" * len(SHARES))
    for members in GROUPS:
        survives = (members - 1) // 3
        chances = (more_than(survives, members, share) for share in SHARES)
        rows.append(f"| {members} | {survives} | " + " | ".join(f"{chance:.1%}" for chance in chances) + " |")
    return "\n".join(rows)


def more_than(count: int, drawn: int, share: float) -> float:
    """The chance that of `drawn`, each a liar with this chance, more than `count` are (binomial)."""
    return sum(comb(drawn, k) * share**k * (1 - share) ** (drawn - k) for k in range(count + 1, drawn + 1))


GENERATORS = {
    "files": files,
    "commands": commands,
    "conduct": conduct,
    "votes": votes,
    "groups": groups,
    "redis": redis,
    "classic": classic,
}


if __name__ == "__main__":
    for page in (ROOT / "docs").rglob("*.md"):
        page.write_text(written(page.read_text(encoding="utf-8")), encoding="utf-8")
