# SPDX-License-Identifier: Apache-2.0
"""`cumulet identity`: what an operator does with identity and no other client knows."""

from __future__ import annotations

import click

from cumulet.cli import LazyGroup
from cumulet.cli.session import Place, Session, cloud_options, say_json


@click.group(
    cls=LazyGroup, table={"rotate": ("cumulet.cli.identity:rotate", "Seal tokens with a new key from now on.")}
)
def identity() -> None:
    """Look after identity: its keys."""


@click.command()
@cloud_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def rotate(place: Place, as_json: bool) -> None:
    """Put a new key in front of those that tokens are sealed with.

    Every process takes it up at once, and nobody has to log in again. The newest
    three keys stay good, so rotate at most twice within the lifetime of a token.
    Needs an administrator (--os-cloud cumulet-admin is tried by itself).
    """
    if place.cloud == "cumulet":
        place = Place(place.data, "cumulet-admin")
    kept: int = Session(place).call("identity", "POST", "/cumulet/token-keys")["keys"]
    if as_json:
        say_json({"keys": kept})
    else:
        click.echo(f"Tokens are sealed with a new key from now on; those of {kept - 1} before stay good.")
