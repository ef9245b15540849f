"""Code as it travels: packed, signed, trusted or refused, and run from memory."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from titan_overlay.errors import (
    BadMessage,
    ConfigError,
    Forbidden,
    RemoteError,
    TitanError,
    Unavailable,
    error,
    from_wire,
)
from titan_overlay.identity.ids import PoolId, fingerprint
from titan_overlay.identity.keys import SigningKey
from titan_overlay.pool.context import Context, Sender
from titan_overlay.pool.hosting import importer
from titan_overlay.pool.hosting.bundles import (
    BUNDLE_BYTES_MAX,
    BundleLoader,
    Source,
    bundle_id,
    installed_class,
    load,
    pack,
    runner_of,
    sign,
)
from titan_overlay.pool.hosting.object import service, service_type
from titan_overlay.pool.hosting.packing import Origin, Packed
from titan_overlay.pool.hosting.runner import ServiceRunner
from titan_overlay.pool.hosting.workers import ProcessRunner
from titan_overlay.wire import codec

KEY = SigningKey(bytes(32))
STRANGER = SigningKey(b"\1" * 32)
POOL = PoolId(b"p" * 32)
OTHER_POOL = PoolId(b"q" * 32)
TRUSTED = frozenset([KEY.public])
CONTEXT = Context(Sender(KEY.id, KEY.public), "it", bytes(32), 0.0, 0.0, None)  # type: ignore[arg-type]

GREETER = """
from titan_overlay.pool.hosting.object import idempotent, service

@service("greeter")
class Greeter:
    @idempotent
    async def hello(self, name: str) -> str:
        return f"hello, {name}"
"""


@pytest.fixture
def greeter(tmp_path: Path) -> Path:
    path = tmp_path / "greeter.py"
    path.write_text(GREETER)
    return path


def bundle_of(tmp_path: Path, source: str, name: str = "Greeter", key: SigningKey = KEY) -> bytes:
    path = tmp_path / "code.py"
    path.write_text(source)
    return sign(pack(path, name), key, POOL)


def answer(runner: Any, message: str) -> Any:
    return codec.decode(runner.call("str", codec.encode(message), CONTEXT), Any)


# --- packing ---


def test_the_same_code_gives_the_same_bytes(greeter: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "greeter.py"
    copy.write_text(GREETER)
    labels = {"b": "2", "a": "1"}
    again = pack(copy, "Greeter", labels=dict(reversed(labels.items())))
    assert pack(greeter, "Greeter", labels=labels) == again
    assert sign(again, KEY, POOL) == sign(again, KEY, POOL)
    assert pack(greeter, "Other") != pack(greeter, "Greeter")


def test_packing_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "loud.py"
    path.write_text("raise SystemExit('ran')")
    pack(path, "Anything")


def test_a_package_travels_with_all_its_modules_and_nothing_else(tmp_path: Path) -> None:
    package = tmp_path / "kit"
    (package / "inner").mkdir(parents=True)
    (package / "__pycache__").mkdir()
    (package / ".hidden").mkdir()
    for name in ("__init__.py", "inner/__init__.py", "inner/tools.py", "__pycache__/x.py", ".hidden/x.py", "notes.txt"):
        (package / name).write_text("")
    packed = codec.decode(pack(package, "Kit"), Packed)
    assert [path for path, _ in packed.files] == ["kit/__init__.py", "kit/inner/__init__.py", "kit/inner/tools.py"]
    assert packed.entry == "kit:Kit"


def test_the_oldest_python_that_understands_it_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "old.py"
    path.write_text("x = 1")
    assert codec.decode(pack(path, "X"), Packed).python == (3, 11)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("missing.py", None, "No such file|neither a Python file"),
        ("notes.txt", "x", "neither a Python file"),
        ("broken.py", "def (", "broken.py is not Python"),
        ("nul.py", "x = '\0'", "nul.py is not Python"),
        ("not-a-name.py", "x = 1", "not a Python identifier"),
        ("big.py", "#" * BUNDLE_BYTES_MAX, "is the limit; put"),
    ],
)
def test_what_cannot_be_packed_says_why(tmp_path: Path, name: str, content: str | None, text: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=text):
        pack(tmp_path / name, "X")


def test_a_directory_without_init_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no __init__.py"):
        pack(tmp_path, "X")


# --- loading ---


def test_trusted_code_runs_from_memory_under_a_private_name(greeter: Path) -> None:
    signed = sign(pack(greeter, "Greeter"), KEY, POOL)
    greeter.unlink()
    before = list(sys.path)
    cls = load(signed, TRUSTED, POOL)
    assert answer(ServiceRunner(cls()), "you") == "hello, you"
    assert cls.__module__ == f"titan_bundles.h{bundle_id(signed).hex()}.greeter"
    assert "greeter" not in sys.modules
    assert sys.path == before


def test_the_same_bundle_is_loaded_once_and_another_version_beside_it(tmp_path: Path) -> None:
    one = bundle_of(tmp_path, GREETER)
    two = bundle_of(tmp_path, GREETER.replace("hello,", "welcome,"))
    assert load(one, TRUSTED, POOL) is load(one, TRUSTED, POOL)
    assert answer(ServiceRunner(load(one, TRUSTED, POOL)()), "you") == "hello, you"
    assert answer(ServiceRunner(load(two, TRUSTED, POOL)()), "you") == "welcome, you"


def test_modules_of_a_package_find_each_other(tmp_path: Path) -> None:
    package = tmp_path / "kit"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("from ..words import GREETING\n")
    (package / "words.py").write_text("GREETING = 'good day'\n")
    (package / "main.py").write_text(GREETER.replace('f"hello', 'f"{GREETING}') + "\nfrom .inner import GREETING\n")
    cls = load(sign(pack(package, "main:Greeter"), KEY, POOL), TRUSTED, POOL)
    assert answer(ServiceRunner(cls()), "you") == "good day, you"


def test_messages_in_a_bundle_are_called_as_they_are_outside(tmp_path: Path) -> None:
    source = """
