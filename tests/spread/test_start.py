# SPDX-License-Identifier: Apache-2.0
"""What `cumulet run` refuses before anything is served, what agents may know, and that starters do not race."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from cumulet.assembly.build import build
from cumulet.assembly.config import for_roles
from cumulet.assembly.firststart import start_services
from cumulet.assembly.place import Place, Taken
from cumulet.assembly.run import port_of
from cumulet.assembly.table import ALL_ROLES
from cumulet.cli import main
from cumulet.cli.chaos.loopback import free_ports
from cumulet.cli.run import run
from cumulet.kernel.db.schema import SchemaTooNew
from cumulet.kernel.settings import Settings, SettingsError
from tests.cloud import new_database
from tests.spread.processes import write_settings

CHEAP = {"identity": {"hash_memory_kib": 8}}


def refused(folder: Path, sections: dict[str, Any], *roles: str, data: Path | None = None) -> str:
    """What `cumulet run` says before it gives up."""
    settings = write_settings(folder / "cumulet.toml", sections)
    port = free_ports(1)[0]
    argv = [*roles, "--settings", str(settings), "--data", str(data or folder / "data"), "--port", str(port)]
    result = CliRunner().invoke(run, [*argv, "--hypervisor", "simulated"])
    assert result.exit_code == 1, result.output
    assert "\ncumulet: " in "\n" + result.output  # after what was logged
    assert "ready:" not in result.output
    return result.output


@pytest.mark.parametrize(
    ("sections", "roles", "named"),
    [
        ({"cloud": {"databse": "x"}}, ["image-api"], "[cloud] databse: no such setting"),
        ({"cloud": {"database": 5}}, ["image-api"], "[cloud] database"),
        ({"cloud": {"database": "mysql://h/d"}}, ["image-api"], "[cloud] database: must be a URL"),
        ({"cloud": {"bus": "redis://h"}}, ["image-api"], "[cloud] bus: must be a URL"),
        ({"cloud": {}, "cloud.endpoints": {"imag": "http://h"}}, ["image-api"], "[cloud.endpoints] imag"),
        ({"cloud": {}, "cloud.endpoints": {"image": "h:9292"}}, ["image-api"], "[cloud.endpoints] image"),
        ({"cloud": {}, "cloud.endpoints": {"image": []}}, ["image-api"], "[cloud.endpoints] image"),
        ({"network": {"path_mtu": "wide"}}, ["image-api"], "[network]"),
        ({"netwrk": {"path_mtu": 1500}}, ["image-api"], "[netwrk]: no such section"),
        ({}, ["conductor"], "[cloud] bus: must be set"),
        ({}, ["image-pi"], "there is no role 'image-pi'"),
        ({"cloud": {"bus": "amqp://u:p@127.0.0.1:1/"}}, ["compute-agent"], "[cloud] secrets"),
    ],
)
def test_wrong_settings_name_the_key(
    tmp_path: Path, sections: dict[str, Any], roles: list[str], named: str
) -> None:  # fmt: skip
    assert named in refused(tmp_path, sections, *roles)


def test_an_unreachable_database_is_named_without_its_password(tmp_path: Path) -> None:
    told = refused(tmp_path, {"cloud": {"database": "postgresql://u:s3cret@127.0.0.1:1/d"}}, "image-api")
    assert "[cloud] database: The database can't be reached" in told
    assert "s3cret" not in told


@pytest.mark.rabbit
def test_an_unreachable_bus_is_named_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cumulet.assembly.build.BUS_WITHIN", 0.5)
    told = refused(tmp_path, {"cloud": {"bus": "amqp://u:s3cret@127.0.0.1:1/"}}, "conductor")
    assert "[cloud] bus: " in told
    assert "s3cret" not in told


def test_one_cloud_per_directory(tmp_path: Path) -> None:
    """A whole cloud has its directory alone; processes of a spread one share it, agents of one host do not."""
    whole = Place(tmp_path)
    whole.lock()
    assert f"a cloud runs in {tmp_path} already" in refused(tmp_path, {}, "image-api", data=tmp_path)
    whole.release()
    one, two = Place(tmp_path), Place(tmp_path)
    one.lock(shared=True)
    two.lock(shared=True)
    with pytest.raises(Taken):
        Place(tmp_path).lock()
    one.lock_name("host-1.compute-agent")
    two.lock_name("host-2.compute-agent")
    with pytest.raises(Taken, match=r"host-1\.compute-agent runs in"):
        two.lock_name("host-1.compute-agent")
    one.release()
    two.lock_name("host-1.compute-agent")
    two.release()


def test_a_directory_of_another_cloud_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cloud-id").write_text("mine")
    other = tmp_path / "secrets-of-another"
    other.write_text('{"cloud_id": "theirs"}')
    told = refused(tmp_path, {"cloud": {"secrets": str(other)}}, "image-api", data=tmp_path)
    assert "belongs to another cloud" in told


async def test_a_host_never_learns_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its DSN nor the key of the journals, although they stand in the file that it was started from."""
    monkeypatch.setitem(os.environ, "CUMULET_CLOUD_DATABASE", "postgresql://u:s3cret@db/d")
    settings = for_roles(
        Settings({"cloud": {"database": "postgresql://u:s3cret@db/d"}}), ["compute-agent", "network-agent"]
    )
    (tmp_path / "secrets.json").write_text('{"service:network": "x", "service:compute": "y"}')
    # all roles of a service, since there is no broker here
    cloud = await build(settings, tmp_path, host="h", roles=["compute-agent"], packages=["compute"])
    try:
        assert cloud.databases == {}
        assert cloud.config.database == ""
        assert "s3cret" not in repr(vars(settings))
        assert not cloud.parts.secrets.known("seal")
    finally:
        await cloud.stop()


