# SPDX-License-Identifier: Apache-2.0
"""`cumulet chaos`: kills a cloud of its own, at random or at every point, and says what became of it.

Exit status 0 when nothing was lost, left over or stuck, and kills that were
enough to hit every step of create, delete and attach did; else 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

OPERATIONS = (
    "create", "create-root", "delete", "cancel", "cancel-root", "attach", "detach", "plug", "unplug", "stop",
    "make-volume", "drop-volume", "associate", "disassociate",
)  # fmt: skip


@click.command()
@click.option("--kills", type=click.IntRange(1), default=20, show_default=True, help="How often something is killed.")
@click.option("--seed", type=int, default=1, show_default=True, help="Gives the plan; the same one gives the same.")
@click.option("--every-point", is_flag=True, help="Instead: kill operations at every point that they pass.")
@click.option(
    "--operation", "operations", multiple=True, type=click.Choice(OPERATIONS), help="With --every-point: only these."
)
@click.option("--workers", type=click.IntRange(1, 64), default=6, show_default=True, help="Users at work.")
@click.option(
    "--spread", is_flag=True, help="A cloud of many processes on a PostgreSQL and a RabbitMQ of its own, restarted too."
)
@click.option("--database", help="Instead of its own: an empty PostgreSQL database (DSN), with --bus.")
@click.option("--bus", help="Instead of its own: a RabbitMQ virtual host (amqp://…), with --database.")
@click.option("--restart-database", metavar="CMD", help="With --database: the program that restarts it.")
@click.option("--restart-broker", metavar="CMD", help="With --bus: the program that restarts the broker.")
@click.option("--real", is_flag=True, help="Real guests (as root): its worker or all its processes.")
@click.option("--single", is_flag=True, help="Spread: one process of each control role instead of two.")
@click.option("--data", type=click.Path(path_type=Path), help="An empty directory.  [default: a temporary one]")
@click.option("--report", type=click.Path(path_type=Path), help="Write all that was seen to this file, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print all that was seen as JSON; the progress goes to stderr.")
def chaos(data: Path | None, as_json: bool, report: Path | None, **given: Any) -> None:
    """Kill a cloud of its own while it works, and check that nothing is lost, left over or stuck.

    A spread cloud is also cut off from its broker and its database, process by
    process, and both are restarted. Everything lives in a directory of its own
    and, without --real, is simulated: no other cloud is touched.
    """
    if given["real"]:
        _check_real(data, given)
    if data is not None and data.exists() and any(data.iterdir()):
        raise click.UsageError(f"{data} is not empty")
    if given["every_point"] and (given["spread"] or given["database"] or given["bus"]):
        raise click.UsageError("--every-point kills a cloud of one process; it goes without --spread and --database")
    if bool(given["database"]) != bool(given["bus"]):
        raise click.UsageError("--database and --bus go together")
    if given["single"] and not (given["spread"] or given["database"]):
        raise click.UsageError("--single goes with --spread, or with --database and --bus")
    if (given["restart_database"] or given["restart_broker"]) and not given["database"]:
        raise click.UsageError("--restart-database and --restart-broker go with --database and --bus")
    from cumulet.cli.chaos.backing import told_to_end

    aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    with told_to_end(), tempfile.TemporaryDirectory(prefix="cumulet-chaos-") as scratch, aside:
        folder = data or Path(scratch)
        if given["every_point"]:
            told, good = asyncio.run(_every_point(folder, given["operations"] or OPERATIONS))
        else:
            told, good = _run_storm(folder, given)
        if report is not None:
            report.write_text(json.dumps(told, indent=2, default=str))
    if as_json:
        click.echo(json.dumps(told, default=str))
    sys.exit(0 if good else 1)


def _check_real(data: Path | None, given: dict[str, Any]) -> None:
    """Raise UsageError where real guests can't be had."""
    from cumulet.assembly.machine import check_machine
    from cumulet.cli.chaos.real import PLACE

    if data is not None or given["spread"] or given["database"] or given["every_point"]:
        raise click.UsageError("--real has a directory of its own and one process; it goes with --kills and --seed")
    found = [f"{one.name}: {one.problem} ({one.remedy})" for one in check_machine(Path(PLACE)) if one.problem]
    if found:
        raise click.UsageError("this machine can't run guests: " + "; ".join(found))


