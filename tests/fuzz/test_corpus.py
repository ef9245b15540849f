"""The inputs that are kept find nothing, and no decoder is without a target."""

import ast
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import titan_objects
import titan_overlay
from tests.fuzz.engine import KEPT_BYTES_MAX, mutated
from tests.fuzz.target import CORPUS, TARGETS, Drawn, Target, all_targets, read, story

TARGETS_ALL = all_targets()
ROOTS = [Path(package.__file__ or "").parent for package in (titan_overlay, titan_objects)]


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("target", TARGETS_ALL, ids=repr)
def test_what_was_found_once_is_found_no_more(target: Target) -> None:
    noise = random.Random(target.name)
    inputs = [*target.seeds(), *target.corpus()]
    for data in inputs:
        target(data)
    for _ in range(20):
        target(mutated(noise, inputs, target.limit))


@pytest.mark.parametrize("target", TARGETS_ALL, ids=repr)
def test_most_seeds_are_what_the_target_takes(target: Target) -> None:
    """A target whose seeds are all refused looks at nothing."""
    taken = 0
    for data in target.seeds():
        try:
            target._run(data)
        except target.errors:
            continue
        taken += 1
    assert taken or target.name in REFUSE_ALL


REFUSE_ALL = {"tls": "an end alone completes no handshake", "environment": "its first byte chooses a variable"}


def test_the_corpus_is_small_and_has_no_strays() -> None:
    files = sorted(CORPUS.glob("*"))
    assert {file.stem for file in files} <= TARGETS.keys()
    for file in files:
        assert sum(map(len, read(file))) <= 2 * KEPT_BYTES_MAX
    assert sum(file.stat().st_size for file in files) < 400_000


# --- no decoder without a target --------------------------------------------------------------------------------

ALWAYS = {"unpack", "unpack_from", "fromhex", "b64decode", "load_der_x509_certificate", "decompress", "convert"}
OF_A_MODULE = {("json", "loads"), ("tomllib", "loads")}


