# SPDX-License-Identifier: Apache-2.0
"""The metadata API: what 169.254.169.254 answers to a guest.

A guest has no token. The proxy of its network says which network and address a
request came from and signs that with its host's key; only a request with a good
signature, of an address that exactly one server of ours has there, is answered,
and only about that server. A host may ask for the servers on it and, where it
serves a network, for those on that network: a host that fell to somebody does
not speak for the guests of others. Everything else is 404: the answer tells a
stranger nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

from sqlalchemy import select

from cumulet.compute.logic import Compute
from cumulet.compute.metadata import documents
from cumulet.compute.models import ADDRESSES, BLOCK_DEVICES, SERVERS
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.errors import Conflict, Fault, Invalid, MethodNotAllowed, NotFound, TooLarge
from cumulet.kernel.secrets import derive

_log = logging.getLogger(__name__)
ADDRESS, NETWORK, SIGNATURE = "x-forwarded-for", "x-neutron-network-id", "x-cumulet-signature"
HOST: Final = "x-cumulet-host"
SECRET: Final = "metadata"  # noqa: S105 - its name
"""The name of the secret from which each host's key is derived, with which its proxies sign."""
_SERVES: Final = 30.0
"""Seconds for which it is believed that a host serves a network."""
_SERVED: Final = 10_000
_SERVERS: Final = ["network:dhcp", "network:router_interface"]
"""Owners of the ports behind which a proxy of metadata listens."""
MAX_PASSWORD: Final = 1020
"""Most bytes of the (encrypted) password that a guest may leave."""
NAMES: Final = ("meta_data.json", "password", "user_data", "vendor_data.json", "network_data.json", "vendor_data2.json")


def signature(secret: str, network_id: str, address: str) -> str:
    """HMAC-SHA256 (hex) over the network's id followed by the guest's address."""
    return hmac.new(secret.encode(), f"{network_id}{address}".encode(), hashlib.sha256).hexdigest()


