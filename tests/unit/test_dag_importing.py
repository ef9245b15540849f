"""Workflows of other systems: what becomes of them."""

import json

import pytest

import titan_overlay as titan
from titan_objects.dag.definition import Definition
from titan_objects.dag.reading import read_definition
from titan_objects.dag.references import resolved

INSTANCE = {
    "name": "two",
    "schemaVersion": "1.5",
    "workflow": {
        "specification": {
            "tasks": [
                {"id": "split.1", "parents": [], "children": ["2 merge"], "inputFiles": []},
                {"id": "2 merge", "parents": ["split.1"], "children": []},
            ]
        },
        "execution": {
            "makespanInSeconds": 3,
            "tasks": [
                {"id": "split.1", "runtimeInSeconds": 1.5, "command": {"program": "split", "arguments": ["-n", "$2"]}},
                {"id": "2 merge", "runtimeInSeconds": 2},
            ],
        },
    },
}

TEXT = json.dumps(INSTANCE, indent=1)

JOBS = """\
name: night
jobs:
  - {id: prepare, file: a.py, args: "one 'and two'"}
  - {id: train, type: run, file: b.py, depends_on: [prepare], requirement: GPU, priority: 5, delay: 1500,
     affinity: true, hitl_message: "Good?", max_wait_seconds: 60}
  - {id: report, file: c.py, depends_on: [train]}
"""


def test_an_instance_of_wfcommons_keeps_its_edges_commands_and_times() -> None:
    first, second = read_definition(json.dumps(INSTANCE), "it.json").tasks
    assert (first.id, first.run, first.estimate) == ("split_1", ["split", "-n", "$$2"], 1.5)
    assert (second.id, second.needs, second.run) == ("_2_merge", ["split_1"], ["true"])


def test_a_file_of_the_titan_orchestrator_means_what_it_meant_there() -> None:
    prepare, train, asked, report = read_definition(JOBS, "night.yaml").tasks
    assert (prepare.run, prepare.requires.labels) == (["python", "a.py", "one", "and two"], {})
    assert (train.requires.labels, train.priority, train.delay, train.affinity) == ({"gpu": "1"}, 5, 1.5, "prepare")
    assert train.retry.max_attempts == 3
    assert (asked.needs, asked.approval and asked.approval.message) == (["train"], "Good?")
    assert report.needs == [asked.id]


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ("- {id: a, file: a.py, depends_on: [b]}", "no such job"),
        ("- {id: a}", "names no file"),
        ("- {id: a, file: a.py, type: cron}", "run and service"),
        ("- {id: a, file: a.py, type: service}", "names no port"),
        ("- {id: a, file: a.py, port: 70000}", "65535"),
        ("- {id: a, file: a.py, priority: high}", "priority"),
        ("- {id: a, file: a.py, depends_on: [b]}\n- {id: b, file: b.py, depends_on: [a]}", "a -> b -> a"),
    ],
)
def test_mistakes_are_named(jobs: str, words: str) -> None:
    with pytest.raises(titan.ConfigError, match=words):
        read_definition(f"jobs:\n{jobs}\n", "x.yaml")


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("jobs:\n- {id: a, file: a.py}\n- {id: b, file: b.py,\n   port: high}", 4, "jobs[1].port: Expected `int`"),
        ("jobs:\n- {id: a, file: a.py}\n- {id: b, file: b.py,\n   delay: -1}", 4, "jobs[1].delay: Expected `int` >= 0"),
        ("jobs:\n- {id: a, file: a.py,\n   max_wait_seconds: -1}", 3, "jobs[0].max_wait_seconds: Expected `int` >= 0"),
        ("jobs:\n- {id: a, file: a.py,\n   args: [1, {b: 2}]}", 3, "jobs[0].args[1]: Expected"),
        ("jobs:\n- {id: a, file: a.py}\n- {id: b, file: b.py, depends_on: [c]}", 3, "job 'b' depends on 'c'"),
        ("jobs:\n- {id: c, file: a.py}\n- {id: a, file: a.py}\n- {id: a, file: b.py}", 3, "job 'a' is there twice"),
        ("jobs:\n- {id: c, file: a.py}\n- {id: a b, file: a.py, depends_on: [a b]}", 3, "task 'a_b' waits for itself"),
        (TEXT.replace("1.5,", "1e300,"), 29, "execution.tasks[0].runtimeInSeconds: Expected `float` <= 1000000000"),
        (TEXT.replace('"split.1"\n', '"spilt"\n'), 15, "task '2 merge' has the parent 'spilt'"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_file_line_and_field(file: str, line: int, says: str) -> None:
    name = "x.json" if file.startswith("{") else "x.yaml"
    with pytest.raises(titan.ConfigError) as caught:
        read_definition(file, name)
    assert str(caught.value).startswith(f"{name}, line {line}: ") and says in str(caught.value)


def test_jobs_have_an_id_each_however_they_are_called() -> None:
    names = ["a b", "a_b_2", "a?b", "a!b", "x_approval", "1", "_1"]
    jobs = [{"id": each, "file": "a.py"} for each in names] + [{"id": "x", "file": "a.py", "hitl_message": "Good?"}]
    ids = [each.id for each in read_definition(json.dumps({"jobs": jobs}), "x.json").tasks]
    assert len(set(ids)) == len(ids) == 9


def test_a_dollar_in_a_command_of_theirs_is_a_dollar() -> None:
    jobs = [{"id": "a", "file": "$a.py", "args": ["$1", "cost=$5", "$$", "${x}"]}]
    (task,) = read_definition(json.dumps({"jobs": jobs}), "x.json").tasks
    assert resolved(task.run, lambda parts: pytest.fail(str(parts))) == [
        "python", "$a.py", "$1", "cost=$5", "$$", "${x}"
    ]  # fmt: skip


def test_a_file_of_our_own_is_none_of_theirs() -> None:
    assert isinstance(read_definition("name: x\ntasks:\n- {id: a, run: ls}\n", "x.yaml"), Definition)
