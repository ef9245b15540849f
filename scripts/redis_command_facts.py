"""Writes what `COMMAND DOCS` and `COMMAND INFO` say beyond the table of commands, as a real redis-server 7.0 has it.

    redis-server --port 7200 &
    python scripts/redis_command_facts.py 7200

Facts alone: which arguments there are and since when, complexity, deprecation, and hints for proxies. Summaries are the
docstrings of the handlers.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import redis

FILE = Path(__file__).resolve().parent.parent / "objects" / "titan_objects" / "store" / "commands" / "facts.json"

_KEPT = ("doc_flags", "deprecated_since", "replaced_by")
_PAIRS = frozenset(("name", "type", "key_spec_index", "token", "since", "deprecated_since", "flags", "arguments"))


def main(port: int) -> None:
    """Asks the server on that port of this machine."""
    client = redis.Redis(port=port, decode_responses=True)
    client.response_callbacks.clear()
    docs = _pairs(client.execute_command("COMMAND", "DOCS"))
    tips = {row[0]: row[7] for row in _rows(client.execute_command("COMMAND", "INFO"))}
    facts = {name: fact for name, doc in _documented(docs) if (fact := _fact(doc, tips.get(name, [])))}
    lines = [f"{json.dumps(name)}: {json.dumps(fact, separators=(',', ':'))}" for name, fact in sorted(facts.items())]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _pairs(flat: list[Any]) -> dict[str, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _rows(rows: list[Any]) -> list[Any]:
    return [found for row in rows for found in (row, *_rows(row[9]))]


def _documented(docs: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name, flat in docs.items():
        doc = _pairs(flat)
        found += [(name, doc), *_documented(_pairs(doc.get("subcommands", [])))]
    return found


def _fact(doc: dict[str, Any], tips: list[str]) -> dict[str, Any]:
    fact: dict[str, Any] = {}
    if "O(" in doc.get("complexity", ""):
        fact["complexity"] = _order(doc["complexity"])
    fact |= {name: doc[name] for name in _KEPT if name in doc}
    if "arguments" in doc:
        fact["arguments"] = [_argument(each) for each in doc["arguments"]]
    if tips:
        fact["tips"] = tips
    return fact


def _order(text: str) -> str:
    """The term alone, such as `O(log(N)+M)`."""
    text, depth = text[text.index("O(") :], 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and not depth and not re.match(r"\s*[+*]\s*O?\(?\w", text[at + 1 :]):
            return text[: at + 1]
    return text


def _argument(flat: list[Any]) -> dict[str, Any]:
    found = {name: value for name, value in _pairs(flat).items() if name in _PAIRS}
    if "arguments" in found:
        found["arguments"] = [_argument(each) for each in found["arguments"]]
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]))
