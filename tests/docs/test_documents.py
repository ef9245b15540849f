"""The documentation says what is so: its examples run, its commands parse, its pages build."""

import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, PAGES, ROOT, Block, blocks_of, command_lines, matches
from tests.docs.conftest import Place
from tests.docs.spelling import check
from titan_overlay.cli.titan import complete

NEWCOMERS = ("volunteer.md", "devices.md")
"""Pages whose reader has a data directory of their own, and joins the pool of another."""

RUNNING = [page for page in PAGES if any(block.mark for block in blocks_of(page))]
SHELL = [block for page in PAGES for block in blocks_of(page) if block.language == "sh" and command_lines(block)]
PYTHON = [block for page in PAGES for block in blocks_of(page) if block.language == "python"]


complete()

_SPEC = spec_from_file_location("generate", DOCS / "_generate.py")
assert _SPEC is not None and _SPEC.loader is not None
_GENERATE = module_from_spec(_SPEC)
_SPEC.loader.exec_module(_GENERATE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, pool: Place, tmp_path: Path) -> None:
    if page.name in NEWCOMERS:
        place = Place(tmp_path, tmp_path / "data", pool.join)
    else:
        place = Place(pool.directory, pool.data, pool.join)
    try:
        for block in blocks_of(page):
            if block.mark != "pool":
                place.run(block)
    finally:
        place.close(patience=10.0)  # to leave takes a while; who is killed instead makes the others wait


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_are_spelled_as_the_programs_take_them(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in command_lines(block):
        for word in words:
            if re.fullmatch(r"\w+\.\w+", word):
                (tmp_path / word).touch()  # some files must be there for their names to be taken
        check(words)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_are_python(block: Block) -> None:
    compile(block.text, str(block), "exec", flags=_TOP_LEVEL_AWAIT)


_TOP_LEVEL_AWAIT = 0x2000  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def test_a_page_shows_no_path_of_a_machine() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.~])/(?:root|work|home/\w+)/", text), page


def test_the_readme_begins_with_the_two_commands() -> None:
    first, second = [block for block in blocks_of(ROOT / "README.md") if block.language == "sh"][:2]
    assert [line.split("#")[0].strip() for line in first.text.splitlines()] == ["make demo", "make test"]
    assert second.text.startswith("pipx install titan-overlay")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_code_writes_into_a_page_is_what_it_would_write_now(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == _GENERATE.written(text), "run: python docs/_generate.py"


def test_output_matches_where_dots_stand_for_anything() -> None:
    assert matches("pool ...\nnode abc\n", "pool  0123\n  node abc")
    assert not matches("pool ...\nnode abc", "pool 0123\nnode abd")


@pytest.mark.timeout(300)
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=DOCS.parent,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert (tmp_path / "site" / "architecture.html").exists()
