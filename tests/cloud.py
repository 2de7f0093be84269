# SPDX-License-Identifier: Apache-2.0
"""A whole cloud, or some of its services, in the test's own process: real services, simulated machines.

Tests speak HTTP to its front door through `TestCloud.request`, byte for byte
what a client would send; nothing is mocked but the machine.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import orjson

from cumulet.assembly.build import Cloud, build
from cumulet.assembly.firststart import first_start
from cumulet.assembly.health import READY
from cumulet.client.transport import LocalTransport
from cumulet.kernel.settings import Settings
from tests.together import Buses, cloud_apart

PASSWORD = "secret-of-the-tests"


class Databases:
    """Where the clouds of this test session keep their records: SQLite, or each a database of one PostgreSQL.

    The environment variable CUMULET_TEST_DATABASE=postgresql chooses for the whole session.
    """

    server: ClassVar[str | None] = None
    """The DSN of a PostgreSQL server that tests may make databases on; None: SQLite files."""
    made: ClassVar[int] = 0

    @classmethod
    @asynccontextmanager
    async def fresh(cls) -> AsyncIterator[str | None]:
        """The DSN of a new empty database, dropped afterwards; None when this session is on SQLite."""
        if cls.server is None:
            yield None
            return
        async with new_database(cls.server) as dsn:
            yield dsn


@asynccontextmanager
async def new_database(server: str) -> AsyncIterator[str]:
    """A new empty database on a PostgreSQL server; dropped afterwards, whoever is still connected."""
    import asyncpg

    Databases.made += 1
    name = f"cloud_{Databases.made}"
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield re.sub(r"(?<=/)[^/?]+(?=\?)", name, server, count=1)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


@dataclass
class Reply:
    """An answer, read whole."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.data)


@dataclass
class TestCloud:
    """The cloud and a client of it."""

    __test__ = False
    cloud: Cloud
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    async def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:
        """One request to the front door, e.g. ``/identity/v3/users``."""
        sent = dict(headers or {})
        if json is not None:
            body = orjson.dumps(json)
            sent.setdefault("content-type", "application/json")
        if token is not None:
            sent["x-auth-token"] = token
        sent.setdefault("content-length", str(len(body)))
        reply = await LocalTransport(self.cloud.front, "", "front").send(method, path, sent, body)
        return Reply(reply.status, reply.headers, await reply.read())

    async def login(self, user: str = "demo", project: str | None = None, *, system: bool = False) -> str:
        """A token of a bootstrapped user (``admin``, ``demo``, ``alt_demo``) on its project, cached."""
        project = project or user
        key = (user, "system" if system else project)
        if key not in self.tokens:
            scope: dict[str, Any] = {"project": {"name": project, "domain": {"id": "default"}}}
            if system:
                scope = {"system": {"all": True}}
            password = {"user": {"name": user, "domain": {"id": "default"}, "password": PASSWORD}}
            auth = {"identity": {"methods": ["password"], "password": password}, "scope": scope}
            reply = await self.request("POST", "/identity/v3/auth/tokens", {"auth": auth})
            assert reply.status == 201, reply.data
            self.tokens[key] = reply.headers["x-subject-token"]
        return self.tokens[key]


@asynccontextmanager
async def running_cloud(
    data: Path,
    *,
    packages: Iterable[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    hosts: Sequence[str] = (),
) -> AsyncIterator[TestCloud]:
    """A started and bootstrapped cloud in ``data``; ``packages`` limits its services (identity always runs).

    ``hosts``: its hosts, if there is not one alone.
    """
    if packages is not None:
        packages = {"identity", *packages}
    chosen = {"hypervisor": "simulated", "network_driver": "simulated", "volume_driver": "simulated", **(options or {})}
    data.mkdir(parents=True, exist_ok=True)
    if Buses.node is not None:
        async with Databases.fresh() as dsn, Buses.fresh(packages) as bus:
            assert dsn is not None
            async with cloud_apart(
                data, dsn, bus, packages=packages, settings=settings or {}, options=chosen, password=PASSWORD
            ) as apart:
                yield TestCloud(cast(Cloud, apart))
        return
    async with Databases.fresh() as dsn:
        values = {**(settings or {}), **({"cloud": {"database": dsn}} if dsn else {})}
        read = Settings(values, environ={})
        cloud = await build(read, data, host="node-1", options=chosen, packages=packages, hosts=hosts)
        try:
            await first_start(cloud, password=PASSWORD)
            await cloud.start()
            cloud.health.state = READY
            yield TestCloud(cloud)
        finally:
            await cloud.stop()
