"""Which nodes a census selects: by what they measured, else by what their operators say of them."""

import pytest

from titan_overlay.errors import BadMessage
from titan_overlay.pool.finding.census import FACTS, condition
from titan_overlay.pool.orders import NodeInfo

NODE = NodeInfo(
    id="ab",
    address="10.0.0.1:4747",
    version="1",
    labels={"region": "eu", "rack": "7"},
    cores=4,
    memory_bytes=8 << 30,
    load=0.5,
    uptime=60.0,
    objects=3,
    used_bytes=1 << 30,
    max_bytes=4 << 30,
    serving=True,
    hosting=True,
    peers=9,
    pool_size=12.0,
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("cores>=4", True),
        ("cores > 4", False),
        ("memory>=8GiB", True),
        ("memory<8GB", False),
        ("free>=3GiB", True),
        ("free>3GiB", False),
        ("region=eu", True),
        ("region!=eu", False),
        ("region=us", False),
        ("rack>=7", True),
        ("rack>=seven", False),
        ("gpu=yes", False),
        ("load<1", True),
    ],
)
def test_a_condition_is_about_a_figure_or_a_label(text: str, holds: bool) -> None:
    assert condition(text)(NODE) is holds


def test_what_was_measured_comes_before_what_the_operator_says() -> None:
    """Unlike a policy's `requires`, which knows labels alone."""
    labels = {"cores": "16", "free": "1TiB", "version": "9"}
    told = NodeInfo(**{**{key: getattr(NODE, key) for key in NODE.__struct_fields__}, "labels": labels})
    assert condition("cores=4")(told) and not condition("cores>=16")(told)
    assert condition("free=3GiB")(told) and condition("version=1")(told)
    assert set(labels) < FACTS


@pytest.mark.parametrize(("label", "holds"), [("8GiB", True), ("4k", False), ("1.2.3", False), ("", False)])
def test_no_label_of_a_stranger_ends_the_census(label: str, holds: bool) -> None:
    told = NodeInfo(**{**{key: getattr(NODE, key) for key in NODE.__struct_fields__}, "labels": {"vram": label}})
    assert condition("vram>=1GiB")(told) is holds
    assert condition("counters>=1")(told) is False


@pytest.mark.parametrize("text", ["", "cores", ">=4", "a b=1", "cores>=many", "memory<8 parsecs"])
def test_what_is_no_condition_says_how_to_write_one(text: str) -> None:
    with pytest.raises(BadMessage, match="cores>=4"):
        condition(text)
