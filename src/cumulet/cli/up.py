# SPDX-License-Identifier: Apache-2.0
"""`cumulet up`: everything on this machine, in one command."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from cumulet.cli.options import DEFAULT_DATA, process_options

READY_WITHIN = 120.0


@click.command()
@process_options
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port of the front door.")
@click.option(
    "--libvirtd",
    type=click.Choice(["auto", "system", "own"]),
    default="auto",
    show_default=True,
    help="Use the machine's libvirtd or one of this cloud's own; auto: the machine's where it runs.",
)
@click.option("--detach", is_flag=True, help="Return as soon as the cloud is up.")
@click.option("--traditional-ports", is_flag=True, help="Also serve each service on its traditional port.")
@click.option("--json", "as_json", is_flag=True, help="Print what runs as JSON.")
def up(**given: Any) -> None:
    """Start the whole cloud on this machine, everything in one data directory."""
    given["data"] = given["data"].absolute()
    if bool(given["tls_cert"]) != bool(given["tls_key"]):
        raise click.UsageError("--tls-cert and --tls-key go together")
    sys.exit(_detached(given) if given["detach"] else _foreground(given))


def _foreground(given: dict[str, Any]) -> int:
    from cumulet.assembly.place import Taken
    from cumulet.assembly.serve import Wish
    from cumulet.assembly.start import choose_hypervisor, find_guest_image, up
    from cumulet.kernel.db.schema import SchemaTooNew
    from cumulet.kernel.errors import Fault
    from cumulet.kernel.settings import Settings, SettingsError

    data: Path = given["data"]
    hypervisor, reasons = choose_hypervisor(given["hypervisor"], data)
    if reasons:
        click.echo("The hypervisor is simulated, because this machine can't run guests:", err=True)
        for reason in reasons:
            click.echo(f"  - {reason}", err=True)

    def ready(facts: dict[str, Any]) -> None:
        show(facts, data, as_json=given["as_json"])

    try:
        settings = Settings.read(given["settings"])
    except SettingsError as error:
        click.echo(f"cumulet: {error}", err=True)
        return 1
    wish = Wish(
        data=data, host=given["address"], port=given["port"], traditional=given["traditional_ports"],
        hypervisor=hypervisor, libvirtd=given["libvirtd"], settings=settings,
        certificate=given["tls_cert"], key=given["tls_key"],
        name=given["name"] or socket.gethostname(), on_ready=ready,
    )  # fmt: skip
    try:
        return up(
            wish, guest_image=given["guest_image"] or find_guest_image(), log=lambda: _log(data, given["log_json"])
        )
    except (Taken, SettingsError, SchemaTooNew, Fault, OSError) as error:
        click.echo(f"cumulet: {error}", err=True)
        return 1


def _log(data: Path, json: bool) -> None:
    from cumulet.kernel import log

    log.configure(json=json, stream=open(data / "cumulet.log", "a", buffering=1))  # noqa: SIM115 - lives as long as we


def _detached(given: dict[str, Any]) -> int:
    """Start ourselves again in a session of its own, and wait until that one serves."""
    from cumulet.assembly.place import Place
    from cumulet.assembly.space import ensure_room

    data: Path = given["data"]
    try:
        ensure_room(data)
    except OSError as error:
        click.echo(f"cumulet: {error}", err=True)
        return 1
    place = Place(data)
    before = (place.running() or {}).get("started")
    argv = [sys.executable, "-m", "cumulet.cli", *[word for word in sys.argv[1:] if word != "--detach"]]
    with open(data / "console.log", "wb") as out:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        facts = place.running()
        if facts is not None and facts.get("started") != before and place.is_locked():
            told = (data / "console.log").read_text(errors="replace")
            click.echo("\n".join(line for line in told.splitlines() if line.startswith(("The hyp", "  - "))), nl=False)
            show(facts, data, as_json=given["as_json"])
            return 0
        if child.poll() is not None:
            click.echo((data / "console.log").read_text(errors="replace").strip(), err=True)
            return child.returncode or 1
        time.sleep(0.02)
    click.echo(f"the cloud did not come up in {READY_WITHIN:g} s; see: cumulet logs --data {data}", err=True)
    return 1


def show(facts: dict[str, Any], data: Path, *, as_json: bool) -> None:
    """Print what runs: the services, where clouds.yaml is, and what to try."""
    if as_json:
        import json

        click.echo(json.dumps(facts))
        return
    click.echo(f"\n  Cumulet is up at {facts['url']}   (hypervisor: {facts['hypervisor']})\n")
    click.echo(f"  {'service':<11} {'state':<7} {'URL':<42} stands for")
    for one in facts["services"]:
        click.echo(f"  {one['name']:<11} {'up':<7} {facts['url'] + one['mount']:<42} {one['stands_for']}")
    where = data / "clouds.yaml"
    click.echo(f"\n  clouds.yaml: {where}\n\n  Try:")
    click.echo(f"    export OS_CLIENT_CONFIG_FILE={where} OS_CLOUD=cumulet")
    click.echo("    openstack server create --image tiny --flavor m1.nano --network private --wait hello")
    click.echo(f"    cumulet flow hello{'' if str(data) == DEFAULT_DATA else f' --data {data}'}\n")
    sys.stdout.flush()
