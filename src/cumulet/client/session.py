# SPDX-License-Identifier: Apache-2.0
"""Who vouches for a request between services: the user's token with our service token, or ours alone.

Authorization is decided before work is accepted, so accepted work never fails
because a token aged: there a refused user token is replaced by the service's
own. While a request is still being decided a refused token refuses it: whoever
logs out in the middle must not be answered with a service's rights.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Final

import orjson

from cumulet.kernel import clock, context, errors, halts, trace
from cumulet.kernel.errors import Fault, Unauthorized
from cumulet.kernel.registry import Reply, Transport

_ON_ITS_WAY: Final = 10.0
"""Seconds that the end of a change is waited for by who was called off."""


class ServiceSession:
    """Requests of one service to the others."""

    def __init__(self, transport: Callable[[str], Transport], user: str, password: str) -> None:
        self._transport, self._user, self._password = transport, user, password
        self._token: str | None = None
        self._expires = 0.0
        self._renewing = asyncio.Lock()

    async def token(self) -> str:
        """Our own token, good for at least five minutes."""
        async with self._renewing:
            if self._token is None or self._expires < clock.now() + 300:
                self._token, self._expires = await self._issue()
            return self._token

    async def _issue(self) -> tuple[str, float]:
        domain = {"id": "default"}
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {"user": {"name": self._user, "domain": domain, "password": self._password}},
                },
                "scope": {"project": {"name": "service", "domain": domain}},
            }
        }
        headers = {"content-type": "application/json"}
        reply = await self._transport("identity").send("POST", "/v3/auth/tokens?nocatalog", headers, orjson.dumps(body))
        data = await reply.read()
        if reply.status != 201:
            raise fault_of_reply(reply.status, data)
        return reply.headers["x-subject-token"], clock.parse_iso(orjson.loads(data)["token"]["expires_at"])

    async def send(
        self,
        service: str,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes] = b"",
        *,
        headers: Mapping[str, str] | None = None,
        as_service: bool = False,
        timeout: float = 60.0,
    ) -> Reply:
        """One request to a service by its catalogue type; the answer as it came.

        With ``as_service`` our token alone is sent; so it is instead of a user's
        that identity refuses, in accepted work. Raises Unavailable when nobody answers.
        """
        caller = context.current()
        user_token = caller.token if caller is not None and not as_service else None
        await halts.request(f"{service} {method} {path}", "before")
        asking = self._once(service, method, path, body, headers, user_token, timeout)
        changes = method not in ("GET", "HEAD") and isinstance(body, bytes)
        reply = await (_to_its_end(asking) if changes else asking)
        await halts.request(f"{service} {method} {path}", "after")
        by_own_right = user_token is None or (caller is not None and caller.accepted)
        if reply.status == 401 and by_own_right and isinstance(body, bytes):
            await reply.read()
            if user_token is None:
                self._token = None
            reply = await self._once(service, method, path, body, headers, None, timeout)
        return reply

    async def _once(
        self,
        service: str,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes],
        headers: Mapping[str, str] | None,
        user_token: str | None,
        timeout: float,
    ) -> Reply:
        own = await self.token()
        sent = {"x-auth-token": user_token or own, "accept": "application/json", **_tracing(), **(headers or {})}
        if user_token is not None:
            sent["x-service-token"] = own
        return await self._transport(service).send(method, path, sent, body, timeout=timeout)  # type: ignore[arg-type]

    async def call(
        self,
        service: str,
        method: str,
        path: str,
        json: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        version: str | None = None,
        as_service: bool = False,
        timeout: float = 60.0,
    ) -> Any:
        """One request with a JSON body; returns the parsed answer (None without a body).

        ``version`` is the microversion. Raises the fault of the published status.
        """
        sent = dict(headers or {})
        if json is not None:
            sent.setdefault("content-type", "application/json")
        if version is not None:
            sent["openstack-api-version"] = f"{'volume' if service == 'block-storage' else service} {version}"
        data = orjson.dumps(json) if json is not None else b""
        reply = await self.send(service, method, path, data, headers=sent, as_service=as_service, timeout=timeout)
        answer = await reply.read()
        if reply.status >= 400:
            raise fault_of_reply(reply.status, answer)
        return orjson.loads(answer) if answer else None


async def _to_its_end(asking: Coroutine[Any, Any, Reply]) -> Reply:
    """An answer; who is called off while he waits for it goes when it is there.

    So that nobody undoes what is still on its way, and would come after that.
    """
    task = asyncio.ensure_future(asking)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to hear of it
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_ON_ITS_WAY)
        raise


def _tracing() -> dict[str, str]:
    """The request id and the flow of the running task, as headers."""
    headers: dict[str, str] = {}
    caller = context.current()
    if caller is not None:
        headers["x-openstack-request-id"] = caller.trace_id
    if carried := trace.baggage():
        headers["baggage"] = ",".join(f"cumulet.{name}={value}" for name, value in carried.items())
    return headers


def fault_of_reply(status: int, body: bytes) -> Fault:
    """The fault behind an error answer, whatever the dialect of its body."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    message, kind = "", ""
    if isinstance(told, dict):
        inner: Any = next(iter(told.values()), {})
        if isinstance(inner, list) and inner:
            inner = inner[0]
        if isinstance(inner, dict):
            message = str(inner.get("message") or inner.get("detail") or "")
            kind = str(inner.get("type") or inner.get("code") or "")
        elif isinstance(inner, str):
            message = inner.split("<br />")[0].strip()  # the image service's form
    if status == 401:
        return Unauthorized(message or None)
    fault = errors.of_status(status, message or f"The other service answered {status}.")
    fault.kind = kind or fault.kind
    return fault
