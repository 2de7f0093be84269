# SPDX-License-Identifier: Apache-2.0
"""`cumulet doctor`: what this machine lacks for real guests, and what dead clouds left here; one line, one command."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cumulet.cli.options import DEFAULT_DATA, SYSTEM_DATA, UNDER_HOME, data_option


@click.command()
@data_option
@click.option("--port", type=int, default=8080, show_default=True, help="The port that `up` would use.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(data: Path, port: int, as_json: bool) -> None:
    """Check each thing that real guests need. Exit status 1 when something is missing.

    Also names what clouds that are gone left on this machine, with the commands that remove it; nothing is changed.
    """
    from cumulet.assembly.leftovers import Leftovers, Untold, known_clouds, leftovers, see
    from cumulet.assembly.machine import check_machine
    from cumulet.assembly.place import Place

    data = data.absolute()
    ports = () if Place(data).is_locked() else (port,)
    checks = check_machine(data, ports)
    left: list[Leftovers] = []
    untold = None
    try:
        seen = see()  # first: what a cloud that starts just now makes is not in it
        left = leftovers(seen, known_clouds(data, Path(DEFAULT_DATA), system=Path(SYSTEM_DATA), under_home=UNDER_HOME))
    except Untold as error:
        untold = str(error)
    if as_json:
        import json

        click.echo(
            json.dumps(
                [{"name": c.name, "ok": c.problem is None, "problem": c.problem, "remedy": c.remedy} for c in checks]
                + [
                    {
                        "name": f"leftovers of cloud {one.cloud}",
                        "ok": True,
                        "problem": None,
                        "remedy": "; ".join(one.commands),
                    }
                    for one in left
                ]
                + [{"name": "leftovers", "ok": True, "problem": untold, "remedy": None} for _ in [untold] if untold]
            )
        )
    else:
        for check in checks:
            if check.problem is None:
                click.echo(f"  ok       {check.name}")
            else:
                click.echo(f"  MISSING  {check.name}: {check.problem}\n           mend it with: {check.remedy}")
        for one in left:
            click.echo(
                f"  LEFT     {len(one.commands)} things of cloud c{one.cloud}, which neither runs nor lies in {data}.\n"
                "           If its directory is elsewhere: cumulet down --purge --data DIRECTORY. If it is gone:"
            )
            for command in one.commands:
                click.echo(f"             {command}")
        if untold is not None:
            click.echo(f"  SKIPPED  what dead clouds left is not told: {untold}")
    sys.exit(0 if all(check.problem is None for check in checks) else 1)
