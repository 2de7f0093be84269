# SPDX-License-Identifier: Apache-2.0
"""TLS on every way between processes, vouched for by one private authority; and nobody gets in without proof."""

from __future__ import annotations

import re
import ssl
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cumulet.assembly.build import build
from cumulet.assembly.config import cloud_config
from cumulet.cli.chaos.loopback import free_ports
from cumulet.kernel.settings import Settings, SettingsError
from tests.cloud import new_database
from tests.postgres import Secure, secure_server
from tests.rabbit import Rabbit
from tests.spread.processes import READY_WITHIN, Spread, Tls, spread_cloud
from tests.spread.test_join import agent, command, eventually, hypervisor
from tests.spread.test_thread import image_of, make
from tests.tls import Authority

PASSWORD = "a-database's-password".replace("'", "")
ONE_OF_ALL = (
    ("identity-api", "image-api", "network-api", "volume-api", "conductor", "insight"),
    ("placement-api", "compute-api", "scheduler", "volume-scheduler"),
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def secure(authority: Authority) -> Iterator[tuple[Secure, str]]:
    """A PostgreSQL that is reached by TLS and password only, and its DSN for an administrator."""
    certificate, key = authority.issue("db.test", "127.0.0.1")
    server = Secure(free_ports(1)[0], certificate, key, PASSWORD)
    with secure_server(server) as dsn:
        yield server, dsn


def over_tls(server: Secure, database: str = "postgres", **more: str) -> str:
    query = "&".join(f"{key}={value}" for key, value in {"sslmode": "verify-full", **more}.items())
    return f"postgresql://cumulet:{server.password}@127.0.0.1:{server.port}/{database}?{query}"


async def insight(folder: Path, **cloud: Any) -> Any:
    """A process with one small service."""
    folder.mkdir(exist_ok=True)
    settings = Settings({"cloud": cloud}, environ={})
    return await build(settings, folder, host="h", roles=["insight"], packages=["insight"])


@pytest.mark.postgres
async def test_a_database_that_nobody_vouches_for(
    tmp_path: Path, secure: tuple[Secure, str], authority: Authority
) -> None:
    """The authority of `[cloud] ca` or of the URL counts, and no other; a wrong password never shows."""
    server, _ = secure
    cloud = await insight(tmp_path / "good", database=over_tls(server), ca=str(authority.file))
    rows = await cloud.databases["insight"]._pool.fetch("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert [row["ssl"] for row in rows] == [True]
    await cloud.stop()
    stranger = Authority(tmp_path / "stranger")
    with pytest.raises(SettingsError, match=r"\[cloud\] database: .*CERTIFICATE_VERIFY_FAILED"):
        await insight(tmp_path / "bad", database=over_tls(server), ca=str(stranger.file))
    named = over_tls(server, sslrootcert=str(authority.file))
    await (await insight(tmp_path / "named", database=named, ca=str(stranger.file))).stop()
    with pytest.raises(SettingsError, match=r"\[cloud\] database: ") as told:
        await insight(tmp_path / "no", database=over_tls(server).replace(PASSWORD, "wrong"), ca=str(authority.file))
    assert "wrong" not in str(told.value)
    with pytest.raises(SettingsError, match=r"\[cloud\] database: "):  # the server takes nobody without TLS
        await insight(tmp_path / "plain", database=over_tls(server, sslmode="disable"))


@pytest.mark.parametrize(
    ("cloud", "said"),
    [
        ({"database": "postgresql://cumulet@db.example/cumulet"}, "[cloud] database: names no password"),
        ({"database": "postgresql://cumulet@/cumulet?host=db.example"}, "[cloud] database: names no password"),
        ({"database": "postgresql://cumulet@/cumulet?host=/run/pg,db.example"}, "[cloud] database: names no password"),
        ({"ca": "/nowhere/ca.pem"}, "[cloud] ca: /nowhere/ca.pem can't be read"),
        ({"ca": __file__}, f"[cloud] ca: {__file__} can't be read as certificates"),
    ],
)
def test_who_proves_nothing_is_refused(cloud: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSFILE", raising=False)
    with pytest.raises(SettingsError, match=re.escape(said)):
        cloud_config(Settings({"cloud": cloud}, environ={}))


@pytest.mark.parametrize(
    "database",
    [
        "postgresql://cumulet:secret@db.example/cumulet",
        "postgresql://cumulet@db.example/cumulet?sslcert=/etc/c.pem&sslkey=/etc/k.pem",
        "postgresql://cumulet@db.example/cumulet?passfile=/etc/pass",
        "postgresql://cumulet@/cumulet?host=/run/postgresql",
        "postgresql:///cumulet",
    ],
)
def test_who_proves_something_is_let_through(database: str) -> None:
    assert cloud_config(Settings({"cloud": {"database": database}}, environ={})).database == database


async def test_a_bus_without_a_password_is_refused(tmp_path: Path) -> None:
    settings = Settings({"cloud": {"bus": "amqp://cumulet@127.0.0.1:1/x"}}, environ={})
    with pytest.raises(SettingsError, match=r"\[cloud\] bus: names no password .* has no secret `bus`"):
        await build(settings, tmp_path, host="h", roles=["insight"], packages=["insight"])


def test_an_authority_is_laid_where_nothing_else_is_named(authority: Authority) -> None:
    def laid(**cloud: str) -> Any:
        return cloud_config(Settings({"cloud": {"ca": str(authority.file), **cloud}}, environ={}))

    assert laid(bus="amqps://u:p@h/v").bus == f"amqps://u:p@h/v?cafile={str(authority.file).replace('/', '%2F')}"
    assert laid(bus="amqps://u:p@h/v?cafile=/x").bus == "amqps://u:p@h/v?cafile=/x"
    assert laid(bus="amqp://u:p@h/v").bus == "amqp://u:p@h/v"
    assert laid(database="postgresql://u:p@h/d?sslmode=require").database == "postgresql://u:p@h/d?sslmode=require"
    assert "&sslrootcert=" in laid(database="postgresql://u:p@h/d?sslmode=verify-full").database


@pytest.mark.postgres
@pytest.mark.rabbit
async def test_a_cloud_of_nothing_but_tls(
    tmp_path: Path, secure: tuple[Secure, str], authority: Authority, rabbit: Rabbit
) -> None:
    """Endpoints, front door, database and broker: a server is made and goes, and strangers are turned away."""
    server, dsn = secure
    certificate, key = authority.issue("127.0.0.1")
    bus = rabbit.tls_url().replace("@", f":{rabbit.password}@", 1)
    async with new_database(dsn) as database:
        name = database.split("?")[0].rpartition("/")[2]
        tls = Tls(certificate, key, authority.file)
        async with spread_cloud(
            tmp_path,
            over_tls(server, name),
            bus,
            groups=ONE_OF_ALL,
            twice=False,
            tls=tls,
            management=rabbit.management_tls,
        ) as cloud:
            assert cloud.front.startswith("https://")
            image = await image_of(cloud)
            network = await make(cloud, "/network/v2.0/networks", "network", {"name": "n"})
            values = {"network_id": network["id"], "cidr": "10.77.0.0/24", "ip_version": 4}
            await make(cloud, "/network/v2.0/subnets", "subnet", values)
            body = {"name": "s", "imageRef": image, "flavorRef": "42", "networks": [{"uuid": network["id"]}]}
            made = await make(cloud, "/compute/v2.1/servers", "server", body)
            where = f"/compute/v2.1/servers/{made['id']}"
            shown = await cloud.settle(where, "server", ["ACTIVE"], within=240.0)
            assert shown["links"][0]["href"].startswith("https://")
            assert (await cloud.request("DELETE", where)).status == 204
            await cloud.gone(where, within=240.0)
            entry = (tmp_path / "control" / "clouds.yaml").read_text()
            assert f'cacert: "{authority.file}"' in entry
            await a_host_joins(cloud, authority)
            plain = cloud.front.replace("https:", "http:")
            strange = ssl.create_default_context(cafile=Authority(tmp_path / "stranger").file)
            for url, trusted in ((plain, True), (cloud.front, strange), (cloud.front, True)):
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted)) as client:
                    with pytest.raises(aiohttp.ClientError):
                        await client.get(url + "/healthz")


async def a_host_joins(cloud: Spread, authority: Authority) -> None:
    """With the cloud's authority a machine becomes a host, which trusts it from then on; with another it does not."""
    made = await command(cloud, "host", "token")
    assert made["url"] == cloud.front
    stranger = Authority(cloud.folder / "another").file
    for words, said in (((), "name the cloud's own authority with --ca"), (("--ca", str(stranger)), "does not vouch")):
        refused = cloud.join(made["url"], made["token"], *words, name="secure")
        assert await refused.ended(READY_WITHIN) == 1
        assert said in refused.said()
        assert not (cloud.folder / "secure").exists()
    host = cloud.join(made["url"], made["token"], "--ca", str(authority.file), name="secure")
    await host.ready()
    shown = await eventually(lambda: hypervisor(cloud, "secure"))
    assert shown["state"] == "up"
    assert (await eventually(lambda: agent(cloud, "secure")))["alive"]
    settings = tomllib.loads((cloud.folder / "secure" / "host.toml").read_text())["cloud"]
    assert {url.partition(":")[0] for urls in settings["endpoints"].values() for url in urls} == {"https"}
    assert settings["bus"].startswith("amqps://")
    assert Path(settings["ca"]).read_text() == authority.file.read_text()
    await command(cloud, "host", "remove", "secure")
    assert await host.ended(READY_WITHIN) == 1
    assert "host secure was removed from the cloud" in host.said()
