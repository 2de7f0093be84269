# SPDX-License-Identifier: Apache-2.0
"""`cumulet openapi`: what a service offers, as an OpenAPI document, without a running cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


def _services(ctx: click.Context, param: click.Parameter, value: str) -> str:
    from cumulet.assembly.table import SERVICES

    known = [entry.package for entry in SERVICES]
    if value not in known:
        raise click.BadParameter(f"{value!r} is none of {', '.join(known)}")
    return value


@click.command()
@click.argument("service", callback=_services)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it to a file.")
@click.option("--json", is_flag=True, expose_value=False, help="As JSON, which it always is.")
def openapi(service: str, output: Path | None) -> None:
    """Print the OpenAPI 3.1 document of SERVICE (identity, image, compute …)."""
    import asyncio
    import json

    text = json.dumps(asyncio.run(_document(service)), indent=2) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text)


async def _document(service: str) -> dict[str, Any]:
    """Build the service on a directory that is thrown away, and ask it; nothing is started."""
    import tempfile

    from cumulet.assembly.build import build
    from cumulet.kernel.http import Api
    from cumulet.kernel.settings import Settings

    options = {"hypervisor": "simulated", "network_driver": "simulated", "volume_driver": "simulated"}
    with tempfile.TemporaryDirectory() as folder:
        cloud = await build(Settings(), Path(folder), host="none", options=options, packages={"identity", service})
        try:
            built = cloud.services[service]
            api = next(role.app for role in built.roles if isinstance(role.app, Api))
            return api.document(built.mount)
        finally:
            await cloud.stop()
