# SPDX-License-Identifier: Apache-2.0
"""`cumulet backup` and `cumulet restore`: the whole cloud in one file, while it runs, and back."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from cumulet.cli.options import data_option, settings_option


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@data_option
@settings_option
@click.option("--images", is_flag=True, help="With the images' content.")
@click.option("--volumes", is_flag=True, help="With the volumes' content and the guests' own disks.")
@click.option("--json", "as_json", is_flag=True, help="Say what was written as JSON.")
def backup(file: Path, data: Path, settings: Path | None, images: bool, volumes: bool, as_json: bool) -> None:
    """Write the cloud to FILE, while it runs: all databases of one moment, and its keys.

    The file holds every secret of the cloud: keep it as you would keep those.
    A volume that a guest writes to meanwhile is as after a power cut.
    """
    from cumulet.assembly.backup import BackupError, backup_sqlite

    try:
        config = _config(settings)
        secrets = Path(config.secrets) if config.secrets else None
        if config.database:
            from cumulet.assembly.backup_postgres import backup_postgres

            told = asyncio.run(
                backup_postgres(config.database, data, file, images=images, volumes=volumes, secrets=secrets)
            )
        else:
            told = backup_sqlite(data.absolute(), file, images=images, volumes=volumes, secrets=secrets)
    except (BackupError, OSError) as error:
        click.echo(f"cumulet: {error}", err=True)
        sys.exit(1)
    size = file.stat().st_size
    if as_json:
        import json

        click.echo(json.dumps({**told, "file": str(file), "bytes": size}))
        return
    pause = f", writers paused {told['pause_ms']:g} ms" if "pause_ms" in told else ""
    click.echo(f"{file}: {size / 2**20:.1f} MiB{pause}")
    for what, there in (("images", images), ("volumes", volumes)):
        if not there:
            click.echo(f"  without the content of {what} (--{what})")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@data_option
@settings_option
@click.option("--settled", is_flag=True, help="Hosts may remove guests again that the restored records do not know.")
@click.option("--json", "as_json", is_flag=True, help="Say what was done as JSON.")
def restore(file: Path | None, data: Path, settings: Path | None, settled: bool, as_json: bool) -> None:
    """Make an empty data directory (and an empty database) the cloud that is in FILE.

    Start it with `cumulet up`, look with `cumulet check`, then say `cumulet restore --settled`:
    until then no host removes a guest that the restored records do not know.
    """
    from cumulet.assembly.backup import RESTORED, BackupError, read_manifest, restore_files

    if settled:
        (data / RESTORED).unlink(missing_ok=True)
        _say("Hosts remove again what the records do not know.", {"settled": True}, as_json=as_json)
        return
    if file is None:
        raise click.UsageError("which FILE?")
    try:
        manifest = read_manifest(file)
        database = _config(settings).database
        if bool(database) != (manifest["database"] == "postgresql"):
            kind = "PostgreSQL: name its settings with --settings" if not database else "SQLite: no database may be set"
            raise BackupError(f"the backup is of a cloud on {kind}")
        restore_files(file, data.absolute())
        if database:
            from cumulet.assembly.backup_postgres import restore_postgres

            asyncio.run(restore_postgres(file, database))
    except (BackupError, OSError) as error:
        click.echo(f"cumulet: {error}", err=True)
        sys.exit(1)
    text = f"Restored into {data}. Next: cumulet up --data {data}; cumulet check; cumulet restore --settled"
    _say(text, {"restored": str(data)}, as_json=as_json)


def _say(text: str, facts: dict[str, Any], *, as_json: bool) -> None:
    import json

    click.echo(json.dumps(facts) if as_json else text)


def _config(settings: Path | None) -> Any:
    from cumulet.assembly.backup import BackupError
    from cumulet.assembly.config import cloud_config
    from cumulet.kernel.settings import Settings, SettingsError

    try:
        return cloud_config(Settings.read(settings))
    except SettingsError as error:
        raise BackupError(str(error)) from None
