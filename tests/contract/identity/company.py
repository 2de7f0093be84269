# SPDX-License-Identifier: Apache-2.0
"""A cloud with a domain whose people are in a real slapd, and what tests of directories ask of it."""

from __future__ import annotations

import hashlib
from typing import Any

from cumulet.kernel.loops import Loop
from tests.cloud import Reply, TestCloud
from tests.directory import READER, READER_SECRET, SUFFIX, Slapd

OPTIONS: dict[str, Any] = {
    "suffix": SUFFIX,
    "user": READER,
    "password": READER_SECRET,
    "user_tree_dn": f"ou=people,{SUFFIX}",
    "user_id_attribute": "uid",
    "user_name_attribute": "cn",
    "user_enabled_attribute": "employeeNumber",
    "user_enabled_mask": 2,
    "user_enabled_default": "512",
    "group_tree_dn": f"ou=teams,{SUFFIX}",
    "group_name_attribute": "cn",
    "page_size": 7,
}


class Company:
    """A cloud with a domain whose people are in the directory."""

    def __init__(self, cloud: TestCloud, slapd: Slapd) -> None:
        self.cloud, self.slapd = cloud, slapd
        self.token = self.domain = ""

    async def open(self, **options: Any) -> Company:
        self.token = await self.cloud.login("admin")
        made = await self.ask("POST", "/domains", {"domain": {"name": "company"}})
        self.domain = made.json["domain"]["id"]
        return await self.configure(**options)

    async def configure(self, **options: Any) -> Company:
        ldap = {"url": self.slapd.url, **OPTIONS, **options}
        config = {"identity": {"driver": "ldap"}, "ldap": {k: v for k, v in ldap.items() if v is not None}}
        done = await self.ask("PUT", f"/domains/{self.domain}/config", {"config": config})
        assert done.status in (200, 201), done.data
        return self

    async def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> Reply:
        return await self.cloud.request(method, f"/identity/v3{path}", body, token=token or self.token)

    async def login(self, name: str, password: str, scope: Any = "unscoped", *, id: str | None = None) -> Reply:
        user: dict[str, Any] = {"name": name, "domain": {"id": self.domain}} if id is None else {"id": id}
        identity = {"methods": ["password"], "password": {"user": {**user, "password": password}}}
        return await self.cloud.request(
            "POST", "/identity/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}}
        )

    async def users(self, query: str = "") -> list[dict[str, Any]]:
        reply = await self.ask("GET", f"/users?domain_id={self.domain}{query}")
        assert reply.status == 200, reply.data
        found: list[dict[str, Any]] = reply.json["users"]
        return found

    async def id_of(self, name: str) -> str:
        (found,) = [one["id"] for one in await self.users() if one["name"] == name]
        return str(found)

    async def group_id(self, name: str) -> str:
        reply = await self.ask("GET", f"/groups?domain_id={self.domain}&name={name}")
        (found,) = reply.json["groups"]
        return str(found["id"])

    async def role(self, name: str) -> str:
        return str((await self.ask("GET", f"/roles?name={name}")).json["roles"][0]["id"])

    async def project(self) -> str:
        body = {"project": {"name": "work", "domain_id": self.domain}}
        return str((await self.ask("POST", "/projects", body)).json["project"]["id"])

    async def own(self, kind: str, name: str, **options: Any) -> str:
        """A user or group of our own in the domain, which has no directory for as long."""
        assert (await self.ask("DELETE", f"/domains/{self.domain}/config")).status == 204
        made = await self.ask("POST", f"/{kind}s", {kind: {"name": name, "domain_id": self.domain}})
        assert made.status == 201, made.data
        await self.configure(**options)
        return str(made.json[kind]["id"])

    async def sequence(self) -> int:
        """The number of the newest change of what tokens say."""
        return int((await self.ask("GET", "/cumulet/revocations?after=1000000&wait=0")).json["sequence"])

    async def refresh(self) -> None:
        """What the loop does every minute."""
        (role,) = self.cloud.cloud.services["identity"].roles
        (loop,) = [one for one in role.tasks if getattr(one, "name", "") == "identity directories"]
        assert isinstance(loop, Loop)
        await loop.run_once()


def public_id(domain: str, kind: str, local: str) -> str:
    return hashlib.sha256(f"{domain}{kind}{local}".encode()).hexdigest()
