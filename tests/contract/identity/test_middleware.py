# SPDX-License-Identifier: Apache-2.0
"""The published services' own middleware, unmodified, in front of a small application: our tokens are theirs."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
import webob
import webob.dec
from keystonemiddleware import auth_token

from cumulet.identity.logic.claims import Sealer
from cumulet.kernel import clock
from tests.cloud import TestCloud
from tests.contract.identity.test_clients import served

NAMES = ("X-Identity-Status", "X-User-Name", "X-User-Id", "X-Project-Name", "X-Roles", "OpenStack-System-Scope")


@webob.dec.wsgify  # type: ignore[untyped-decorator]
def _application(request: webob.Request) -> webob.Response:
    """Says whom the middleware has told it that it serves."""
    return webob.Response(json={name: request.headers[name] for name in NAMES if name in request.headers})


class Guarded:
    """The application behind the middleware; calls run in a thread, since both block."""

    def __init__(self, cloud: TestCloud, url: str, **options: Any) -> None:
        self._app = auth_token.AuthProtocol(
            _application,
            {
                "oslo_config_project": "identity-test",
                "www_authenticate_uri": f"{url}/identity/v3",
                "auth_type": "password",
                "auth_url": f"{url}/identity",
                "username": "compute",
                "password": cloud.cloud.parts.secrets.get("service:compute"),
                "user_domain_id": "default",
                "project_name": "service",
                "project_domain_id": "default",
                "token_cache_time": "-1",
                "service_token_roles_required": "true",
                "service_token_roles": "service",
                **options,
            },
        )

    async def ask(self, path: str = "/", method: str = "GET", **headers: str) -> webob.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = webob.Request.blank(path, method=method, headers=named)
        return await asyncio.to_thread(request.get_response, self._app)


@pytest.mark.filterwarnings("ignore")  # what libraries say to their own developers
async def test_it_knows_whose_token_it_is(cloud: TestCloud) -> None:
    async with served(cloud) as url:
        guarded = Guarded(cloud, url)
        reply = await guarded.ask(X_Auth_Token=await cloud.login("demo"))
        assert reply.status_code == 200
        assert reply.json["X-Identity-Status"] == "Confirmed"
        assert (reply.json["X-User-Name"], reply.json["X-Project-Name"]) == ("demo", "demo")
        assert set(reply.json["X-Roles"].split(",")) == {"member", "reader"}
        reply = await guarded.ask(X_Auth_Token=await cloud.login("admin", system=True))
        assert reply.json["OpenStack-System-Scope"] == "all"
        for headers in ({}, {"X_Auth_Token": "nonsense"}, {"X_Auth_Token": "gAAAA" + "x" * 200}):
            refused = await guarded.ask(**headers)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == f'Keystone uri="{url}/identity/v3"'
        token = await cloud.login("alt_demo")
        headers = {"x-subject-token": token}
        assert (await cloud.request("DELETE", "/identity/v3/auth/tokens", token=token, headers=headers)).status == 204
        assert (await guarded.ask(X_Auth_Token=token)).status_code == 401


@pytest.mark.filterwarnings("ignore")
async def test_it_takes_an_ended_token_from_a_service_only(cloud: TestCloud) -> None:
    async with served(cloud) as url:
        guarded = Guarded(cloud, url)
        sealer = Sealer(cloud.cloud.parts.secrets)
        claims = sealer.open(await cloud.login("demo"))
        assert claims is not None
        ended = sealer.seal(msgspec.structs.replace(claims, expires=int(clock.now()) - 10))
        assert (await guarded.ask(X_Auth_Token=ended)).status_code == 401
        service = await _service(cloud)
        assert (await guarded.ask(X_Auth_Token=ended, X_Service_Token=service)).status_code == 200
        user = await cloud.login("admin")
        assert (await guarded.ask(X_Auth_Token=ended, X_Service_Token=user)).status_code == 401


async def _service(cloud: TestCloud) -> str:
    password = cloud.cloud.parts.secrets.get("service:compute")
    named = {"name": "compute", "domain": {"id": "default"}, "password": password}
    scope = {"project": {"name": "service", "domain": {"id": "default"}}}
    auth = {"identity": {"methods": ["password"], "password": {"user": named}}, "scope": scope}
    reply = await cloud.request("POST", "/identity/v3/auth/tokens", {"auth": auth})
    return reply.headers["x-subject-token"]


@pytest.mark.filterwarnings("ignore")
async def test_it_keeps_to_access_rules(cloud: TestCloud) -> None:
    async with served(cloud) as url:
        admin = await cloud.login("admin")
        headers = {"x-subject-token": admin}
        told = await cloud.request("GET", "/identity/v3/auth/tokens", token=admin, headers=headers)
        user_id = told.json["token"]["user"]["id"]
        rules = [{"service": "compute", "method": "GET", "path": "/v2.1/servers/*"}]
        body = {"application_credential": {"name": "c", "access_rules": rules}}
        path = f"/identity/v3/users/{user_id}/application_credentials"
        made = (await cloud.request("POST", path, body, token=admin)).json["application_credential"]
        proof = {"id": made["id"], "secret": made["secret"]}
        identity = {"methods": ["application_credential"], "application_credential": proof}
        reply = await cloud.request("POST", "/identity/v3/auth/tokens", {"auth": {"identity": identity}})
        token = reply.headers["x-subject-token"]
        guarded = Guarded(cloud, url, service_type="compute")
        assert (await guarded.ask("/v2.1/servers/a", X_Auth_Token=token)).status_code == 200
        assert (await guarded.ask("/v2.1/servers/a", "DELETE", X_Auth_Token=token)).status_code == 401
        assert (await guarded.ask("/v2.1/flavors", X_Auth_Token=token)).status_code == 401
        assert (await Guarded(cloud, url).ask("/v2.1/servers/a", X_Auth_Token=token)).status_code == 401
