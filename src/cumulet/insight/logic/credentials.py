# SPDX-License-Identifier: Apache-2.0
"""What a host gets when it joins: users of its own in identity and on the broker, a key for its guests' metadata.

Invariant: everything here is an ensure, and none of the cloud's own secrets is
in what a host is told: its passwords and its key are derived from them.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import msgspec

from cumulet.client.session import ServiceSession
from cumulet.kernel.bus.broker import Broker
from cumulet.kernel.bus.names import Address, user_of
from cumulet.kernel.errors import Conflict, NotFound
from cumulet.kernel.hostnames import user_of_host
from cumulet.kernel.registry import HOST_SECRET, METADATA_KEY
from cumulet.kernel.secrets import SecretFile, derive

DERIVING: Final = "hosts"
"""The secret from which those of hosts are derived; the same on every machine."""
_METADATA = "metadata"
_SYNTAX = "-aA1"
"""For clouds whose rule for passwords asks for each kind of character."""
_EXEMPT: Final = {
    "ignore_password_expiry": True, "ignore_lockout_failure_attempts": True,
    "ignore_change_password_upon_first_use": True, "ignore_user_inactivity": True,
}  # fmt: skip


class Joining(msgspec.Struct):
    """What the assembly knows of the cloud and a host has to."""

    bus: str = ""
    bus_ca: str | None = None
    ca: str | None = None
    """Certificates that vouch for the endpoints, as text, if the cloud has authorities of its own."""
    management: str = ""
    endpoints: dict[str, list[str]] = {}
    url: str = ""
    region: str = ""
    heartbeat_seconds: float = 5.0
    sections: dict[str, dict[str, Any]] = {}
    calls: list[str] = []
    """Topics that a host's agents ask."""
    serves: list[str] = []
    """Topics that they serve."""


class Credentials:
    """Makes and takes away what a host proves itself with."""

    def __init__(self, joining: Joining, session: ServiceSession, secrets: SecretFile) -> None:
        self._joining, self._session, self._secrets = joining, session, secrets

    def check(self) -> None:
        """Raise Conflict where hosts can't join, saying what is missing."""
        if not self._joining.bus:
            raise Conflict("This cloud runs in one process; hosts join one that is spread (docs/guide/spread.md).")
        if not self._joining.management:
            raise Conflict("[cloud] bus_management is not set, so hosts can't get users of the message broker.")

    @property
    def cloud(self) -> str:
        """The cloud's id, which no secret follows from."""
        return self._secrets.get("cloud_id", 12)

    async def ensure(self, host: str, claim: str) -> dict[str, Any]:
        """All of it; returns what the host is told."""
        bus = Address.parse(self._joining.bus)
        login, broker = self._password("identity", host, claim), self._password("bus", host, claim)
        await self._ensure_user(host, login)
        calls, serves = self._joining.calls, self._joining.serves
        await self._broker().ensure_host(host, broker, calls=calls, serves=serves)
        places = ",".join(f"{f'[{name}]' if ':' in name else name}:{port}" for name, port in bus.hosts)
        scheme, user = "amqps" if bus.tls else "amqp", quote(user_of(host, bus.vhost), safe="")
        cloud = {
            "bus": f"{scheme}://{user}@{places}/{quote(bus.vhost, safe='')}", "region": self._joining.region,
            "heartbeat_seconds": self._joining.heartbeat_seconds, "endpoints": self._joining.endpoints,
        }  # fmt: skip
        return {
            "host": host,
            "settings": {"cloud": cloud, **self._joining.sections},
            "secrets": {
                "cloud_id": self.cloud, HOST_SECRET: login, "bus": broker,
                METADATA_KEY: derive(self._secrets.get(_METADATA), host),
            },
            "bus_ca": self._joining.bus_ca,
            **({"ca": self._joining.ca} if self._joining.ca is not None else {}),
        }  # fmt: skip

    async def cut_off(self, host: str) -> None:
        """The host can't say or ask anything any more."""
        await self._broker().drop_host(host)
        if (user := await self._user(host)) is not None:
            await self._identity("PATCH", f"/v3/users/{user['id']}", {"user": {"enabled": False}})

    async def drop(self, host: str) -> None:
        """Its users are gone."""
        await self._broker().drop_host(host)
        if (user := await self._user(host)) is not None:
            try:
                await self._identity("DELETE", f"/v3/users/{user['id']}")
            except NotFound:
                return

    # ---- parts

    def _password(self, purpose: str, host: str, claim: str) -> str:
        return derive(self._secrets.get(DERIVING), purpose, host, claim) + _SYNTAX

    def _broker(self) -> Broker:
        password = self._secrets.get("bus_management") if self._secrets.known("bus_management") else ""
        vhost = Address.parse(self._joining.bus).vhost
        vouching = dict.fromkeys(one for one in (self._joining.bus_ca, self._joining.ca) if one)
        return Broker(self._joining.management, vhost, password=password, ca="\n".join(vouching) or None)

    async def _identity(self, method: str, path: str, body: Any = None) -> Any:
        return await self._session.call("identity", method, path, body, as_service=True)

    async def _user(self, host: str) -> dict[str, Any] | None:
        name = quote(user_of_host(host), safe="")
        found = (await self._identity("GET", f"/v3/users?domain_id=default&name={name}"))["users"]
        return next(iter(found), None)

    async def _ensure_user(self, host: str, password: str) -> None:
        """The host's user in the project of the services, with the role by which services know each other."""
        values = {"password": password, "enabled": True, "options": _EXEMPT}
        user = await self._user(host)
        if user is None:
            new = {"name": user_of_host(host), "domain_id": "default", "description": f"Host {host}", **values}
            user = (await self._identity("POST", "/v3/users", {"user": new}))["user"]
        else:
            await self._identity("PATCH", f"/v3/users/{user['id']}", {"user": values})
        projects = (await self._identity("GET", "/v3/projects?domain_id=default&name=service"))["projects"]
        roles = (await self._identity("GET", "/v3/roles?name=service"))["roles"]
        path = f"/v3/projects/{projects[0]['id']}/users/{user['id']}/roles/{roles[0]['id']}"
        await self._identity("PUT", path)