from titan_overlay.pool.hosting.object import Message

class Thumb(Message[bytes]):
    raw: bytes

class Thumbs:
    async def make(self, message: Thumb) -> bytes:
        return message.raw
"""
    assert list(service_type(load(bundle_of(tmp_path, source, "Thumbs"), TRUSTED, POOL)).handlers) == ["code.Thumb"]


def test_errors_of_a_bundle_do_not_displace_those_that_the_program_knows(tmp_path: Path) -> None:
    @error("bundled.poor")
    class Poor(RemoteError):
        pass

    source = """
from titan_overlay.errors import RemoteError, error

@error("bundled.poor")
class {name}(RemoteError):
    pass

@error("bundled.other")
class {name}Other(RemoteError):
    pass

class Greeter:
    async def hello(self, name: str) -> str:
        raise {name}("no")
"""
    for name in ("Poor", "Renamed"):  # the second version renames its classes
        cls = load(bundle_of(tmp_path, source.format(name=name)), TRUSTED, POOL)
        with pytest.raises(RemoteError) as raised:
            answer(ServiceRunner(cls()), "x")
        assert raised.value.code == "bundled.poor"
        assert type(from_wire(raised.value.to_wire())) is Poor


def test_untrusted_code_does_not_run_and_the_refusal_names_the_command(tmp_path: Path) -> None:
    signed = bundle_of(tmp_path, "import sys\nsys.ran_untrusted = True\n" + GREETER, key=STRANGER)
    with pytest.raises(Forbidden) as refused:
        load(signed, TRUSTED, POOL)
    assert str(refused.value) == (
        f"this node does not trust key {fingerprint(STRANGER.public)}; "
        f"its operator can allow it: titan-node --trust {STRANGER.public.hex()}"
    )
    assert not hasattr(sys, "ran_untrusted")


def test_a_signature_holds_for_one_pool_and_one_code(tmp_path: Path) -> None:
    signed = bundle_of(tmp_path, GREETER)
    with pytest.raises(BadMessage, match="does not hold in pool"):
        load(signed, TRUSTED, OTHER_POOL)
    other = bundle_of(tmp_path, GREETER + "#")
    signature, _ = codec.decode(signed, list)
    _, packed = codec.decode(other, list)
    with pytest.raises(BadMessage, match="of other code"):
        load(codec.encode([signature, packed]), TRUSTED, POOL)


def test_code_for_a_newer_python_is_refused(tmp_path: Path) -> None:
    packed = Packed(1, "code:Greeter", (3, 99), (), (("code.py", GREETER.encode()),))
    with pytest.raises(BadMessage, match=r"needs Python 3.99, and this node runs 3\.\d+"):
        load(sign(codec.encode(packed), KEY, POOL), TRUSTED, POOL)


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("import nowhere_to_be_found", RemoteError, "module 'nowhere_to_be_found' is not installed here"),
        ("import code.inner", RemoteError, r"imported relatively \(from .x import y\), not as 'code"),
        ("from .sibling import x", RemoteError, "module 'code.sibling' is not in the bundle|'sibling' is not in"),
        ("1 / 0", RemoteError, "cannot be imported: division by zero"),
        ("raise SystemExit(1)", RemoteError, "cannot be imported: SystemExit"),
        ("class Other:\n    pass", BadMessage, "has no class 'Greeter'; it has Other"),
        ("class Greeter:\n    pass", BadMessage, "Greeter is not a service: Greeter has no handler"),
        ("Greeter = 5", BadMessage, "has no class 'Greeter'"),
    ],
)
def test_code_that_does_not_work_here_says_why(tmp_path: Path, source: str, kind: type[TitanError], text: str) -> None:
    before = set(sys.modules)
    with pytest.raises(kind, match=text):
        load(bundle_of(tmp_path, source), TRUSTED, POOL)
    if kind is RemoteError:
        assert not [name for name in set(sys.modules) - before if name.startswith(f"{importer.ROOT}.")]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bundle_or_an_error(data: bytes) -> None:
    with pytest.raises((BadMessage, Forbidden)):
        load(data, TRUSTED, POOL)


def test_a_bundle_that_is_too_big_is_not_even_looked_at() -> None:
    with pytest.raises(BadMessage, match="at most"):
        load(bytes(2 * BUNDLE_BYTES_MAX), TRUSTED, POOL)


def test_the_signed_parts_may_be_nonsense_too() -> None:
    for packed in (b"", b"\xc1", codec.encode([1, 2, 3]), codec.encode([9, "a:B", [3, 11], [], []])):
        with pytest.raises(BadMessage):
            load(sign(packed, KEY, POOL), TRUSTED, POOL)


# --- what a node runs ---


class Installed:
    async def hello(self, name: str) -> str:
        return f"installed {name}"


@service(isolation="process")
class Heavy:
    async def hello(self, name: str) -> str:
        return name


class CannotBeMade:
    def __init__(self) -> None:
        raise OSError("no such device")

    async def hello(self, name: str) -> str:
        return name


def test_a_node_runs_bundles_of_keys_it_trusts(tmp_path: Path) -> None:
    loader = BundleLoader(TRUSTED, POOL)
    signed = bundle_of(tmp_path, GREETER)
    runner = runner_of(*loader.code(signed, "Greeter", KEY.public))
    assert answer(runner, "you") == "hello, you"
    assert runner.bundle == signed
    loader.check_trusted(KEY.public)
    with pytest.raises(Forbidden, match="--trust"):
        loader.check_trusted(STRANGER.public)
    with pytest.raises(Forbidden, match="--trust"):
        runner_of(*loader.code(signed, "Greeter", STRANGER.public))
    with pytest.raises(BadMessage, match="holds Greeter, the descriptor says 'Other'"):
        runner_of(*loader.code(signed, "Other", KEY.public))


def test_a_node_runs_types_that_are_installed() -> None:
    loader = BundleLoader(TRUSTED, POOL, installed={"it": Installed, "heavy": Heavy, "broken": CannotBeMade})
    assert answer(runner_of(*loader.installed_code("it")), "you") == "installed you"
    assert isinstance(runner_of(*loader.installed_code("heavy")), ProcessRunner)
    with pytest.raises(Forbidden, match="'unknown' is not installed here"):
        runner_of(*loader.installed_code("unknown"))
    with pytest.raises(RemoteError, match=r"CannotBeMade\(\) raised: no such device"):
        runner_of(*loader.installed_code("broken"))


def test_an_installed_type_that_does_not_import_or_is_no_service_says_so() -> None:
    broken = importlib.metadata.EntryPoint("broken", "nowhere_to_be_found:X", "titan_overlay.objects")
    plugin = importlib.metadata.EntryPoint("plugin", "pathlib:Path", "titan_overlay.objects")
    with pytest.raises(RemoteError, match="installed but cannot be imported"):
        installed_class("broken", {"broken": broken})
    with pytest.raises(Forbidden, match="set up by a node's operator"):
        installed_class("plugin", {"plugin": plugin})


# --- what a publisher offers ---


def test_a_file_and_a_class_are_offered_as_a_signed_bundle(greeter: Path) -> None:
    source = Source.of(f"{greeter}:Greeter", KEY, POOL)
    assert (source.type, source.idempotent, source.pattern) == ("Greeter", ("str",), "greeter")
    assert source.digest == bundle_id(source.bundle)
    assert (
        answer(runner_of(*BundleLoader(TRUSTED, POOL).code(source.bundle, source.type, KEY.public)), "x") == "hello, x"
    )


def test_a_package_is_offered_by_its_directory(tmp_path: Path) -> None:
    package = tmp_path / "kit"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "main.py").write_text(GREETER)
    assert Source.of(f"{package}:main:Greeter", KEY, POOL).type == "Greeter"


def test_a_class_is_offered_with_the_file_it_is_written_in() -> None:
    source = Source.of(Installed, KEY, POOL)
    packed = codec.decode(codec.decode(source.bundle, list)[1], Packed)
    assert packed.entry == "test_bundles:Installed"


def test_while_it_is_being_published_it_only_gives_its_code_away(greeter: Path) -> None:
    source = Source.of(f"{greeter}:Greeter", KEY, POOL)
    runner = source.runner()
    assert runner.bundle == source.bundle
    assert list(runner.schema()) == ["str"]
    with pytest.raises(Unavailable, match="being published"):
        answer(runner, "x")


def test_a_class_is_published_under_the_names_it_is_meant_for(greeter: Path) -> None:
    source = Source.of(f"{greeter}:Greeter", KEY, POOL)
    source.check_name("greeter")
    source.check_name("~me/greeter")
    with pytest.raises(BadMessage, match="meant for names like 'greeter', not 'other'"):
        source.check_name("other")
    with pytest.raises(BadMessage, match="a name is a text, not of type 'int'"):
        source.check_name(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("no-such-type", "neither FILE:CLASS nor an installed object type"),
        ("/no/such/file.py:Greeter", "file.py"),
        (int, "int has no handler"),
    ],
)
def test_what_cannot_be_published_says_why(source: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Source.of(source, KEY, POOL)


def test_a_class_inside_a_function_cannot_travel() -> None:
    class Local:
        async def hello(self, name: str) -> str:
            return name

    with pytest.raises(ConfigError, match="defined inside something else"):
        Source.of(Local, KEY, POOL)


def test_a_mistake_in_the_file_is_the_publishers_own_error(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("class Greeter:\n    async def hello(self, name): ...\n")
    with pytest.raises(ConfigError, match=r"Greeter.hello: 'name' needs a type annotation"):
        Source.of(f"{path}:Greeter", KEY, POOL)


def test_a_constructor_that_exits_does_not_end_the_node() -> None:
    class Exits:
        def __init__(self) -> None:
            raise SystemExit("no such device")

        async def hello(self, name: str) -> str:
            return name

    with pytest.raises(RemoteError, match="no such device"):
        runner_of(service("exits")(Exits), Origin("somewhere", "Exits"))