async def _every_point(folder: Path, operations: tuple[str, ...]) -> tuple[dict[str, Any], bool]:
    from cumulet.cli.chaos.process import CloudProcess
    from cumulet.cli.chaos.scenarios import SCENARIOS, opened
    from cumulet.cli.chaos.sweep import sweep

    process = CloudProcess(folder / "cloud", halts=True)
    told = []
    async with opened(process) as site:
        await site.server({})  # the image is in the host's cache from here on
        click.echo(f"{'operation':<14}{'points':>7}{'killed at':>11}{'quiet after':>13}  servers afterwards")
        for name in operations:
            found = await sweep(process, site, SCENARIOS[name])
            ends = ", ".join(f"{number} {status}" for status, number in sorted(found.outcomes.items())) or "none"
            line = f"{name:<14}{len(found.points):>7}{len(found.held):>11}{found.quiet_after:>11.1f} s  {ends}"
            click.echo(line + ("" if found.good else "  BROKEN"))
            _tell(found)
            told.append(found)
    for found in told:
        click.echo(f"\n{found.operation}:")
        for point in found.points:
            click.echo(f"  {'killed' if point in found.held else 'missed':<8}{point}")
    return {"operations": [asdict(found) for found in told]}, all(found.good for found in told)


def _run_storm(folder: Path, given: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    import logging

    import uvloop

    from cumulet.cli.chaos.backing import backing

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        with backing(given) if given["spread"] or given["database"] else contextlib.nullcontext() as below:
            return uvloop.run(_storm(folder, given, below))
    except RuntimeError as error:  # what is needed is not there, or a program of the user's failed
        raise click.ClickException(str(error)) from error


async def _storm(folder: Path, given: dict[str, Any], below: Any) -> tuple[dict[str, Any], bool]:
    from cumulet.cli.chaos.nursery import Nursery
    from cumulet.cli.chaos.process import CloudProcess
    from cumulet.cli.chaos.real import RealCloud
    from cumulet.cli.chaos.scenarios import opened
    from cumulet.cli.chaos.spread import SpreadCloud
    from cumulet.cli.chaos.storm import storm

    async with Nursery() as nursery:
        cloud: CloudProcess | SpreadCloud
        if given["real"]:
            cloud = RealCloud()
        elif below is None:
            cloud = CloudProcess(folder / "cloud", halts=True, launcher=nursery)
        else:
            cloud = SpreadCloud(
                folder / "spread", below.database, below.bus, given["seed"], twins=not given["single"],
                launcher=nursery, restarts=below.restarts,
            )  # fmt: skip
        async with opened(cloud) as site:
            found = await storm(cloud, site, given["kills"], given["seed"], given["workers"])
    _tell_storm(found)
    return {**asdict(found), "coverage": found.coverage.told()}, found.good


def _tell_storm(found: Any) -> None:
    click.echo(
        f"{found.kills} kills, {found.blows - found.kills} other blows in {found.seconds:.0f} s, seed {found.seed}"
    )
    click.echo(f"  struck: {_counts(found.struck)}")
    click.echo(f"  asked: {_counts(found.promises.begun)}")
    click.echo(f"  servers ended: {_counts(found.promises.ended)}; afterwards: {_counts(found.swept.outcomes)}")
    if found.restarts:
        times = sorted(found.restarts)
        click.echo(f"  starts: {times[0]:.2f} to {times[-1]:.2f} s, median {times[len(times) // 2]:.2f} s")
    click.echo(f"  quiet {found.swept.quiet_after:.1f} s after the last start")
    for line in found.coverage.table():
        click.echo(f"  {line}")
    click.echo(f"  and at {len(found.coverage.elsewhere)} other points")
    aimed, came = found.coverage.aimed.total(), found.coverage.came.total()
    click.echo(f"  {came} of {aimed} aimed kills met a flow where they aimed")
    for saga, step, phase in found.coverage.missing:
        click.echo(f"  not hit: {phase} {saga} {step}")
    _tell(found.swept)
    for line in (*found.broken_promises, *found.died):
        click.echo(f"  promise broken: {line}")
    click.echo("Nothing lost, nothing left over, nothing stuck." if found.sound else "BROKEN.")
    if found.idle:
        click.echo("NOT SHOWN: not one server was accepted.")
    if found.thin:
        click.echo("NOT SHOWN: there were kills enough to hit every step before, inside and after it.")


def _tell(found: Any) -> None:
    for line in found.unexplained:
        click.echo(f"  stuck: {line}")
    for one in found.findings:
        click.echo(f"  broken: {one.get('rule', '')} {one.get('sentence', one)}")
    for line in found.leftovers:
        click.echo(f"  left over: {line}")
    for fault, number in found.faults.items():
        click.echo(f"  fault of {number}: {fault}")


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counted.items())) or "none"
