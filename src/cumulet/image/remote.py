# SPDX-License-Identifier: Apache-2.0
"""Images of another region that shares our identity service: found in the catalogue, read as the user.

Invariant: nothing is read with more rights than the token of who asked has.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from cumulet.client.session import ServiceSession
from cumulet.client.transport import RemoteTransport
from cumulet.image.schemas import IMAGE_PROPERTIES
from cumulet.kernel.errors import Fault
from cumulet.kernel.registry import Reply

_TRANSFER = 6 * 3600.0
_HERE = "this-cloud.invalid"
"""The catalogue's own endpoints follow the host by which identity is asked; by this one they are known."""


class RemoteError(Exception):
    """The other cloud's image can't be had; the text is fit for the user. ``final``: trying again does not help."""

    def __init__(self, message: str, *, final: bool = True) -> None:
        self.final = final
        super().__init__(message)


class Remote:
    """One image of another region."""

    def __init__(self, session: ServiceSession, token: str | None, region: str, interface: str, image_id: str) -> None:
        self._session, self._token = session, token
        self._region, self._interface, self._image_id = region, interface, image_id
        self._transport: RemoteTransport | None = None

    async def look(self) -> dict[str, Any]:
        """Its ``size``, formats, ``digest`` (SHA-512, if it has one) and custom ``properties``. Raises RemoteError."""
        reply = await self._get(f"/v2/images/{quote(self._image_id, safe='')}")
        document = orjson.loads(await reply.read())
        await self._close()
        if document.get("status") != "active":
            raise RemoteError("the other cloud's image is not active")
        return {
            "size": document.get("size"),
            "disk_format": document.get("disk_format"),
            "container_format": document.get("container_format"),
            "digest": document.get("os_hash_value") if document.get("os_hash_algo") == "sha512" else None,
            "properties": {
                name: value
                for name, value in document.items()
                if name not in IMAGE_PROPERTIES and isinstance(value, str)
            },
        }

    async def open(self) -> Any:
        """Its data in pieces. Raises RemoteError."""
        reply = await self._get(f"/v2/images/{quote(self._image_id, safe='')}/file", timeout=_TRANSFER)
        return self._pieces(reply)

    async def _pieces(self, reply: Reply) -> Any:
        import aiohttp

        try:
            async for piece in reply.pieces():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RemoteError(f"the download broke: {type(error).__name__}", final=False) from None
        finally:
            await self._close()

    async def _get(self, path: str, timeout: float = 60.0) -> Reply:
        url = await self._endpoint()
        headers = {"x-auth-token": self._token or "", "accept": "application/json, application/octet-stream"}
        reply: Reply
        try:
            if urlsplit(url).hostname == _HERE:
                reply = await self._session.send("image", "GET", path, headers=headers, timeout=timeout)
            else:
                self._transport = RemoteTransport(url, "other image")
                reply = await self._transport.send("GET", path, headers, timeout=timeout)
        except Fault as error:
            await self._close()
            raise RemoteError(error.message, final=False) from None
        if reply.status != 200:
            await reply.read()
            await self._close()
            raise RemoteError(f"the other cloud answered {reply.status}", final=reply.status < 500)
        return reply

    async def _endpoint(self) -> str:
        """The URL of the region's image service in our catalogue."""
        try:
            services = await self._ask("/v3/services?type=image")
            query = f"/v3/endpoints?interface={quote(self._interface)}&region_id={quote(self._region)}"
            endpoints = await self._ask(query)
        except Fault as error:
            raise RemoteError(error.message, final=error.status < 500) from None
        known = {one["id"] for one in services["services"]}
        for endpoint in endpoints["endpoints"]:
            matches = endpoint["region_id"] == self._region and endpoint["interface"] == self._interface
            if endpoint["service_id"] in known and matches:
                return str(endpoint["url"]).rstrip("/")
        raise RemoteError(f"there is no {self._interface} image service in region {self._region}")

    async def _ask(self, path: str) -> Any:
        headers = {"x-forwarded-host": _HERE}
        return await self._session.call("identity", "GET", path, headers=headers, as_service=True)

    async def _close(self) -> None:
        if self._transport is not None:
            await self._transport.close()
            self._transport = None
