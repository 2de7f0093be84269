# SPDX-License-Identifier: Apache-2.0
"""`cumulet env`: what a shell needs so that any OpenStack client speaks to this cloud."""

from __future__ import annotations

import shlex

import click

from cumulet.cli.session import Place, cloud_options, say_json


@click.command()
@cloud_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def env(place: Place, as_json: bool) -> None:
    """Print export lines for the shell: eval "$(cumulet env)"."""
    place.read()
    told = {"OS_CLIENT_CONFIG_FILE": str(place.file.absolute()), "OS_CLOUD": place.cloud}
    if as_json:
        say_json(told)
        return
    for name, value in told.items():
        click.echo(f"export {name}={shlex.quote(value)}")
