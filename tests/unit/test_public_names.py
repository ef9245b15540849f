"""The public names are there, and cost nothing until they are used."""

import subprocess
import sys
from types import ModuleType

import titan_overlay as titan


def test_each_public_name_is_what_it_is_called() -> None:
    for name in titan.__all__:
        found = getattr(titan, name)
        assert not isinstance(found, ModuleType), f"titan.{name} is a module that happens to be called so"
        assert name == "__version__" or name in (found.__name__, "connect_sync"), name
    assert not hasattr(titan, "no_such_name")


def test_what_tasks_and_short_commands_import_is_little() -> None:
    for program in (
        "import titan_objects.dag, titan_objects.dag.child",
        "import titan_overlay.cli.titan as t; t.complete()",
    ):
        shown = f"import sys; {program}; print('titan_overlay.client' in sys.modules)"
        assert subprocess.check_output([sys.executable, "-c", shown]) == b"False\n"
