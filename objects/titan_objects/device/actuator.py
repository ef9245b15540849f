"""Actuators: commands that the operator allows, and nothing else."""

import re

import titan_overlay as titan
from titan_objects.device import processes
from titan_objects.device.messages import Act, Commands, Outcome
from titan_objects.device.sensor import POLICY
from titan_objects.device.tables import ActuatorTable, CommandTable

ARGUMENT_CHARACTERS_MAX = 256


@titan.service(policy=POLICY, concurrency=1, mailbox=16)
class Actuator:
    """Runs one command at a time, with arguments that match their patterns as a whole."""

    def __init__(self, table: ActuatorTable) -> None:
        self._table = table
        self._commands = {
            name: command if isinstance(command, CommandTable) else CommandTable(run=command)
            for name, command in table.commands.items()
        }

    async def commands(self, _: Commands, ctx: titan.Context) -> dict[str, list[str]]:
        """The commands by name, with the pattern of each argument."""
        processes.allowed(self._table.senders, ctx)
        return {name: command.args for name, command in self._commands.items()}

    async def act(self, message: Act, ctx: titan.Context) -> Outcome:
        """Runs a command to its end."""
        processes.allowed(self._table.senders, ctx)
        words = self._words(message)
        ctx.log.info("%s %s, asked by %s", message.command, message.args, ctx.sender.id.hex()[:32])
        done = await processes.run(
            words,
            timeout=min(self._table.timeout, max(ctx.remaining, 0.001)),
            output_bytes_max=self._table.output_bytes_max,
            directory=self._table.directory,
        )
        return Outcome(done.status, processes.text_of(done.output), processes.text_of(done.errors), done.truncated)

    def _words(self, message: Act) -> list[str]:
        """The command line. Raises BadMessage for what the operator did not allow."""
        command = self._commands.get(message.command)
        if command is None:
            known = ", ".join(sorted(self._commands))
            raise titan.BadMessage(f"{self._table.name!r} has no command {message.command[:64]!r}; it has {known}")
        if len(message.args) != len(command.args):
            raise titan.BadMessage(f"{message.command} takes {len(command.args)} arguments, not {len(message.args)}")
        for place, (argument, pattern) in enumerate(zip(message.args, command.args, strict=True)):
            if not _fits(argument, pattern):
                raise titan.BadMessage(f"{message.command}: argument {place} does not match {pattern!r}")
        return [_filled(word, message.args) for word in command.run]


def _fits(argument: str, pattern: str) -> bool:
    if len(argument) > ARGUMENT_CHARACTERS_MAX or "\0" in argument:
        return False
    # `.*` was not meant to let options through: a pattern that allows them begins with a dash.
    if argument.startswith("-") and not pattern.startswith("-"):
        return False
    return re.fullmatch(pattern, argument) is not None


def _filled(word: str, arguments: list[str]) -> str:
    """The word with its places filled, in one pass: an argument that looks like a place stays as it is."""
    return re.sub(r"\{([0-9]{1,3})\}", lambda match: arguments[int(match[1])], word)