async def test_the_front_door_makes_no_secrets(tmp_path: Path) -> None:
    settings = {"cloud": {"endpoints": {"image": "http://127.0.0.1:1/image"}}}
    cloud = await build(Settings(settings, environ={}), tmp_path, host="h", roles=["front"])
    await cloud.stop()
    assert list(tmp_path.iterdir()) == []


def test_roles_have_their_traditional_ports() -> None:
    assert [port_of([role]) for role in ("identity-api", "compute-api", "front", "conductor")] == [
        5000,
        8774,
        8080,
        None,
    ]
    assert port_of(["network-agent", "compute-agent"]) is None


async def apis(folder: Path, data: str, dsn: str) -> Any:
    """All services of a cloud, built and bootstrapped as by one starter of several."""
    place = folder / data
    place.mkdir()
    settings = {**CHEAP, "cloud": {"database": dsn, "secrets": str(folder / "secrets.json"), "database_connections": 4}}
    cloud = await build(
        Settings(settings, environ={}), place, host=data, roles=ALL_ROLES, options={"sole": False}
    )  # fmt: skip
    await start_services(cloud)
    return cloud


@pytest.mark.postgres
async def test_two_starters_at_once_make_one_cloud(tmp_path: Path, postgres: str) -> None:
    async with new_database(postgres) as dsn:
        clouds = await asyncio.gather(*(apis(tmp_path, f"n{number}", dsn) for number in range(3)))
        connection = await asyncpg.connect(dsn)
        try:
            assert await connection.fetchval("SELECT count(*) FROM identity.users WHERE name = 'admin'") == 1
            assert await connection.fetchval("SELECT count(*) FROM compute.flavors WHERE name = 'm1.nano'") == 1
            assert await connection.fetchval("SELECT count(*) FROM network.networks WHERE name = 'public'") == 1
            assert await connection.fetchval("SELECT count(*) FROM volume.alembic_version") == 1
        finally:
            await connection.close()
        for cloud in clouds:
            await cloud.stop()


@pytest.mark.postgres
async def test_migrations_run_once_and_a_newer_schema_is_refused(tmp_path: Path, postgres: str) -> None:
    """A database of an older release is brought up to date by one of two starters; a newer one is left alone."""
    async with new_database(postgres) as dsn:
        settings = {"cloud": {"database": dsn}}

        async def insight(name: str) -> Any:
            (tmp_path / name).mkdir(exist_ok=True)
            return await build(
                Settings(settings, environ={}), tmp_path / name, host="h", roles=["insight"], packages=["insight"]
            )

        await (await insight("a")).stop()
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute("DROP TABLE insight.processes, insight.hosts, insight.join_tokens")
            await connection.execute("UPDATE insight.alembic_version SET version_num = '0001'")
            for cloud in await asyncio.gather(insight("a"), insight("b")):
                await cloud.stop()
            assert await connection.fetchval("SELECT count(*) FROM insight.processes") == 0
            assert await connection.fetchval("SELECT version_num FROM insight.alembic_version") >= "0002"
            await connection.execute("UPDATE insight.alembic_version SET version_num = '9999'")
            with pytest.raises(SchemaTooNew, match="9999"):
                await insight("a")
        finally:
            await connection.close()


async def test_an_unknown_section_is_refused_in_every_process(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such section"):
        await build(Settings({"x": {}}, environ={}), tmp_path, host="h", roles=["image-api"], packages=["image"])


def test_only_simulated_hosts_share_a_process(tmp_path: Path) -> None:
    words = ["run", "compute-agent", "--hypervisor", "libvirt", "--hosts", "2", "--data", str(tmp_path / "d")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "only with --hypervisor simulated" in result.output
