import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import titan_overlay
from titan_overlay.config import NodeConfig, default_data_directory, load, resolve
from titan_overlay.errors import ConfigError


def test_nothing_given_means_small_safe_defaults():
    resolved = resolve()
    assert resolved.config == NodeConfig()
    assert resolved.config.max_bytes == 1024**3
    assert resolved.config.trust == ()
    assert resolved.config.listen == ("0.0.0.0:4747", "[::]:4747")
    assert set(resolved.origins.values()) == {"default"}


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults():
    resolved = resolve(
        flags={"listen": "127.0.0.1:1", "no_host": None},
        environment={"TITAN_LISTEN": "127.0.0.1:2", "TITAN_MAX_BYTES": "2GiB"},
        toml='listen = "127.0.0.1:3"\nmax_bytes = "3GiB"\nmax_upload = "1.5 MB/s"\nno_host = true',
        toml_name="node.toml",
    )
    config = resolved.config
    assert (config.listen, config.max_bytes, config.max_upload) == (("127.0.0.1:1",), 2 * 1024**3, 1_500_000)
    assert config.no_host, "a flag that was not given does not hide the file"
    assert config.alpha == 3
    assert resolved.origins["listen"] == "flag --listen"
    assert resolved.origins["max_bytes"] == "environment TITAN_MAX_BYTES"
    assert resolved.origins["max_upload"] == "file node.toml"
    assert resolved.origins["alpha"] == "default"


def test_rows_tell_each_setting_with_its_origin():
    rows = resolve(environment={"TITAN_K": "8"}).rows()
    assert ("k", 8, "environment TITAN_K") in rows
    assert [key for key, _, _ in rows][:2] == ["bootstrap", "listen"]


def test_lists_and_labels_are_written_alike_everywhere():
    flags = resolve(flags={"bootstrap": ["a:1", "titan://P/N@b:2"], "labels": ["cores=4", "gpu=no"]}).config
    variables = resolve(
        environment={"TITAN_BOOTSTRAP": "a:1, titan://P/N@b:2", "TITAN_LABELS": "cores=4,gpu=no"}
    ).config
    file = resolve(toml='bootstrap = ["a:1", "titan://P/N@b:2"]\n[labels]\ncores = 4\ngpu = "no"').config
    assert flags == variables == file
    assert file.bootstrap == ("a:1", "titan://P/N@b:2")
    assert file.labels == {"cores": "4", "gpu": "no"}


def test_an_empty_variable_was_not_given():
    resolved = resolve(environment={"TITAN_ADVERTISE": "", "TITAN_BOOTSTRAP": ""})
    assert resolved.config.advertise == ()
    assert resolved.origins["advertise"] == "default"


def test_tables_of_objects_pass_through_as_they_stand():
    toml = '[[device]]\nname = "lab/door"\nargs = ["a"]\n[[device]]\nname = "lab/lamp"'
    resolved = resolve(toml=toml, toml_name="node.toml")
    assert resolved.config.objects == {"device": ({"name": "lab/door", "args": ["a"]}, {"name": "lab/lamp"})}
    assert resolved.origins["objects"] == "file node.toml"


