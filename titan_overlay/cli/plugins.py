"""Sub-commands and flags that other wheels bring, through the entry-point group `titan_overlay.cli`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from titan_overlay.cli import output
from titan_overlay.commands import Commands, Door, Serving

if TYPE_CHECKING:
    import typer

GROUP = "titan_overlay.cli"

F = TypeVar("F", bound=Callable[..., Any])


class TitanCommands:
    """Adds to `titan`."""

    def __init__(self, app: "typer.Typer") -> None:
        self._app = app

    def command(self, function: F) -> F:
        from titan_overlay.cli.face import command

        return command(self._app)(function)

    def group(self, name: str, text: str) -> Commands:
        import typer

        inner = typer.Typer(no_args_is_help=True, help=text)
        self._app.add_typer(inner, name=name)
        return TitanCommands(inner)

    def node_flags(self, flags: Mapping[str, tuple[str, str]], door: Door) -> None:
        """They are for `titan-node`."""


class NodeDoor(NamedTuple):
    """What a node serves besides the pool where one of these flags is given."""

    flags: Mapping[str, tuple[str, str]]
    door: Door


class NodeCommands:
    """Collects what concerns `titan-node`."""

    def __init__(self) -> None:
        self.doors: list[NodeDoor] = []

    def command(self, function: F) -> F:
        return function

    def group(self, name: str, text: str) -> Commands:
        return self

    def node_flags(self, flags: Mapping[str, tuple[str, str]], door: Door) -> None:
        self.doors.append(NodeDoor(flags, door))


def register_all(commands: Commands) -> None:
    """Has every wheel add what it brings; somebody else's mistake takes nothing of the others away."""
    from importlib.metadata import entry_points

    for plugin in entry_points(group=GROUP):
        try:
            plugin.load()(commands)
        except Exception as why:
            output.note(f"titan: the commands of {plugin.name!r} are missing: {type(why).__name__}: {why}")


def node_doors() -> list[NodeDoor]:
    """All that are installed."""
    collected = NodeCommands()
    register_all(collected)
    return collected.doors


def chosen(doors: Sequence[NodeDoor], given: Mapping[str, Any]) -> Iterator[Serving]:
    """What the doors of which a flag was given serve. Raises ConfigError: a flag makes no sense."""
    for each in doors:
        values = {flag: given[flag] for flag in each.flags if given.get(flag) is not None}
        if values:
            yield each.door(values)
