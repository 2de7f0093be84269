# SPDX-License-Identifier: Apache-2.0
"""Holds the conversations of tests/contract/identity with a real Keystone, to see where we differ from it.

usage: .venv/bin/python tools/identity_peer.py DATABASE ADMIN_PASSWORD [FILE [TITLE]]

A Keystone of one's own must serve http://127.0.0.1:5000/identity (its WSGI
application below that path) on the SQLite file DATABASE, freshly bootstrapped
with a catalogue entry for itself in RegionOne. It is given the projects, users
and services that our conversations expect, and put back after each of them.
Sections whose differences are meant are named in docs/reference/conformance.md.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.cloud import PASSWORD, Reply  # noqa: E402
from tests.contract.identity.conversation import Conversation, sections  # noqa: E402

PEER = ("127.0.0.1", 5000)
V3 = "/identity/v3"


class Peer:
    """What a conversation needs of a cloud, from a Keystone."""

    async def request(
        self, method: str, path: str, json: Any = None, *, token: str | None = None, headers: Mapping[str, str] = {}
    ) -> Reply:
        return await asyncio.to_thread(self._ask, method, path, json, token, headers)

    @staticmethod
    def _ask(method: str, path: str, sent: Any, token: str | None, headers: Mapping[str, str]) -> Reply:
        told = {"content-type": "application/json", "host": "localhost", **headers}
        if token is not None:
            told["x-auth-token"] = token
        with closing(http.client.HTTPConnection(*PEER, timeout=30)) as connection:
            connection.request(method, path, None if sent is None else json.dumps(sent), told)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())

    async def login(
        self, user: str = "demo", project: str | None = None, *, system: bool = False, password: str = PASSWORD
    ) -> str:
        named = {"name": user, "domain": {"id": "default"}, "password": password}
        scope: dict[str, Any] = {"project": {"name": project or user, "domain": {"id": "default"}}}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": named}},
            "scope": {"system": {"all": True}} if system else scope,
        }
        reply = await self.request("POST", f"{V3}/auth/tokens", {"auth": auth})
        assert reply.status == 201, reply.data
        return reply.headers["x-subject-token"]


async def furnish(peer: Peer, password: str) -> None:
    """Everything that a conversation finds in a new cloud."""
    token = await peer.login("admin", password=password)

    async def ask(method: str, path: str, sent: Any = None) -> Any:
        reply = await peer.request(method, f"{V3}{path}", sent, token=token)
        assert reply.status < 300, (path, reply.data)
        return reply.json if reply.data else None

    async def make(kind: str, **values: Any) -> str:
        made: str = (await ask("POST", f"/{kind}s", {kind: values}))[kind]["id"]
        return made

    roles = {row["name"]: row["id"] for row in (await ask("GET", "/roles"))["roles"]}
    service = await make("project", name="service", domain_id="default")
    for name in ("demo", "alt_demo"):
        project = await make("project", name=name, domain_id="default")
        user = await make("user", name=name, domain_id="default", password=PASSWORD)
        await ask("PUT", f"/projects/{project}/users/{user}/roles/{roles['member']}")
    compute = await make("service", name="compute", type="compute")
    for interface in ("public", "internal", "admin"):
        where = {"service_id": compute, "region_id": "RegionOne", "url": "http://localhost/compute/v2.1"}
        await make("endpoint", interface=interface, **where)
    user = await make("user", name="compute", domain_id="default", password=PASSWORD)
    for role in ("admin", "service"):
        await ask("PUT", f"/projects/{service}/users/{user}/roles/{roles[role]}")
    admin = (await ask("GET", "/users?name=admin"))["users"][0]["id"]
    await ask("PATCH", f"/users/{admin}", {"user": {"password": PASSWORD}})
    await asyncio.sleep(1.1)  # a token of the second in which the password changed is void there


def _copy(source: sqlite3.Connection, target: Path) -> None:
    with closing(sqlite3.connect(target, timeout=30)) as opened:
        source.backup(opened)


async def main(database: Path, password: str, file: str = "", title: str = "") -> int:
    peer = Peer()
    differing = 0
    with closing(sqlite3.connect(":memory:")) as fresh, closing(sqlite3.connect(":memory:")) as furnished:
        with closing(sqlite3.connect(database, timeout=30)) as opened:
            opened.backup(fresh)
        await furnish(peer, password)
        with closing(sqlite3.connect(database, timeout=30)) as opened:
            opened.backup(furnished)
        try:
            for path in sorted((ROOT / "tests" / "contract" / "identity").glob(f"{file or '*'}.txt")):
                for section in sections(path):
                    if title in section.title:
                        _copy(furnished, database)
                        try:
                            await Conversation(peer).run(section)  # type: ignore[arg-type]
                        except AssertionError as error:
                            differing += 1
                            print(f"DIFFERS {path.stem}: {section.title}\n{error}\n")
                        else:
                            print(f"agrees  {path.stem}: {section.title}")
        finally:
            _copy(fresh, database)
    return int(differing > 0)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:])))
