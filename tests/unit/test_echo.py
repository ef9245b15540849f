"""The object that is a template for others, and the examples: they do what they say."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from titan_objects.echo import Count, Echo
from titan_overlay.identity.ids import PoolId
from titan_overlay.identity.keys import SigningKey
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.hosting.bundles import BundleLoader, Source, load, runner_of
from titan_overlay.pool.hosting.object import service_type
from titan_overlay.pool.hosting.runner import Runner
from titan_overlay.pool.message import encode_message
from titan_overlay.wire import codec

KEY = SigningKey(bytes(32))
POOL = PoolId(b"p" * 32)
CONTEXT = Context(Sender(KEY.id, KEY.public), "it", bytes(32), 0.0, 0.0, None)  # type: ignore[arg-type]
EXAMPLES = Path(__file__).parents[2] / "examples"


def begin(runner: Runner, message: Any) -> Any:
    return runner.call(*encode_message(message), CONTEXT)


@pytest.fixture
def thumbnail() -> ModuleType:
    spec = importlib.util.spec_from_file_location("thumbnail", EXAMPLES / "thumbnail.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_echo_is_installed_and_answers() -> None:
    runner = runner_of(*BundleLoader([], POOL).installed_code("echo"))
    assert codec.decode(begin(runner, "hello"), str) == "hello"
    assert codec.decode(begin(runner, b"\0\1"), bytes) == b"\0\1"
    assert [codec.decode(item, int) async for item in begin(runner, Count(3))] == [0, 1, 2]


def test_echo_is_published_by_its_name_or_its_class_and_needs_no_bundle() -> None:
    for source in ("echo", Echo):
        offered = Source.of(source, KEY, POOL)
        assert (offered.type, offered.bundle, offered.digest) == ("echo", b"", b"")
        assert offered.idempotent == ("bytes", "echo.Count", "str")


def test_a_template_is_short() -> None:
    module = sys.modules[Echo.__module__]
    assert module.__file__ is not None
    assert len(Path(module.__file__).read_text().splitlines()) <= 42


@pytest.mark.parametrize("example", ["greeter.py:Greeter", "thumbnail.py:Thumbnails"])
def test_the_examples_can_be_published_as_bundles(example: str) -> None:
    source = Source.of(f"{EXAMPLES / example}", KEY, POOL)
    cls = load(source.bundle, [KEY.public], POOL)
    assert service_type(cls).handlers.keys() == service_type(source.cls).handlers.keys()


async def test_a_thumbnail_is_small_and_of_the_mean_colour(thumbnail: ModuleType) -> None:
    stripes = b"P6 4 2 255\n" + bytes([0, 0, 0, 200, 100, 50]) * 4
    small = await thumbnail.Thumbnails().thumb(thumbnail.Thumb(stripes, 2))
    assert small == b"P6 2 1 255\n" + bytes([100, 50, 25]) * 2


@pytest.mark.parametrize("raw", [b"", b"P6 4 2 255\n", b"P6 0 0 255\n", b"P6 99999 99999 255\n", b"JFIF"])
async def test_what_is_no_picture_is_a_typed_error(thumbnail: ModuleType, raw: bytes) -> None:
    with pytest.raises(thumbnail.Unreadable):
        await thumbnail.Thumbnails().thumb(thumbnail.Thumb(raw))
