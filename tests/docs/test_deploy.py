"""What `deploy/` brings: units that systemd takes, and a Dockerfile whose commands, files and settings are there."""

import configparser
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.spelling import check
from titan_overlay.config import PORT_DEFAULT, NodeConfig

DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETTINGS = {f"TITAN_{field.name.upper()}" for field in dataclasses.fields(NodeConfig)}

INSTRUCTIONS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"^#.*\n|\\\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).splitlines()
    if line
]
"""Of the Dockerfile: (name, arguments)."""


def all_of(name: str) -> list[str]:
    """The arguments of all instructions of this name, in order."""
    return [arguments for instruction, arguments in INSTRUCTIONS if instruction == name]


def unit(path: Path) -> configparser.SectionProxy:
    """The section [Service]."""
    parser = configparser.RawConfigParser(strict=True, comment_prefixes="#", delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_takes_the_unit(path: Path, tmp_path: Path) -> None:
    node = Path(sys.executable).with_name("titan-node")
    here = tmp_path / path.name
    here.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={node}", path.read_text(), flags=re.MULTILINE))
    whose = ["--user"] if "user" in path.stem else []
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *whose, here],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    # An unknown key is only a warning to systemd, so its status says too little.
    said = [line for line in (done.stdout + done.stderr).splitlines() if path.name in line]
    assert (done.returncode, said) == (0, []), done.stderr


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_a_unit_runs_the_node_with_settings_that_exist_and_lets_it_leave(path: Path) -> None:
    service = unit(path)
    program, *flags = service["ExecStart"].split()
    check([Path(program).name, *flags])
    variables = {each.partition("=")[0] for each in service["Environment"].split()}
    assert {each for each in variables if each.startswith("TITAN_")} <= SETTINGS
    assert service["Type"] == "notify"
    assert float(service["TimeoutStopSec"]) > NodeConfig().stop_timeout


def test_the_dockerfile_runs_commands_that_exist() -> None:
    (entry,) = all_of("ENTRYPOINT")
    check(json.loads(entry))
    (health,) = all_of("HEALTHCHECK")
    check(json.loads(health.partition("CMD ")[2]))
    assert {json.loads(entry)[0], json.loads(health.partition("CMD ")[2])[0]} <= set(PROJECT["project"]["scripts"])


def test_the_dockerfile_sets_what_exists_and_opens_the_default_port() -> None:
    variables = {each.partition("=")[0] for line in all_of("ENV") for each in line.split()}
    assert {each for each in variables if each.startswith("TITAN_")} <= SETTINGS
    assert all_of("EXPOSE") == [f"{PORT_DEFAULT}/tcp {PORT_DEFAULT}/udp"]
    (copied,) = [line.split() for line in all_of("COPY") if line.startswith("--from=build")]
    environment = copied[1]
    assert environment == copied[2]
    assert any(f"PATH={environment}/bin:$PATH" in line for line in all_of("ENV"))
    assert any(f"{environment}/bin/pip install" in line for line in all_of("RUN"))


def test_the_image_is_built_of_a_python_that_the_project_takes_and_of_all_that_the_wheel_needs() -> None:
    least = tuple(int(part) for part in PROJECT["project"]["requires-python"].removeprefix(">=").split("."))
    for image in all_of("FROM"):
        found = re.match(r"python:(\d+)\.(\d+)-slim\b", image)
        assert found is not None
        assert (int(found[1]), int(found[2])) >= least
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert rules[0] == "*"
    sent = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {"pyproject.toml", PROJECT["project"]["readme"], *(each.partition("/")[0] for each in packages)}
    assert needed <= sent
    assert [each for each in sent if not (ROOT / each).exists()] == []
