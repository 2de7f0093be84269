# SPDX-License-Identifier: Apache-2.0
"""`cumulet roles`: the processes of the cloud, what each runs, where, since when, and whether it lives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from cumulet.cli.session import Place, Session, cloud_options, say_json


@click.command()
@cloud_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def roles(place: Place, as_json: bool) -> None:
    """Show which process runs which roles, where, since when, and whether it lives.

    Needs an administrator (--os-cloud cumulet-admin is tried by itself).
    """
    if place.cloud == "cumulet":
        place = Place(place.data, "cumulet-admin")
    told: list[dict[str, Any]] = Session(place).call("cumulet", "GET", "/roles")["processes"]
    if as_json:
        say_json(told)
        return
    from rich.console import Console

    Console(highlight=False).print(picture(told, datetime.now(UTC)))


def picture(told: list[dict[str, Any]], now: datetime) -> Any:
    """The table of processes: those that live first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
    for name in ("host", "roles", "pid", "address", "since", "state"):
        table.add_column(name, overflow="fold")
    for one in sorted(told, key=lambda one: (not one["alive"], one["host"], one["roles"])):
        state, colour = state_of(one)
        since = datetime.fromisoformat(one["started_at"])
        text = Text(state, colour)
        for problem in one["problems"] if one["alive"] else ():
            text.append(f"\n{problem}", "yellow")
        table.add_row(
            one["host"], ", ".join(one["roles"]), str(one["pid"]), one["address"], _ago((now - since).total_seconds()),
            text,
        )  # fmt: skip
    return table


def state_of(one: dict[str, Any]) -> tuple[str, str]:
    """What is said about a process, and its colour."""
    if one["state"] == "draining":
        return ("ending", "yellow") if one["alive"] else ("ended", "dim")
    if not one["alive"]:
        return f"silent since {one['seen_at'][11:19]} UTC", "bold red"
    return (one["state"], "green") if one["state"] == "ready" else (one["state"], "yellow")


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
