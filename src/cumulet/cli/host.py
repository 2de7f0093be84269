# SPDX-License-Identifier: Apache-2.0
"""`cumulet host`: let hosts join a spread cloud, keep new work away from one, remove one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from cumulet.cli import LazyGroup
from cumulet.cli.session import Place, Session, cloud_options, say_json

_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.group(
    cls=LazyGroup,
    table={
        "token": ("cumulet.cli.host:token", "Print a token with which a machine joins the cloud."),
        "list": ("cumulet.cli.host:index", "Show the hosts of the cloud."),
        "maintenance": ("cumulet.cli.host:maintenance", "Have nothing new put on a host, or again."),
        "remove": ("cumulet.cli.host:remove", "Remove a host that nothing is on any more."),
    },
)
def host() -> None:
    """Let hosts join the cloud, rest, or leave it. Needs an administrator (--os-cloud cumulet-admin by itself)."""


def _session(place: Place) -> Session:
    return Session(Place(place.data, "cumulet-admin") if place.cloud == "cumulet" else place)


@click.command()
@cloud_options
@click.option("--for", "name", metavar="NAME", help="Only for the host NAME, even one that is there already.")
@click.option("--minutes", type=click.IntRange(1, 10_080), default=15, show_default=True, help="How long it is good.")
@_JSON
def token(place: Place, name: str | None, minutes: int, as_json: bool) -> None:
    """Print the command by which a machine joins this cloud; its token is good for one machine, once."""
    session = _session(place)
    asked = {"seconds": minutes * 60, **({"host": name} if name else {})}
    made: dict[str, Any] = session.call("cumulet", "POST", "/join-tokens", asked)
    url = session.endpoint("cumulet").removesuffix("/v1").removesuffix("/cumulet")
    if as_json:
        say_json({**made, "url": url})
        return
    named = f" --name {name}" if name else ""
    click.echo(f"cumulet join {url} {made['token']}{named}")


@click.command()
@cloud_options
@_JSON
def index(place: Place, as_json: bool) -> None:
    """Show the hosts of the cloud: whether they live, and whether they take anything new."""
    told: list[dict[str, Any]] = _session(place).call("cumulet", "GET", "/hosts")["hosts"]
    if as_json:
        say_json(told)
        return
    from rich.console import Console

    Console(highlight=False).print(picture(told))


def picture(told: list[dict[str, Any]]) -> Any:
    """The table of hosts."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("host", "state", "maintenance", "credentials", "joined"):
        table.add_column(name, overflow="fold")
    for one in told:
        state = one["state"] if one["state"] != "joined" else "up" if one["alive"] else "silent"
        rests = (one["reason"] or "yes") if one["maintenance"] else ""
        table.add_row(one["name"], state, rests, one["credentials"], (one["joined_at"] or "")[:16].replace("T", " "))
    return table


@click.command()
@click.argument("name")
@cloud_options
@click.option("--off", is_flag=True, help="Let new servers and volumes be put on it again.")
@click.option("--reason", help="Why; other operators see it.")
@_JSON
def maintenance(place: Place, name: str, off: bool, reason: str | None, as_json: bool) -> None:
    """Have no new server, volume or router put on the host NAME; what is on it stays."""
    if off and reason:
        raise click.UsageError("--reason is for going into maintenance")
    asked = {"maintenance": not off, **({"reason": reason} if reason else {})}
    shown = _session(place).call("cumulet", "PATCH", f"/hosts/{quote(name, safe='')}", asked)["host"]
    if as_json:
        say_json(shown)
    elif off:
        click.echo(f"New servers and volumes may be put on {name} again.")
    else:
        click.echo(f"Nothing new is put on {name}; what is on it stays.")


@click.command()
@click.argument("name")
@cloud_options
@_JSON
def remove(place: Place, name: str, as_json: bool) -> None:
    """Remove the host NAME: it is cut off at once, and nothing of it is left in the cloud.

    Refused while servers or volumes are on it.
    """
    _session(place).call("cumulet", "DELETE", f"/hosts/{quote(name, safe='')}")
    if as_json:
        say_json({"removed": name})
    else:
        click.echo(f"{name} is removed.")
