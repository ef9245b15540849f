"""Code blocks of the documentation, as pytest runs them.

A comment on the line before a fence says what to do with the block; readers never see it.

    <!-- runs -->        a command or program that must succeed (`<!-- runs: exit 2 -->`: end with that status)
    <!-- stays -->       a command that goes on running, as in a terminal of its own
    <!-- pool -->        the same, but run once, before all documents: it makes the pool that they share
    <!-- soon -->        a command to repeat until it prints what it should
    <!-- saves -->       a file that others use; any block with a title (```python title="greeter.py") is saved
    <!-- prints -->      what the block before prints; `...` stands for anything

In a command, `titan://...` stands for the join line of the shared pool.
"""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "deploy" / "README.md", *sorted(DOCS.rglob("*.md")))

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[a-z]+)(?:: exit (?P<status>\d+))? -->\n)?"
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?[^\n]*\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_COMMANDS = ("titan", "titan-node", "titan-sim")


@dataclass
class Block:
    """One fenced block. `line`: of its fence, from 1."""

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""
    title: str = ""
    status: int = 0
    prints: str | None = field(default=None)

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in order; one that is marked `prints` becomes a part of the block before it."""
    source = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    for found in _FENCE.finditer(source):
        line = source.count("\n", 0, found.start("language")) + 1
        if found["mark"] == "prints":
            assert blocks and blocks[-1].mark, f"{page.name}:{line}: the block before this output does not run"
            blocks[-1].prints = found["text"]
            continue
        blocks.append(
            Block(
                page,
                line,
                found["language"],
                found["text"],
                found["mark"] or "",
                found["title"] or "",
                int(found["status"] or 0),
            )
        )
    return blocks


def command_lines(block: Block) -> list[list[str]]:
    """The words of each `titan`, `titan-node` and `titan-sim` command in a shell block."""
    text = block.text.replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        for part in re.split(r"\|\||&&|[|;]|(?<!&)&(?!&)|\$\(|\bdo\b", line):
            words = _words(part)
            if words and words[0] in _COMMANDS:
                found.append(words)
    return found


def _words(part: str) -> list[str]:
    try:
        words = shlex.split(part, comments=True)
    except ValueError:  # half of something quoted: no command of ours spans parts
        return []
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    redirected = next((at for at, word in enumerate(words) if re.fullmatch(r"\d?>>?", word)), len(words))
    return words[:redirected]


def matches(expected: str, printed: str) -> bool:
    """Whether this was printed, where `...` stands for anything and the amount of blanks does not matter."""
    printed = " ".join(printed.split())
    at = 0
    for part in expected.split("..."):
        words = " ".join(part.split())
        found = printed.find(words, at)
        if found < 0:
            return False
        at = found + len(words)
    return True
