# SPDX-License-Identifier: Apache-2.0
"""`cumulet why`: which filter left which hosts, and for each host the number that failed."""

from __future__ import annotations

from typing import Any

import click

from cumulet.cli.session import CliError, Place, Session, cloud_options, say_json

_SHOWN = 20


@click.command()
@click.argument("server")
@cloud_options
@click.option("--volume", "is_volume", is_flag=True, help="SERVER is a volume: say why it is in error.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def why(place: Place, server: str, is_volume: bool, as_json: bool) -> None:
    """Say why SERVER (name or id) got its host, or none: hosts in and out of each filter, and the numbers."""
    session = Session(place)
    if is_volume:
        _volume(session, server, as_json=as_json)
        return
    server_id, shown = session.find_server(server)
    told = session.call("cumulet", "GET", f"/servers/{server_id}/why")
    if as_json:
        say_json(told)
        return
    if not told.get("why") and not told.get("fault"):
        raise CliError(f"the scheduler has not been asked about {server} yet")
    from rich.console import Console

    console = Console(highlight=False)
    console.print()
    for part in picture(told, shown["name"] if shown else server, server_id, shown["status"] if shown else ""):
        console.print(part)
    console.print()


def _volume(session: Session, named: str, *, as_json: bool) -> None:
    """Why a volume is as it is, in one line."""
    volume_id, name = session.find_volume(named)
    told = session.call("block-storage", "GET", f"/cumulet/volumes/{volume_id}/why")
    if as_json:
        say_json(told)
    else:
        click.echo(f"{name or volume_id}  {volume_id}  {told['status']}\n{told['reason'] or 'nothing went wrong'}")


def picture(told: dict[str, Any], name: str, server_id: str, status: str) -> list[Any]:
    """What is printed, part by part."""
    from rich.padding import Padding
    from rich.text import Text

    colour = {"ERROR": "bold red", "ACTIVE": "bold green"}.get(status, "bold yellow")
    title = Text.assemble(" ", (name, "bold"), (f"  {server_id}  ", "dim"), (status, colour))
    parts: list[Any] = [title]
    if fault := told.get("fault"):
        parts.append(Padding(Text(f"✗ {fault.get('message', '')}", "red"), (0, 1)))
        if fault.get("details"):
            parts.append(Padding(Text(str(fault["details"]), "dim"), (0, 3)))
    reasons = told.get("why") or {}
    if reasons.get("filters"):
        parts.append(_filters(reasons))
    if reasons.get("best"):
        parts.append(_best(reasons["best"]))
    if reasons.get("tried"):
        parts.append(_tried(reasons["tried"]))
    return parts


def _table(*columns: tuple[str, dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim", expand=False)
    for name, more in columns:
        table.add_column(name, **more)
    return table


def _filters(reasons: dict[str, Any]) -> Any:
    from rich.text import Text

    total = max(reasons.get("hosts", 0), 1)
    table = _table(
        (" filter", {"no_wrap": True}),
        ("in", {"justify": "right", "no_wrap": True}),
        ("out", {"justify": "right", "no_wrap": True}),
        ("", {"no_wrap": True, "width": 10}),
        ("wanted", {"max_width": 22}),
        ("left out, because found", {"ratio": 1}),
    )
    for one in reasons["filters"]:
        passed, entered = one["hosts_out"], one["hosts_in"]
        filled = round(passed / total * 10) or (1 if passed else 0)
        colour = "red" if entered and not passed else "yellow" if passed < entered else "green"
        mark = "✗" if entered and not passed else "✓"
        table.add_row(
            Text.assemble((mark, colour), " ", one["name"]),
            str(entered),
            Text(str(passed), colour),
            Text.assemble(("█" * filled, colour), ("░" * (10 - filled), "dim")),
            _said(one.get("wanted")),
            _rejected(one),
        )
    return table


def _rejected(one: dict[str, Any]) -> Any:
    from rich.text import Text

    told = one.get("rejected") or []
    line = Text()
    for at, host in enumerate(told[:_SHOWN]):
        line.append(", " if at else "")
        line.append(str(host["host"]), "bold")
        if host.get("found") is not None:
            line.append(f" {_said(host['found'])}")
    more = one["hosts_in"] - one["hosts_out"] - min(len(told), _SHOWN)
    if more > 0:
        line.append(f"{', ' if told else ''}and {more} more" if told else f"{more} hosts", "dim")
    return line


def _best(best: list[dict[str, Any]]) -> Any:
    table = _table(
        (" weighed host", {"no_wrap": True}),
        ("weight", {"justify": "right", "no_wrap": True}),
        ("made of", {"ratio": 1}),
    )
    for one in best:
        parts = ", ".join(f"{name} {_said(value)}" for name, value in (one.get("parts") or {}).items() if value)
        table.add_row(f"  {one['host']}", f"{one['weight']:.2f}", parts)
    return table


def _tried(tried: list[dict[str, Any]]) -> Any:
    from rich.text import Text

    table = _table((" asked of placement", {"no_wrap": True}), ("outcome", {"no_wrap": True}), ("", {"ratio": 1}))
    for one in tried:
        good = one["outcome"] in ("claimed", "found")
        table.add_row(f"  {one['host']}", Text(one["outcome"], "green" if good else "red"), one.get("reason") or "")
    return table


def _said(value: Any) -> str:
    """A number, word, list or mapping of a filter for people."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) else str(int(value))
    if isinstance(value, list):
        return ", ".join(_said(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={_said(one)}" for key, one in value.items())
    return str(value)
