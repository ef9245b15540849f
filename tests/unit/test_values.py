import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.values import UNLIMITED, format_size, parse_address, parse_duration, parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        (512, 512),
        ("2GiB", 2 * 1024**3),
        ("2 gib", 2 * 1024**3),
        ("500 MB", 500_000_000),
        ("1.5k", 1500),
        ("0.5KiB", 512),
        ("3T", 3 * 10**12),
        (" 7 B ", 7),
        ("unlimited", UNLIMITED),
    ],
)
def test_sizes_are_read_as_people_write_them(text: object, size: int):
    assert parse_size(text) == size


@pytest.mark.parametrize("value", ["", "GiB", "-1", "1 2", "1 XB", "1e9", "nan", True, None, -1, 1e400, 10**400, []])
def test_what_is_no_size_is_refused_with_an_example(value: object):
    with pytest.raises(ValueError, match="is not a size; write it like 2GiB"):
        parse_size(value)


@given(st.integers(0, UNLIMITED - 1))
def test_a_formatted_size_reads_back_exactly(size: int):
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("text", ["1.5 MB/s", "1.5MB", "1500000", "1500 kB / s", "1.5 MB/sec"])
def test_rates_may_say_per_second(text: str):
    assert parse_rate(text) == 1_500_000


@pytest.mark.parametrize(
    ("text", "seconds"), [("10 min", 600), ("30s", 30), ("1.5h", 5400), ("7d", 604800), ("250ms", 0.25), (3, 3)]
)
def test_durations_are_read_as_people_write_them(text: object, seconds: float):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["soon", "", "5 lightyears", -1, float("nan"), False, None])
def test_what_is_no_duration_is_refused_with_an_example(value: object):
    with pytest.raises(ValueError, match="is not a duration; write it like 30s"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("example.org:80", ("example.org", 80)),
        ("example.org", ("example.org", 4747)),
        ("10.0.0.1:0", ("10.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("[::1]", ("::1", 4747)),
        (":4747", ("0.0.0.0", 4747)),
    ],
)
def test_addresses_have_a_host_and_a_port(text: str, address: tuple[str, int]):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "::1", "[::1", "[::1]80", "[host]:80", "host:", "a:b", "a:70000", "a:000000080", "a b:1", "a/b:1", "a:٣"],
)
def test_what_is_no_address_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match=r"is not an address; write it like example.org:4747"):
        parse_address(text)


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str):
    try:
        _, port = parse_address(text)
    except ValueError:
        return
    assert 0 <= port <= 65535
