# SPDX-License-Identifier: Apache-2.0
"""`cumulet status`: does the cloud run, and does each service answer?"""

from __future__ import annotations

import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from cumulet.cli.options import data_option


@click.command()
@data_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(data: Path, as_json: bool) -> None:
    """Show whether the cloud runs and whether each service answers. Exit status 1 when something does not."""
    from cumulet.assembly.place import Place

    place = Place(data.absolute())
    facts = place.running()
    if facts is None or not place.is_locked():
        if as_json:
            click.echo(json.dumps({"running": False}))
        else:
            click.echo(f"No cloud runs in {data}. Start it with: cumulet up --data {data}")
        sys.exit(1)
    services = [{**one, **_look(facts["url"] + one["mount"] + "/")} for one in facts["services"]]
    good = all(one["state"] == "up" for one in services)
    if as_json:
        click.echo(json.dumps({"running": True, **facts, "services": services}))
    else:
        click.echo(f"\n  {facts['url']}   hypervisor: {facts['hypervisor']}   process {facts['pid']}\n")
        for one in services:
            click.echo(f"  {one['name']:<11} {one['state']:<7} {one['ms']:>6.1f} ms  {facts['url'] + one['mount']}")
        click.echo("")
    sys.exit(0 if good else 1)


def _look(url: str) -> dict[str, Any]:
    """Ask a service's version document."""
    started = time.monotonic()
    # the certificate of one's own cloud is often self-signed, and nothing secret is sent here
    trust = ssl._create_unverified_context() if url.startswith("https") else None  # noqa: S323
    try:
        with urllib.request.urlopen(url, timeout=5, context=trust):  # noqa: S310 - our own URL
            state = "up"
    except urllib.error.HTTPError as error:
        state = "up" if error.code < 500 else "failing"
    except OSError:
        state = "down"
    return {"state": state, "ms": (time.monotonic() - started) * 1000}
