# SPDX-License-Identifier: Apache-2.0
"""`cumulet join URL TOKEN`: this machine becomes a host of a spread cloud, and runs its agents."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import click

from cumulet.cli.options import (
    data_option,
    hypervisor_option,
    log_json_option,
    name_option,
    settings_option,
)

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("url", required=False)
@click.argument("token", required=False)
@data_option
@name_option
@hypervisor_option
@settings_option
@click.option("--ca", type=_FILE, help="Certificate (PEM) by which the cloud at URL is trusted.")
@click.option(
    "--underlay",
    metavar="ADDRESS",
    help="This host's address for the tunnels of tenant networks.  [default: the one by which it reaches URL]",
)
@click.option("--no-run", is_flag=True, help="Only join; `cumulet join` without URL starts the agents later.")
@log_json_option
@click.option("--json", "as_json", is_flag=True, help="Say what runs as JSON.")
def join(url: str | None, token: str | None, **given: Any) -> None:
    """Make this machine a host of the cloud at URL, with a token from `cumulet host token`, and run its agents.

    \b
    What the host needs to know is kept in its data directory; from then on
    `cumulet join` without URL and TOKEN starts it again. TOKEN `-` is read from
    standard input. Values of --settings hold for this host, over those of the cloud.
    """
    sys.exit(_join(url, token, given))


def _join(url: str | None, token: str | None, given: dict[str, Any]) -> int:
    from cumulet.assembly.asking import JoinError
    from cumulet.assembly.join import join, joined
    from cumulet.assembly.place import Taken
    from cumulet.assembly.table import HOST_ROLES
    from cumulet.cli.run import start
    from cumulet.kernel.settings import SettingsError

    data = given["data"].absolute()
    if (url is None) != (token is None):
        raise click.UsageError("URL and TOKEN go together")
    try:
        if url is not None and token is not None:
            if token == "-":  # noqa: S105 - it stands for standard input
                token = sys.stdin.readline()
            _warn(url)
            local = _local(given)
            join(data, url, token.strip(), given["name"] or socket.gethostname(), ca=given["ca"], local=local)
        if (settings := joined(data)) is None:
            raise click.UsageError(f"this machine has not joined a cloud (in {data}); give URL and TOKEN")
        if given["no_run"]:
            kept = {"settings": str(settings), "data": str(data)}
            click.echo(json.dumps(kept) if given["as_json"] else f"joined; what this host needs to know is in {data}")
            return 0
    except (JoinError, Taken, SettingsError, OSError) as error:
        click.echo(f"cumulet: {error}", err=True)
        return 1
    return start(tuple(sorted(HOST_ROLES)), {**given, "data": data, "settings": settings})


def _local(given: dict[str, Any]) -> dict[str, Any]:
    """The sections of settings that are this host's own."""
    from cumulet.kernel.settings import read_sections

    local = read_sections(given["settings"]) if given["settings"] is not None else {}
    if given["underlay"]:
        local.setdefault("network", {})["underlay_address"] = given["underlay"]
    return local


def _warn(url: str) -> None:
    from ipaddress import ip_address
    from urllib.parse import urlsplit

    try:
        name = urlsplit(url).hostname or ""
        near = name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        near = False
    if url.startswith("http://") and not near:
        told = "the cloud is asked without TLS: who listens on the way hears this host's credentials"
        click.echo(f"cumulet: {told}", err=True)
