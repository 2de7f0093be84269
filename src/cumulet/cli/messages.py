# SPDX-License-Identifier: Apache-2.0
"""`cumulet messages`: what the processes of the cloud could not work on, and why; nothing of it is lost work."""

from __future__ import annotations

from typing import Any

import click

from cumulet.cli.session import Place, Session, cloud_options, say_json


@click.command()
@cloud_options
@click.option("-n", "--lines", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many, at most.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def messages(place: Place, lines: int, as_json: bool) -> None:
    """Show the messages that were set aside: unreadable ones, unknown methods, those whose handler crashed.

    Needs an administrator (--os-cloud cumulet-admin is tried by itself). What they asked for was asked again or given
    up with a reason; they are kept for whoever looks for a cause.
    """
    if place.cloud == "cumulet":
        place = Place(place.data, "cumulet-admin")
    told: list[dict[str, Any]] = Session(place).call("cumulet", "GET", f"/messages?limit={lines}")["messages"]
    if as_json:
        say_json(told)
        return
    for one in told:
        sender = f" from {one['sender']}" if one["sender"] else ""
        click.echo(f"{one['at'][:19]}  {one['component']} on {one['host']}: {one['method'] or 'no method'}{sender}")
        click.echo(f"    {_plain(one['reason'])}\n    {_plain(one['excerpt'])[:200]}")
    if not told:
        click.echo("No message was set aside.")


def _plain(text: str) -> str:
    """What came from outside, fit for a terminal."""
    return "".join(sign if sign.isprintable() else "·" for sign in text)
