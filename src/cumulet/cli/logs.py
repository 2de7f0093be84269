# SPDX-License-Identifier: Apache-2.0
"""`cumulet logs`: what the cloud wrote."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from pathlib import Path

import click

from cumulet.cli.options import data_option


@click.command()
@data_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "--lines", default=100, show_default=True, help="How many of the last lines.")
@click.option("--json", "as_json", is_flag=True, help="Each line as a JSON object.")
def logs(data: Path, follow: bool, lines: int, as_json: bool) -> None:
    """Print the cloud's log."""
    path = data / "cumulet.log"
    try:
        file = path.open(errors="replace")
    except OSError as error:
        click.echo(f"no log in {data}: {error.strerror}", err=True)
        sys.exit(1)
    with file:
        for line in deque(file, maxlen=lines):
            _say(line, as_json)
        while follow:
            line = file.readline()
            if line:
                _say(line, as_json)
            else:
                time.sleep(0.2)


def _say(line: str, as_json: bool) -> None:
    if as_json and not line.startswith("{"):
        line = json.dumps({"line": line.rstrip("\n")}) + "\n"
    click.echo(line, nl=False)
