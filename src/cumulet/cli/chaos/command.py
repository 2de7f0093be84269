# SPDX-License-Identifier: Apache-2.0
"""`cumulet chaos`: kills a cloud of its own, at random or at every point, and says what became of it.

Exit status 0 when nothing was lost, left over or stuck; else 1.
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
    "create", "delete", "cancel", "attach", "detach", "plug", "unplug", "stop", "make-volume", "drop-volume",
    "associate", "disassociate",
)  # fmt: skip


@click.command()
@click.option("--kills", type=click.IntRange(1), default=20, show_default=True, help="How often it is killed.")
@click.option("--seed", type=int, default=1, show_default=True, help="Gives the plan; the same one gives the same.")
@click.option("--every-point", is_flag=True, help="Instead: kill operations at every point that they pass.")
@click.option(
    "--operation", "operations", multiple=True, type=click.Choice(OPERATIONS), help="With --every-point: only these."
)
@click.option("--workers", type=click.IntRange(1, 64), default=6, show_default=True, help="Users at work.")
@click.option(
    "--database", help="An empty PostgreSQL database (DSN): a spread cloud, of which one process is killed each time."
)
@click.option("--bus", help="With --database: a RabbitMQ virtual host of its own (amqp://…).")
@click.option("--data", type=click.Path(path_type=Path), help="An empty directory.  [default: a temporary one]")
@click.option("--report", type=click.Path(path_type=Path), help="Write all that was seen to this file, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print all that was seen as JSON; the progress goes to stderr.")
def chaos(
    kills: int, seed: int, every_point: bool, operations: tuple[str, ...], workers: int, database: str | None,
    bus: str | None, data: Path | None,
    report: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Kill a cloud of its own while it works, and check that nothing is lost, left over or stuck.

    The cloud is simulated and lives in a directory of its own: no other cloud is touched.
    """
    if data is not None and data.exists() and any(data.iterdir()):
        raise click.UsageError(f"{data} is not empty")
    aside = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    if bool(database) != bool(bus):
        raise click.UsageError("--database and --bus go together")
    with tempfile.TemporaryDirectory(prefix="cumulet-chaos-") as scratch, aside:
        folder = data or Path(scratch)
        if every_point:
            told, good = asyncio.run(_every_point(folder, operations or OPERATIONS))
        else:
            told, good = asyncio.run(_storm(folder, kills, seed, workers, database, bus))
        if report is not None:
            report.write_text(json.dumps(told, indent=2, default=str))
    if as_json:
        click.echo(json.dumps(told, default=str))
    sys.exit(0 if good else 1)


async def _every_point(folder: Path, operations: tuple[str, ...]) -> tuple[dict[str, Any], bool]:
    from cumulet.cli.chaos.process import CloudProcess
    from cumulet.cli.chaos.scenarios import SCENARIOS, Site
    from cumulet.cli.chaos.sweep import sweep
    from cumulet.cli.chaos.user import User

    process = CloudProcess(folder / "cloud", halts=True)
    await process.start()
    told = []
    try:
        demo, admin = (User(lambda: process.url, process.data, name) for name in ("demo", "admin"))
        async with demo, admin:
            site = Site(demo, admin)
            await site.open()
            await site.server({})  # the image is in the host's cache from here on
            click.echo(f"{'operation':<14}{'points':>7}{'killed at':>11}{'quiet after':>13}  servers afterwards")
            for name in operations:
                found = await sweep(process, site, SCENARIOS[name])
                ends = ", ".join(f"{number} {status}" for status, number in sorted(found.outcomes.items())) or "none"
                line = f"{name:<14}{len(found.points):>7}{len(found.held):>11}{found.quiet_after:>11.1f} s  {ends}"
                click.echo(line + ("" if found.good else "  BROKEN"))
                _tell(found)
                told.append(found)
    finally:
        await process.kill()
    for found in told:
        click.echo(f"\n{found.operation}:")
        for point in found.points:
            click.echo(f"  {'killed' if point in found.held else 'missed':<8}{point}")
    return {"operations": [asdict(found) for found in told]}, all(found.good for found in told)


async def _storm(
    folder: Path, kills: int, seed: int, workers: int, database: str | None, bus: str | None
) -> tuple[dict[str, Any], bool]:
    from cumulet.cli.chaos.process import CloudProcess
    from cumulet.cli.chaos.scenarios import Site
    from cumulet.cli.chaos.spread import SpreadCloud
    from cumulet.cli.chaos.storm import storm
    from cumulet.cli.chaos.user import User

    spread = SpreadCloud(folder / "spread", database, bus, seed) if database and bus else None
    process = spread or CloudProcess(folder / "cloud")
    try:
        await process.start()
        demo, admin = (User(lambda: process.url, process.data, name) for name in ("demo", "admin"))
        async with demo, admin:
            site = Site(demo, admin)
            await site.open()
            found = await storm(process, site, kills, seed, workers)
    finally:
        await process.stop()
    if spread is not None:
        click.echo(f"killed: {_counts(spread.killed)}")
    frozen = sum(blow.freeze for blow in found.plan[: found.blows])
    click.echo(f"{found.blows - frozen} kills and {frozen} stops in {found.seconds:.0f} s, seed {seed}")
    click.echo(f"  asked: {_counts(found.begun)}")
    click.echo(f"  servers ended: {_counts(found.ended)}; afterwards: {_counts(found.swept.outcomes)}")
    if found.restarts:
        click.echo(f"  starts: {min(found.restarts):.2f} to {max(found.restarts):.2f} s")
    click.echo(f"  quiet {found.swept.quiet_after:.1f} s after the last start")
    _tell(found.swept)
    for line in found.broken_promises:
        click.echo(f"  promise broken: {line}")
    click.echo("Nothing lost, nothing left over, nothing stuck." if found.good else "BROKEN.")
    return asdict(found), found.good


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
