"""What operators and users write: settings, sizes, tables of devices, messages; and what is printed for them."""

import contextlib
import io
import math
import tomllib
from typing import Any

from tests.fuzz.target import Drawn, story, target
from titan_objects.device import sensor, tables
from titan_overlay import values
from titan_overlay.cli import messages, output
from titan_overlay.config import NodeConfig, resolve
from titan_overlay.errors import BadMessage, ConfigError
from titan_overlay.wire import codec

TOML = b"""
bootstrap = ["titan://x", "example.org:4747"]
listen = "0.0.0.0:0"
max_bytes = "2 GiB"
max_cpu = 0.25
labels = {region = "eu", cores = 4}
advertise_interval = "10 min"

[[device]]
name = "~me/lamp"
"""


@target(
    ConfigError, UnicodeDecodeError, seeds=lambda: [TOML, b"k = 20\nno_host = true\nlog_level = 'debug'"], limit=1024
)
def config_file(data: bytes) -> None:
    """A settings file: settings within their bounds, or one line that says which is not."""
    _sound(resolve(toml=data.decode()).config)


@target(ConfigError, UnicodeDecodeError, seeds=lambda: [story(7, b"2GiB"), story(0, b"a:1, b"), story(5, b"x=1,y=2")])
def environment(data: bytes) -> None:
    """One variable of the environment."""
    draw = Drawn(data)
    keys = sorted(NodeConfig.__dataclass_fields__)
    _sound(resolve(environment={f"TITAN_{keys[draw.below(len(keys))].upper()}": draw.piece().decode()}).config)


def _sound(config: NodeConfig) -> None:
    assert 0 <= config.max_bytes <= values.UNLIMITED and 0 < config.max_cpu <= 4096
    assert math.isfinite(config.advertise_interval)
    for each in config.listen:
        host, port = values.parse_address(each)
        assert host and 0 <= port < 65536


@target(ValueError, UnicodeDecodeError, seeds=lambda: [b"2 GiB", b"1.5 MB/s", b"10 min", b"[::1]:4747", b"a=b", b"yes"])
def value(data: bytes) -> None:
    """A value as people write it, read as everything that it might be."""
    text = data.decode()
    for parse in (
        values.parse_labels,
        values.parse_contacts,
        values.parse_path,
        values.parse_boolean,
        values.parse_rate,
    ):
        try:
            parse(text)
        except ValueError:
            continue
    with contextlib.suppress(ValueError):
        assert 0 <= values.parse_duration(text) < math.inf
    try:
        host, port = values.parse_address(text)
    except ValueError:
        size = values.parse_size(text)
        assert values.parse_size(values.format_size(size)) == size
    else:
        assert 0 <= port < 65536 and host


DEVICES = b"""
name = "~me/lamp"
kind = "actuator"
senders = ["*"]
commands = {on = ["/bin/true"], say = {run = ["echo", "{0}"], args = ["[a-z]+"]}}
"""


@target(
    ConfigError,
    tomllib.TOMLDecodeError,
    UnicodeDecodeError,
    RecursionError,
    seeds=lambda: [
        DEVICES,
        b'name = "x"\nkind = "sensor"\nfile = "/sys/x"\nscale = 0.001',
        b'name = "x"\nkind = "application"\nconnect = "localhost:80"\nframing = "length"',
    ],
    limit=1024,
)
def device_table(data: bytes) -> None:
    """A table under `[[device]]`."""
    table = tables.parse(tomllib.loads(data.decode()))
    assert table.name


@target(ValueError, RecursionError, seeds=lambda: [story(0) + b"21.5", story(1) + b'{"a": [1]}', story(2) + b"\xff"])
def sensor_output(data: bytes) -> None:
    """What a file or a command says, as a reading; the sensor takes any exception for "no reading"."""
    draw = Drawn(data)
    kind = ("number", "json", "text")[draw.below(3)]
    table = tables.SensorTable(name="x", file="/x", value=kind)  # type: ignore[arg-type]
    reading = sensor._value(table, draw.rest())
    assert kind != "number" or math.isfinite(reading)


@target(
    ConfigError, seeds=lambda: [story(2) + b"12", story(5) + b'[1, "x"]', story(6) + b'{"a": null}', story(0) + b"x"]
)
def argument(data: bytes) -> None:
    """A message of a builtin type on a command line."""
    draw = Drawn(data)
    kind = messages.BUILTINS[draw.below(len(messages.BUILTINS))]
    made = messages._builtin(kind, draw.rest())
    codec.decode(codec.encode(made), Any)


@target(
    BadMessage, UnicodeDecodeError, seeds=lambda: [codec.encode(v) for v in ("\x1b[31m", {"a": "\x9b0m"}, "a\u202eb")]
)
def printed(data: bytes) -> None:
    """A reply on a terminal: it cannot steer it."""
    reply = codec.decode(data, Any)
    shown = io.StringIO()
    output.print_json(reply, to=shown)
    text = shown.getvalue() + (output.printable(reply) if isinstance(reply, str) else "")
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in text), "a control character"
    assert not any(c in text for c in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"), "text that runs backwards"