def _decoding(tree: ast.Module) -> Iterator[str]:
    """Names of the functions in which bytes or text become values."""

    def walk(node: ast.AST, inside: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                dot = ".<locals>." if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else "."
                yield from walk(child, f"{inside}{dot}{child.name}" if inside else child.name)
                continue
            if isinstance(child, ast.Call) and (_is_decoder(child.func) or _decodes(child)):
                yield inside
            yield from walk(child, inside)

    yield from walk(tree, "")


def _is_decoder(function: ast.expr) -> bool:
    if not isinstance(function, ast.Attribute):
        return False
    owner = ast.unparse(function.value)
    return function.attr in ALWAYS or (owner.rpartition(".")[2], function.attr) in OF_A_MODULE


def _decodes(call: ast.Call) -> bool:
    """`handler.decoder.decode(body)`; neither `text.decode("ascii")` nor `codec.decode(data, Kind)`."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "decode" or not call.args:
        return False
    if ast.unparse(call.func.value) == "codec":
        return False  # total for every type, and `bodies` has every Struct there is, whoever adds one
    return not (isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str))


def _places() -> set[str]:
    found = set()
    for root in ROOTS:
        for path in sorted(root.rglob("*.py")):
            if "testing" in path.parts:
                continue
            shown = path.relative_to(root.parent).as_posix()
            found |= {f"{shown}:{name}" for name in _decoding(ast.parse(path.read_text(encoding="utf-8"))) if name}
    return found


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_every_place_that_decodes_is_reached_by_a_target() -> None:
    """Whoever adds a decoder adds it to a target (`tests/fuzz/targets/`), or says why not in `NOT_FUZZED`."""
    codes: set[CodeType] = set()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            codes.add(frame.f_code)

    for target in TARGETS_ALL:
        inputs = [*target.seeds(), *target.corpus()]
        sys.setprofile(watch)
        try:
            for data in inputs:
                target(data)
        finally:
            sys.setprofile(None)
    reached = set()
    for code in codes:
        for root in ROOTS:
            path = Path(code.co_filename)
            if path.is_relative_to(root):
                reached.add(f"{path.relative_to(root.parent).as_posix()}:{code.co_qualname}")
    missing = _places() - reached - NOT_FUZZED.keys()
    assert not missing, "no target reaches\n" + "\n".join(sorted(missing))
    assert NOT_FUZZED.keys() <= _places(), "no longer there"


OWN = "what this program, its user or its own node wrote"
RESTORED = "whatever it raises, `Machine.restore` refuses the snapshot: `own_snapshot`"

NOT_FUZZED = {
    "titan_overlay/cli/conduct.py:seen_of": OWN,
    "titan_overlay/cli/pool.py:change": OWN,
    "titan_overlay/cli/revoking.py:_is_gone": OWN,
    "titan_overlay/cli/trust.py:_import_grant": OWN,
    "titan_overlay/client.py:Pool._key_for": OWN,
    "titan_overlay/deleting.py:delete": OWN,
    "titan_overlay/mutable/group.py:Group.receive": "messages of an engine: `raft_message`, `bft_message`",
    "titan_overlay/mutable/recovery.py:Recovery._group": OWN,
    "titan_overlay/mutable/recovery.py:Recovery.carry_out": OWN,
    "titan_overlay/mutable/upgrading.py:upgrade": OWN,
    "titan_overlay/mutable/repair.py:Repair._is_named": "a status is a body, its leader's id may be anything",
    "titan_objects/dag/authoring.py:_Plan.add": OWN,
    "titan_objects/dag/child.py:main": OWN,
    "titan_objects/store/commands/catalogue.py:facts": OWN,
    "titan_objects/dag/node_cli.py:limits_of": OWN,
    "titan_objects/dag/cli.py:_params": OWN,
    "titan_objects/dag/submitted.py:SubmittedRun._with_code": "the bundle is what `bundle` is given",
    "titan_objects/dag/inside.py:Running._read_or_wait": OWN,
    "titan_objects/dag/rescue.py:parts": "what was encoded a moment before",
    "titan_objects/dag/keeping.py:Kept.restore": RESTORED,
    "titan_objects/dag/scaler.py:_Process._read": OWN,
    "titan_objects/dag/definition.py:tasks_of": "`dag_value`, and tasks are those of a definition: `dag_definition`",
    "titan_objects/dag/values.py:_place": "two texts, in a value that `dag_value` is given",
    "titan_objects/dag/bundles.py:Bundles._unpacked": "the bundle is what `bundle` is given",
    "titan_objects/store/application.py:StoreObject.from_config": OWN,
    "titan_objects/store/group/snapshot.py:Restore.add": RESTORED,
    "titan_objects/store/group/values.py:add_piece": RESTORED,
}


# --- the tools themselves -----------------------------------------------------------------------------------------


def test_a_story_is_drawn_as_it_was_told() -> None:
    draw = Drawn(story(3, b"piece", 200) + b"rest")
    assert (draw.below(10), draw.piece(), draw.below(256), draw.rest()) == (3, b"piece", 200, b"rest")
    assert not draw.more() and draw.below(7) == 0 and draw.piece() == b""


def test_what_is_bent_may_be_anything_and_is_drawn_from_the_input() -> None:
    assert Drawn(b"\0").bent(b"true") == b"true"
    assert Drawn(b"\1\0\1\0").bent(b"true") == b"tsue"
    assert Drawn(b"\2\0\2").bent(b"true") == b"tr"
    assert Drawn(b"\3\2ab").bent(b"true") == b"trueab"
    assert Drawn(b"\4\0\1\2XY").bent(b"true") == b"tXYe"


def test_a_target_that_raises_what_it_does_not_promise_is_a_finding() -> None:
    finding = Target(lambda data: 1 // len(data), (ValueError,), lambda: [b"x"], 9)
    finding(b"x")
    with pytest.raises(ZeroDivisionError):
        finding(b"")
