"""Definitions of DAGs: how they are read, what is refused and where, and what conditions mean."""

import json
from itertools import product
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import titan_overlay as titan
from tests.contract import json_schema
from titan_objects.dag.checking import check, order, waits
from titan_objects.dag.definition import Definition, Task, revision, schema, seconds, size_bytes
from titan_objects.dag.definitions import save
from titan_objects.dag.expressions import parse, truth
from titan_objects.dag.reading import read_definition

YAML = """\
name: film
params: {n: 3}
tasks:
  - id: render
    call: "films:render"
    map: {over: "${params.frames}", max_parallel: 4}
    retry:
      max_attempts: 3
    timeout: {run: 10m}
  - id: join
    reduce: "films:join"
    needs: [render]
params2: {}
"""


def test_a_file_means_the_same_in_yaml_toml_and_json() -> None:
    yaml = "name: two\ntasks:\n- {id: a, run: echo hi, retry: {max_attempts: 3}}\n- {id: b, run: [ls], needs: [a]}\n"
    toml = (
        'name = "two"\n[[tasks]]\nid = "a"\nrun = "echo hi"\nretry.max_attempts = 3\n'
        '[[tasks]]\nid = "b"\nrun = ["ls"]\nneeds = ["a"]\n'
    )
    one = read_definition(yaml, "x.yaml")
    two = read_definition(toml, "x.toml")
    text = json.dumps(
        {
            "tasks": [
                {"id": "a", "run": "echo hi", "retry": {"max_attempts": 3}},
                {"id": "b", "run": ["ls"], "needs": ["a"]},
            ]
        }
        | {"name": "two"}
    )
    three = read_definition(text, "x.json")
    assert one == two == three
    assert revision(one) == revision(three)
    assert revision(one) != revision(read_definition(yaml.replace("hi", "ho"), "x.yaml"))


