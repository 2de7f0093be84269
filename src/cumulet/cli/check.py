# SPDX-License-Identifier: Apache-2.0
"""`cumulet check`: every invariant of the living cloud, in sentences; `--repair` shows its plan and carries it out.

Exit status 0: clean. 1: something is broken. 2: something could not be looked at.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from cumulet.cli.session import Place, Session, cloud_options, say_json


@click.command()
@cloud_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option(
    "--wait", type=click.FloatRange(0), default=0.0, help="Seconds in which reconcilers may mend what is found."
)
@click.option("--repair", is_flag=True, help="Show what would mend it, ask, and do it.")
@click.option("--yes", is_flag=True, help="With --repair: do not ask.")
def check(place: Place, as_json: bool, wait: float, repair: bool, yes: bool) -> None:
    """Check every invariant of the cloud: nothing is stuck, nothing is left over, nothing is there twice.

    Needs an administrator (--os-cloud cumulet-admin is tried by itself).
    """
    if place.cloud == "cumulet":
        place = Place(place.data, "cumulet-admin")
    session = Session(place)
    verdict = look(session, wait)
    if repair and verdict["findings"]:
        verdict["repaired"] = _repair(session, verdict, yes=yes, quiet=as_json)
        if verdict["repaired"]:
            verdict = {**look(session, wait), "repaired": verdict["repaired"]}
    if as_json:
        say_json(verdict)
    else:
        _say(verdict)
    sys.exit(1 if verdict["findings"] else 2 if verdict["unread"] else 0)


def look(session: Session, wait: float) -> dict[str, Any]:
    """What is broken, after reconcilers had ``wait`` seconds for it."""
    until = time.monotonic() + wait
    while True:
        verdict: dict[str, Any] = session.call("cumulet", "GET", "/check")
        if verdict["clean"] or time.monotonic() >= until:
            return verdict
        time.sleep(1.0)


def _repair(session: Session, verdict: dict[str, Any], *, yes: bool, quiet: bool) -> list[dict[str, Any]]:
    """The plan, the question, the deed."""
    plan = [one for one in verdict["findings"] if one["repair"]]
    if not quiet:
        _say(verdict)
    if not plan:
        return []
    if not quiet:
        click.echo("To mend this, these calls would be made:\n")
        for one in plan:
            for line in one["repair"]:
                click.echo(f"  {line}")
        click.echo("")
    if not yes:
        click.confirm("Make them?", abort=True, err=True)
    wanted = [{"rule": one["rule"], "id": one["id"]} for one in plan]
    done: list[dict[str, Any]] = session.call("cumulet", "POST", "/check/repair", {"findings": wanted})["repaired"]
    for one in () if quiet else done:
        click.echo(f"  {one['rule']} {one['id']}: {'done' if one['done'] else one['told']}")
    return done


def _say(verdict: dict[str, Any]) -> None:
    things = sum(verdict["looked_at"].values())
    for service, reason in verdict["unread"].items():
        click.echo(f"  {service} was not read: {reason}")
    for one in verdict["findings"]:
        click.echo(f"  {one['rule']:<24} {one['sentence']}")
        for line in one["repair"] or ([one["mended_by"]] if one["mended_by"] else []):
            click.echo(f"  {'':<24}   {line}")
    if verdict["clean"]:
        click.echo(f"Clean: {things} things of {len(verdict['looked_at'])} kinds, every invariant holds.")
    elif verdict["findings"]:
        click.echo(f"\n{len(verdict['findings'])} broken, of {things} things.")
