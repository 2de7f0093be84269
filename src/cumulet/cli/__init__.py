# SPDX-License-Identifier: Apache-2.0
"""The `cumulet` command: its commands as one literal table, each loaded when it is asked for.

Invariant: `--help` imports no command, so it answers at once however much the
commands need.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

Table = Mapping[str, tuple[str, str]]
"""Name of a command → (``module:function``, its line in the help)."""


class LazyGroup(click.Group):
    """A group whose commands are rows of a table."""

    def __init__(self, *args: Any, table: Table, **more: Any) -> None:
        super().__init__(*args, **more)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module, _, function = self._table[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), function)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._table and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], self._table, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._table.items()])


COMMANDS: Table = {
    "up": ("cumulet.cli.up:up", "Start the whole cloud on this machine."),
    "run": ("cumulet.cli.run:run", "Run some roles of a spread cloud in this process."),
    "join": ("cumulet.cli.join:join", "Make this machine a host of a spread cloud, and run its agents."),
    "host": ("cumulet.cli.host:host", "Let hosts join the cloud, rest, or leave it."),
    "roles": ("cumulet.cli.roles:roles", "Show who runs what, where, since when, and who lives."),
    "messages": ("cumulet.cli.messages:messages", "Show messages between processes that were set aside."),
    "down": ("cumulet.cli.down:down", "Stop the cloud; with --purge, leave nothing of it."),
    "status": ("cumulet.cli.status:status", "Show whether the cloud and each service answer."),
    "doctor": ("cumulet.cli.doctor:doctor", "Say what this machine lacks for real guests."),
    "logs": ("cumulet.cli.logs:logs", "Print the cloud's log."),
    "flow": ("cumulet.cli.flow:flow", "Draw the way of a server, step by step; --watch as it happens."),
    "why": ("cumulet.cli.why:why", "Say why a server got its host, or none."),
    "check": ("cumulet.cli.check:check", "Check every invariant of the cloud; --repair mends what is broken."),
    "openapi": ("cumulet.cli.openapi:openapi", "Print the OpenAPI document of a service."),
    "backup": ("cumulet.cli.backup:backup", "Write the whole cloud to one file, while it runs."),
    "restore": ("cumulet.cli.backup:restore", "Make an empty directory the cloud that is in a backup."),
    "chaos": ("cumulet.cli.chaos.command:chaos", "Kill a cloud of its own at random or at every point, and judge it."),
    "env": ("cumulet.cli.env:env", "Print what a shell needs to use this cloud."),
    "image": ("cumulet.cli.image:image", "Bring images into the cloud."),
    "identity": ("cumulet.cli.identity:identity", "Look after identity: its keys."),
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="cumulet", message="%(prog)s %(version)s", prog_name="cumulet")
def main() -> None:
    """A whole OpenStack cloud in one command.

    Start it with `cumulet up`; then every OpenStack client works, and
    `cumulet flow SERVER` shows what happened on the way of a server.
    """