def test_a_plugin_may_bring_its_own_tables():
    assert resolve(toml="[[robot]]\narms = 2", object_sections={"robot"}).config.objects["robot"] == ({"arms": 2},)
    with pytest.raises(ConfigError, match=r"unknown key 'robot'"):
        resolve(toml="[[robot]]\narms = 2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"toml": "max_byte = 1"}, r"^file config.toml: unknown key 'max_byte'; did you mean 'max_bytes'\?$"),
        ({"toml": "max-bytes = 1"}, r"did you mean 'max_bytes'\?"),
        ({"toml": "[[devices]]"}, r"did you mean 'device'\?"),
        ({"toml": "colour = 1"}, r"^file config.toml: unknown key 'colour'$"),
        ({"toml": 'device = "x"'}, r"^file config.toml: device is a list of tables; write \[\[device\]\]"),
        ({"toml": "listen = ?"}, r"^file config.toml: not TOML: .*line 1"),
        ({"toml": "listen = 4747"}, r"^file config.toml: listen: 4747 is not a list of texts"),
        ({"toml": "no_host = 1"}, r"no_host: 1 is neither true nor false"),
        ({"toml": "k = 1.5"}, r"k: 1.5 is not between 2 and 256"),
        ({"toml": "k = 2.5"}, r"k: 2.5 is not a whole number"),
        ({"toml": "labels = {a = [1]}"}, r"labels: a=\[1\] is not a label; write it like region=eu"),
        ({"environment": {"TITAN_MAX_BYTE": "1"}}, r"unknown variable TITAN_MAX_BYTE; did you mean 'max_bytes'"),
        ({"environment": {"TITAN_MAX_BYTES": "lots"}}, r"^environment TITAN_MAX_BYTES: 'lots' is not a"),
        ({"flags": {"listen": "host:port"}}, r"^flag --listen: 'host:port' is not an address"),
        ({"flags": {"bootstrap": ["::1:4747"]}}, r"an IPv6 address needs brackets"),
        ({"flags": {"max_cup": 1}}, r"^flag --max-cup: unknown; did you mean 'max_cpu'\?"),
        ({"flags": {"labels": ["cores"]}}, r"^flag --label: 'cores' is not a label"),
        ({"flags": {"log_level": "loud"}}, r"log-level: 'loud' is not one of debug, info, warning, error"),
        ({"flags": {"probe_interval": "0s"}}, r"probe-interval: '0s' is not between 0.1 and 3600 seconds"),
        ({"flags": {"message_bytes_max": "1kB"}}, r"message-bytes-max: '1kB' is not between 65536 and"),
    ],
)
def test_a_bad_setting_names_where_it_came_from_and_what_would_be_right(arguments, message):
    with pytest.raises(ConfigError, match=message):
        resolve(**arguments)


def test_variables_of_other_programs_are_left_alone():
    assert resolve(environment={"TITAN_HOME": "/x", "TITAN_CONFIG": "y", "HOME": "/z"}) == resolve()


def test_the_file_is_looked_for_in_the_data_directory(tmp_path: Path):
    (tmp_path / "config.toml").write_text("alpha = 5")
    assert load(flags={"data": str(tmp_path)}).config.alpha == 5
    by_variable = load(environment={"TITAN_DATA": str(tmp_path)})
    assert by_variable.config.alpha == 5
    assert by_variable.config.data == tmp_path
    assert by_variable.origins["alpha"] == f"file {tmp_path / 'config.toml'}"


def test_a_file_that_was_named_must_be_there_and_others_need_not(tmp_path: Path):
    assert load(flags={"data": tmp_path / "none"}).config.alpha == 3
    (tmp_path / "mine.toml").write_text("alpha = 6")
    assert load(file=tmp_path / "mine.toml").config.alpha == 6
    assert load(environment={"TITAN_CONFIG": str(tmp_path / "mine.toml")}).config.alpha == 6
    with pytest.raises(ConfigError, match=r"other.toml: No such file"):
        load(file=tmp_path / "other.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"k = "])
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, content: bytes):
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config.toml: not"):
        load(flags={"data": tmp_path})
    with pytest.raises(ConfigError, match=r"Is a directory"):
        load(file=tmp_path)
    with pytest.raises(ConfigError, match=r"null"):
        load(file=Path("a\0b"))


def test_no_setting_is_for_show():
    """Each is read somewhere, as `config.<key>`."""
    package = Path(titan_overlay.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.name != "config.py")
    keys = [key for key, _, _ in resolve().rows()]
    assert [key for key in keys if not re.search(rf"config\.{key}\b", code)] == []


def test_the_default_directory_belongs_to_the_user(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_data_directory().name == "titan-overlay"


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)


@given(
    st.sampled_from([key for key, _, _ in resolve().rows() if key != "objects"]),
    scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=5), scalars, max_size=3),
)
def test_any_value_for_any_setting_is_taken_or_refused_in_words(key: str, value: object):
    """`resolve` is total: nothing but `ConfigError` comes out, whatever goes in."""
    with contextlib.suppress(ConfigError):
        assert isinstance(resolve(flags={key: value}).config, NodeConfig)