@pytest.mark.parametrize(
    ("text", "file", "line", "words"),
    [
        (YAML, "film.yaml", 1, "params2"),
        (
            YAML.replace("params2: {}", "").replace("max_attempts: 3", "max_attempts: three"),
            "f.yaml",
            8,
            "max_attempts",
        ),
        (YAML.replace("params2: {}", "").replace("10m", "10 minutes"), "f.yaml", 9, "timeout"),
        (YAML.replace("params2: {}", ""), "f.yaml", 4, "params.frames is no parameter"),
        ("name: x\ntasks:\n- {id: a, run: ls}\n- id: b\n  run: ls\n  needs: [aa]\n", "f.yaml", 4, "did you mean 'a'"),
        ("name: x\ntasks: [\n", "f.yaml", 3, "not YAML"),
        ('{"name": "x",\n "tasks": [\n  {"id": "a", "run": 7}\n]}', "f.json", 3, "tasks[0].run"),
        ('{"name": "x",\n "tasks": [,]}', "f.json", 2, "not JSON"),
        ('name = "x"\n[[tasks]]\nid = "a"\nrun = "ls"\n[[tasks]]\nid = "b"\nrun = 3.5\n', "f.toml", 7, "tasks[1].run"),
        ("name: x\ntasks: &t\n- {id: a, run: ls}\nparams: {t: *t}\n", "f.yaml", 0, "aliases"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_field(text: str, file: str, line: int, words: str) -> None:
    with pytest.raises(titan.ConfigError) as caught:
        read_definition(text, file)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{file}, line {line}:" if line else file)


@pytest.mark.parametrize(
    ("text", "file", "line", "words"),
    [
        ("name: x\nparams:\n  deep: [1, 1e3,\n    99999999999999999999]", "f.yaml", 4, "params.deep[2] cannot be sent"),
        ('name = "x"\nparams.n = 99999999999999999999\n', "f.toml", 2, "params.n cannot be sent"),
        ('{"name": "x", "tasks": [\n {"id": "a", "run": "\\ud800"}]}', "f.json", 2, "tasks[0].run cannot be sent"),
        ('{"name": "x",\n "tasks": "\\ud800"}', "f.json", 2, "tasks cannot be sent"),
    ],
)
def test_what_no_message_can_hold_is_refused_with_its_line_and_field(
    text: str, file: str, line: int, words: str
) -> None:
    with pytest.raises(titan.ConfigError) as caught:
        read_definition(text, file)
    assert str(caught.value).startswith(f"{file}, line {line}: ") and words in str(caught.value)


def test_a_value_of_a_file_is_what_comes_of_it_in_a_message() -> None:
    read = read_definition(
        "name: x\nparams: {day: 2024-01-01, b: !!binary aGk=, k: {1: a}}\ntasks: [{id: a, run: ls}]", "x"
    )
    assert read.params == {"day": "2024-01-01", "b": b"hi", "k": {1: "a"}}


def dag(*tasks: dict[str, Any], **more: Any) -> Definition:
    return Definition(name="it", tasks=[Task(**{"run": "true", **each}) for each in tasks], **more)


def test_a_cycle_is_refused_and_named() -> None:
    with pytest.raises(titan.BadMessage, match=r"b -> c -> d -> b|c -> d -> b -> c|d -> b -> c -> d"):
        check(
            dag(
                {"id": "a"},
                {"id": "b", "needs": ["a", "d"]},
                {"id": "c", "needs": ["b"]},
                {"id": "d", "depends": "c.Failed || a"},
                {"id": "e", "needs": ["d"]},
            )
        )
    with pytest.raises(titan.BadMessage, match="a -> a"):
        check(dag({"id": "a", "needs": ["a"]}))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"id": "a"}, "there twice"),
        ({"id": "b", "call": "m:f"}, "run and call"),
        ({"id": "b", "run": None}, "does nothing"),
        ({"id": "b", "depends": "a.Suceeded"}, "NAME.OUTCOME"),
        ({"id": "b", "depends": "a &&"}, "something is missing"),
        ({"id": "b", "depends": "a", "needs": ["a"]}, "one or the other"),
        ({"id": "b", "args": ["${a}"]}, "add it to needs"),
        ({"id": "b", "args": ["${item}"]}, "with a map only"),
        ({"id": "b", "args": ["${a"]}, "no reference"),
        ({"id": "b", "run": None, "reduce": "m:f", "needs": ["a", "c"]}, "exactly one task"),
        ({"id": "b", "loop": {"to": "a", "max": 3}}, "on no way"),
        ({"id": "b", "affinity": "x"}, "affinity"),
        ({"id": "b", "type": "service"}, "has both"),
        ({"id": "b", "service": {"port": 80}}, "has both"),
        ({"id": "b", "type": "service", "service": {"port": 80}, "run": None, "call": "m:f"}, "is a command"),
        ({"id": "b", "type": "service", "service": {"port": 80}, "map": {"over": [1]}}, "map does nothing"),
        ({"id": "b", "type": "service", "service": {"port": 80}, "timeout": {"run": 5}}, "neither timeout.run"),
        ({"id": "b", "cache_key": ["${c}"]}, "add it to needs"),
        ({"id": "b", "map": {"over": [1]}, "cache_key": ["v1"]}, "all items of the map would have one"),
        ({"id": "b", "run": None, "join": True, "cache_key": "auto"}, "cache_key does nothing in a task with join"),
        ({"id": "b", "run": None, "uses": "other", "args": [1]}, "args does nothing in a task with uses"),
        ({"id": "b", "args": ["x"]}, "args does nothing in a task with run; write it into the command"),
        ({"id": "b", "run": None, "call": "m:f", "outputs": ["x"]}, "outputs does nothing in a task with call"),
        ({"id": "b", "run": None, "join": True, "inputs": {"n": 1}}, "inputs does nothing in a task with join"),
        ({"id": "b", "run": None, "approval": {}, "map": {"over": [1]}}, "map does nothing in a task with approval"),
        ({"id": "b", "verify": {"quorum": 3, "max_total": 2}}, "max_total is less"),
        ({"id": "b", "verify": {"comparator": "a.x == c.x"}}, "about the results a and b"),
        ({"id": "b", "verify": {"comparator": "exact"}}, "bitwise or numeric, or an expression"),
    ],
)
def test_what_makes_no_sense_is_refused(task: dict[str, Any], words: str) -> None:
    bad = msgspec.convert({"run": "true", **task}, Task)
    with pytest.raises(titan.BadMessage, match=words):
        check(Definition(name="it", tasks=[*dag({"id": "a"}, {"id": "c"}).tasks, bad]))


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ({"call": "m:f", "args": [{"day": ["v-${params.day}"]}]}, "params.day"),
        ({"call": "m:f", "inputs": {"x": "of ${a.name}"}, "needs": ["a"]}, "a.name"),
        ({"call": "m:f", "cache_key": "v-${params.day}"}, "params.day"),
        ({"run": "render --frame=${item}", "map": {"over": [1]}}, "item"),
        ({"run": ["sh", "-c", "cat ${a}"], "needs": ["a"]}, "a"),
    ],
)
def test_a_reference_amid_other_text_is_refused_since_nothing_would_come_in_its_place(
    task: dict[str, Any], name: str
) -> None:
    tasks = [Task(id="a", call="m:f"), msgspec.convert({"id": "b", **task}, Task)]
    with pytest.raises(titan.BadMessage, match=rf"task 'b': \$\{{{name}\}} amid other text stays as it is, in '"):
        check(Definition(name="it", tasks=tasks, params={"day": 1}))


