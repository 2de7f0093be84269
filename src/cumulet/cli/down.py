# SPDX-License-Identifier: Apache-2.0
"""`cumulet down`: stop the cloud; with --purge, leave nothing of it on this machine."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import click

from cumulet.cli.options import data_option

STOPS_WITHIN = 40.0


@click.command()
@data_option
@click.option("--purge", is_flag=True, help="Also remove guests, networks, users and the data directory. For good.")
@click.option("--json", "as_json", is_flag=True, help="Say what was done as JSON.")
def down(data: Path, purge: bool, as_json: bool) -> None:
    """Stop the cloud. Running guests go on, unless --purge."""
    from cumulet.assembly.place import Place, process_start

    data = data.absolute()
    place = Place(data)
    stopped = False
    if place.is_locked():
        facts = place.running() or {}
        pid = facts.get("pid")
        if not pid or process_start(pid) != facts.get("started"):
            click.echo(f"a process holds {data}, but it has not said which; is it just starting? Try again.", err=True)
            sys.exit(1)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOPS_WITHIN
        while place.is_locked():
            if time.monotonic() > deadline:
                click.echo(f"process {pid} did not stop in {STOPS_WITHIN:g} s", err=True)
                sys.exit(1)
            time.sleep(0.02)
        stopped = True
    removed: list[str] = []
    if purge and data.exists():
        from cumulet.assembly.purge import purge as remove

        removed = remove(place)
    if as_json:
        import json

        click.echo(json.dumps({"stopped": stopped, "removed": removed}))
        return
    click.echo("The cloud is stopped." if stopped else f"No cloud runs in {data}.")
    if not purge and stopped:
        click.echo(
            "Guests go on running; `cumulet up` takes them over again, `cumulet down --purge` removes everything."
        )
    for line in removed:
        click.echo(f"  removed {line}")
