# SPDX-License-Identifier: Apache-2.0
"""`cumulet run ROLE…`: some roles of a cloud in this process; the others run elsewhere from the same settings file."""

from __future__ import annotations

import socket
import sys
from typing import Any

import click

from cumulet.cli.options import process_options


@click.command()
@click.argument("roles", nargs=-1, required=True, metavar="ROLE...")
@process_options
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: the service's own, if it has an API]"
)
@click.option(
    "--hosts",
    type=click.IntRange(1, 200),
    default=1,
    show_default=True,
    help="Be so many simulated hosts, NAME-1 to NAME-N.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what runs as JSON.")
def run(roles: tuple[str, ...], **given: Any) -> None:
    """Run ROLEs in this process until told to stop; `front` serves the whole cloud at one address.

    \b
    Roles: identity-api image-api placement-api network-api network-agent volume-api
    volume-scheduler volume-agent compute-api scheduler conductor compute-agent insight front

    SIGTERM ends it without losing a request: it goes on serving until its clients
    have gone elsewhere, and finishes what it has in work.
    """
    if bool(given["tls_cert"]) != bool(given["tls_key"]):
        raise click.UsageError("--tls-cert and --tls-key go together")
    sys.exit(start(roles, given))


def start(roles: tuple[str, ...], given: dict[str, Any]) -> int:
    """Run the roles as the command line said in ``given``; returns the exit status."""
    from cumulet.assembly.config import cloud_config
    from cumulet.assembly.join import joined
    from cumulet.assembly.place import Taken
    from cumulet.assembly.run import check_roles, port_of, run_roles
    from cumulet.assembly.serve import Wish
    from cumulet.assembly.start import choose_hypervisor
    from cumulet.assembly.table import HOST_ROLES
    from cumulet.kernel import log
    from cumulet.kernel.db.schema import SchemaTooNew
    from cumulet.kernel.errors import Fault
    from cumulet.kernel.settings import Settings, SettingsError

    data = given["data"].absolute()
    try:
        check_roles(roles)
        hypervisor = "simulated"
        if HOST_ROLES & set(roles):
            hypervisor, reasons = choose_hypervisor(given["hypervisor"], data)
            for reason in reasons:
                click.echo(f"The hypervisor is simulated: {reason}", err=True)
        file = given["settings"] or (joined(data) if set(roles) <= HOST_ROLES else None)
        settings = Settings.read(file)
        kept = cloud_config(settings).host
        wish = Wish(
            data=data, host=given.get("address", "127.0.0.1"), hypervisor=hypervisor, settings=settings,
            certificate=given.get("tls_cert"), key=given.get("tls_key"),
            name=given["name"] or kept or socket.gethostname(), hosts=given.get("hosts", 1),
            on_ready=_say_json if given["as_json"] else _say_ready,
        )  # fmt: skip
        if (image := given.get("guest_image")) is not None:
            wish.options["guest_image"] = {"name": "tiny", "path": str(image), "disk_format": image.suffix[1:]}
        port = given["port"] if given.get("port") is not None else port_of(roles)
        return run_roles(wish, roles, port=port, log=lambda: log.configure(json=given["log_json"]))
    except (Taken, SettingsError, SchemaTooNew, Fault, OSError) as error:
        click.echo(f"cumulet: {error}", err=True)
        return 1


def _say_ready(facts: dict[str, Any]) -> None:
    where = f" at {facts['address']}" if facts["address"] else ""
    click.echo(f"ready: {', '.join(facts['roles'])}{where} (process {facts['pid']})")
    sys.stdout.flush()


def _say_json(facts: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps(facts))
    sys.stdout.flush()