class MetadataApp:
    """An ASGI application of its own: no token, no JSON dialect, plain text."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._served: OrderedDict[tuple[str, str], float] = OrderedDict()
        """Network and host → until when the host is believed to serve it."""
        self._asking: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            status, kind, data = await self._answer(scope["method"], scope["path"], headers, receive)
        except Fault as fault:
            status, kind, data = fault.status, "text/plain", fault.message.encode()
        except Exception:
            _log.exception("a metadata request failed")
            status, kind, data = 500, "text/plain", b"An unexpected error has occurred. Please try your request again."
        head = [(b"content-type", kind.encode()), (b"content-length", str(len(data)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else data})

    async def _answer(
        self, method: str, path: str, headers: Mapping[str, str], receive: Any
    ) -> tuple[int, str, bytes]:  # fmt: skip
        parts = [part for part in path.split("/") if part]
        if parts[:1] == ["metadata"]:
            parts = parts[1:]
        server = await self._guest(headers)
        if method == "POST" and len(parts) == 3 and parts[0] == "openstack" and parts[2] == "password":
            await self._keep_password(server, await _body(receive))
            return 200, "text/plain", b""
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed
        if parts[:1] == ["openstack"]:
            return 200, *self._openstack(server, parts[1:])
        return 200, "text/plain", await self._ec2(server, parts)

    # ---- who asks

    async def _guest(self, headers: Mapping[str, str]) -> Row:
        """The one server whose NIC the request came from; raises NotFound for anybody else."""
        network_id, address = headers.get(NETWORK, ""), headers.get(ADDRESS, "").split(",")[0].strip()
        host = headers.get(HOST, "")
        expected = signature(derive(self._compute.secrets.get(SECRET), host), network_id, address)
        if not hmac.compare_digest(expected.encode(), headers.get(SIGNATURE, "").encode()):
            raise NotFound
        try:
            plain = str(ipaddress.ip_address(address))
        except ValueError:
            raise NotFound from None
        if not ids.is_uuid(network_id):
            raise NotFound
        a = ADDRESSES.c
        here = select(a.server_id).where(a.network_id == network_id, a.address == plain)
        living = select(SERVERS).where(SERVERS.c.id.in_(here), SERVERS.c.deleted_at.is_(None))
        found = await self._compute.db.all(living, point=True)
        if len(found) != 1 or not (host == found[0]["host"] or await self._serves(host, network_id)):
            raise NotFound
        return found[0]

    async def _serves(self, host: str, network_id: str) -> bool:
        """Whether the host has the DHCP server of the network, or a router on it: their proxies hear all its guests."""
        key = network_id, host
        async with self._asking.setdefault(key, asyncio.Lock()):  # who waits is answered with the first one's answer
            if self._served.get(key, 0.0) > clock.monotonic():
                return True
            ports = await self._compute.network.ports(network_id=network_id, device_owner=_SERVERS, as_service=True)
            if all(port.host_id != host for port in ports):
                return False
            self._served[key] = clock.monotonic() + _SERVES
        while len(self._served) > _SERVED:
            self._served.popitem(last=False)
        return True

    # ---- what it gets

    def _openstack(self, server: Row, parts: list[str]) -> tuple[str, bytes]:
        if not parts:
            return "text/plain", "\n".join(documents.VERSIONS).encode()
        if parts[0] == "content" and len(parts) == 2 and parts[1].isdigit():
            files = server["personality"]
            if int(parts[1]) < len(files):
                return "application/octet-stream", documents.decoded(files[int(parts[1])].get("contents"))
            raise NotFound
        if parts[0] not in documents.VERSIONS:
            raise NotFound
        domain = self._compute.settings.dhcp_domain
        have = documents.openstack_documents(server, parts[0], domain=domain)
        have["password"] = (server["guest_password"] or "").encode()
        if len(parts) == 1:
            return "text/plain", "\n".join(name for name in NAMES if name in have).encode()
        if len(parts) != 2 or parts[1] not in have:
            raise NotFound
        kind = "application/json" if parts[1].endswith(".json") else "text/plain"
        return ("application/octet-stream" if parts[1] == "user_data" else kind), have[parts[1]]

    async def _ec2(self, server: Row, parts: list[str]) -> bytes:
        if not parts:
            return "\n".join(documents.EC2_VERSIONS).encode()
        if parts[0] not in documents.EC2_VERSIONS:
            raise NotFound
        if len(parts) == 1:
            return b"meta-data/\nuser-data" if server["user_data"] else b"meta-data/"
        if parts[1:] == ["user-data"] and server["user_data"]:
            return documents.decoded(server["user_data"])
        if parts[1] != "meta-data":
            raise NotFound
        own = select(BLOCK_DEVICES).where(BLOCK_DEVICES.c.server_id == server["id"])
        devices = await self._compute.db.all(own.order_by(BLOCK_DEVICES.c.position), point=True)
        whole = {**server, "block_devices": devices}
        found: Any = documents.ec2_metadata(whole, domain=self._compute.settings.dhcp_domain)
        for part in parts[2:]:
            if not isinstance(found, dict) or part not in found or part == "_name":
                raise NotFound
            found = found[part]
        return _lines(found)

    async def _keep_password(self, server: Row, data: bytes) -> None:
        if not data or not data.isascii():
            raise Invalid("The password must be text.")

        async def body(tx: Transaction) -> None:
            unset = (SERVERS.c.id == server["id"]) & SERVERS.c.guest_password.is_(None)
            if not await tx.run(SERVERS.update().where(unset).values(guest_password=data.decode())):
                raise Conflict("The password was set before.")

        await self._compute.db.run(body)


def _lines(found: Any) -> bytes:
    """A directory's listing, or a value as text."""
    if isinstance(found, dict):
        names = []
        for name, value in found.items():
            if isinstance(value, dict):
                names.append(f"{name}={value['_name']}" if "_name" in value else f"{name}/")
            elif name != "_name":
                names.append(name)
        return "\n".join(names).encode()
    return ("\n".join(found) if isinstance(found, list) else str(found)).encode()


async def _body(receive: Any) -> bytes:
    data = b""
    while True:
        message = await receive()
        piece: bytes = message.get("body", b"")
        data += piece
        if len(data) > MAX_PASSWORD:
            raise TooLarge
        if not message.get("more_body"):
            return data