@pytest.mark.parametrize(
    "task",
    [
        {"run": "sh -c 'echo ${HOME} ${params.month} $$${item}'"},
        {"run": "sh -c 'echo ${item}.png'", "env": {"item": "${item}"}, "map": {"over": [1]}},
        {"run": "sh -c 'for index in 1 2; do echo ${index}; done'", "map": {"over": [1]}},
        {"run": ["sh", "-c", "a=$(date); echo ${a} $0", "${a}"], "needs": ["a"]},
        {"call": "m:f", "args": ["Dear ${name}", "$${params.day}"]},
    ],
)
def test_what_a_script_or_a_template_fills_in_itself_is_left_to_it(task: dict[str, Any]) -> None:
    check(
        Definition(
            name="it",
            tasks=[Task(id="a", call="m:f"), msgspec.convert({"id": "b", **task}, Task)],
            params={"day": 1},
        )
    )


def test_order_puts_every_task_behind_what_it_needs() -> None:
    found = order(waits(dag({"id": "c", "needs": ["b", "a"]}, {"id": "b", "needs": ["a"]}, {"id": "a"}).tasks))
    assert found == ["a", "b", "c"]


def test_the_schema_is_one_and_is_the_published_one() -> None:
    found = schema()
    json_schema.check({key: value for key, value in found.items() if key != "$schema"})
    assert found["$defs"]["Task"]["additionalProperties"] is False
    published = Path(__file__).parents[2] / "docs" / "reference" / "dag.schema.json"
    assert json.loads(published.read_text()) == found, (
        "write it anew: titan dag schema > docs/reference/dag.schema.json"
    )


def test_durations_and_sizes() -> None:
    assert [seconds(each) for each in (3, "250ms", "1.5m", "2h", "1d")] == [3, 0.25, 90, 7200, 86400]
    assert [size_bytes(each) for each in (7, "7", "2K", "1G")] == [7, 7, 2048, 1 << 30]


# --- expressions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A && (B.Succeeded || C.Failed)", True),
        ("A && !(B.Succeeded || C.Failed)", False),
        ("!A || !!B", False),
        ("n > 3 && name == 'it' && name != \"other\"", True),
        ("n >= 4 && n <= 4 && !(n < 4)", True),
        ("name > 3", False),
        ("nothing == null && true", True),
        ("unknown && A", None),
        ("unknown && !A", False),
        ("unknown || A", True),
    ],
)
def test_what_an_expression_means(text: str, expected: bool | None) -> None:
    known = {("A",): True, ("B", "Succeeded"): False, ("B",): False, ("C", "Failed"): True, ("n",): 4, ("name",): "it"}
    assert truth(parse(text), known.get) is expected


@given(st.text(alphabet="AB.&|!()<>=\"' 0n-", max_size=40))
def test_any_text_is_an_expression_or_a_bad_message(text: str) -> None:
    try:
        tree = parse(text)
    except titan.BadMessage:
        return
    assert truth(tree, lambda parts: None) in (True, False, None)


def test_parentheses_are_bounded() -> None:
    with pytest.raises(titan.BadMessage, match="levels"):
        parse("(" * 1000 + "A" + ")" * 1000)


def test_what_is_decided_once_stays_so_when_more_is_known() -> None:
    """Kleene: only an undecided value may change when names get values."""
    trees = [parse(text) for text in ("A && (B || !C)", "!(A && B) || C", "A || B && C")]
    for tree, values in product(trees, product((True, False, None), repeat=3)):
        known = dict(zip("ABC", values, strict=True))
        before = truth(tree, lambda parts, known=known: known[parts[0]])  # type: ignore[misc]
        if before is None:
            continue
        for later in product((True, False), repeat=3):
            full = {
                name: value if value is not None else new
                for (name, value), new in zip(known.items(), later, strict=True)
            }
            assert truth(tree, lambda parts, full=full: full[parts[0]]) is before  # type: ignore[misc]


async def test_a_definition_whose_keys_are_no_texts_is_not_kept_as_if_they_were() -> None:
    keyed = read_definition('name: it\ntasks:\n  - {id: a, call: "m:f", args: [{1: 2}]}\n', "it.yaml")
    with pytest.raises(titan.BadMessage, match="keys of maps are texts"):
        await save(cast(Any, None), "it", keyed)
