# SPDX-License-Identifier: Apache-2.0
"""The command itself: help without loading anything, versions, words that are none."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from cumulet import __version__
from cumulet.cli import COMMANDS, main

HEAVY = ("rich", "yaml", "msgspec", "sqlalchemy", "falcon", "aiohttp", "numpy", "http.client", "ssl", "asyncio")


def test_help_loads_no_command() -> None:
    code = (
        "import sys; from cumulet.cli import main; main(['--help'], standalone_mode=False);"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules],"
        " [m for m in sys.modules if m.startswith('cumulet.') and m != 'cumulet.cli'])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "LOADED [] []"
    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", told, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there_and_speaks_json(name: str) -> None:
    module, _, function = COMMANDS[name][0].partition(":")
    command = getattr(import_module(module), function)
    assert isinstance(command, click.Command)
    leaves = [command]
    if isinstance(command, click.Group):
        context = click.Context(command)
        leaves = [one for word in command.list_commands(context) if (one := command.get_command(context, word))]
    for leaf in leaves:
        assert leaf.help, leaf.name
        assert "--json" in {option for parameter in leaf.params for option in parameter.opts}, leaf.name


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"], prog_name="cumulet").output == f"cumulet {__version__}\n"


def test_a_word_that_is_no_command_is_guessed() -> None:
    result = CliRunner().invoke(main, ["flwo"], prog_name="cumulet")
    assert result.exit_code == 2
    assert "No such command 'flwo'. Did you mean 'flow'?" in result.output


def test_the_module_is_the_command() -> None:
    told = subprocess.run([sys.executable, "-m", "cumulet.cli", "--version"], capture_output=True, text=True)
    assert told.stdout == f"cumulet {__version__}\n"
