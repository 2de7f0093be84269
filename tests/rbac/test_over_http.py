# SPDX-License-Identifier: Apache-2.0
"""Every route of identity and image × every persona, over HTTP, with oslo.policy's view of the published rule.

The things named in the paths are not there, so a published rule that looks at
none of the target's members decides alone: who is allowed never gets 401 or
403; who is allowed nothing whatever the target gets 403, or 404 where the
service tells first that the thing is missing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from cumulet.kernel.context import Context
from cumulet.kernel.http import Api, Route
from tests.cloud import PASSWORD, TestCloud, running_cloud
from tests.rbac.personas import MY_PROJECT, OTHER_PROJECT, PERSONAS, targets
from tests.rbac.published import SERVICES, allows, facts, keys

pytestmark = pytest.mark.asyncio(loop_scope="module")
_ABSENT = "0123456789abcdef0123456789abcdef"
_ABSENT_UUID = "01234567-89ab-4def-8123-456789abcdef"
_NAMES = {"group": "ldap", "option": "url"}
"""Parameters of paths whose values are a fixed list."""
DIFFERENT = {
    "GET /v3/auth/catalog": "a token without a project has no catalogue to show: 403, as published",
    "GET /v3/auth/tokens/OS-PKI/revoked": "published as 403 for everybody; the rule is kept but not asked",
}
"""Routes that answer otherwise than the published rule alone would, and why."""


class Stage:
    """A cloud with a user for each persona, and the token of each."""

    def __init__(self, cloud: TestCloud) -> None:
        self.cloud = cloud
        self.tokens: dict[str, str] = {}

    async def ask(self, method: str, path: str, json: Any = None, **more: Any) -> Any:
        reply = await self.cloud.request(method, f"/identity/v3{path}", json, **more)
        assert reply.status < 300, (method, path, reply.status, reply.data)
        return reply

    async def open(self) -> None:
        """Make domains, projects and users as the personas say, and log all of them in."""
        admin = await self.cloud.login("admin", system=True)
        roles = {one["name"]: one["id"] for one in (await self.ask("GET", "/roles", token=admin)).json["roles"]}
        homes: dict[str | None, tuple[str, str]] = {}
        for name, project in (("mine", MY_PROJECT), ("theirs", OTHER_PROJECT)):
            domain = (await self.ask("POST", "/domains", {"domain": {"name": name}}, token=admin)).json["domain"]["id"]
            body = {"project": {"name": name, "domain_id": domain}}
            homes[project] = domain, (await self.ask("POST", "/projects", body, token=admin)).json["project"]["id"]
        for persona, caller in PERSONAS.items():
            domain, project = homes[OTHER_PROJECT if caller.project_id == OTHER_PROJECT else MY_PROJECT]
            body = {"user": {"name": persona, "password": PASSWORD, "domain_id": domain}}
            user = (await self.ask("POST", "/users", body, token=admin)).json["user"]["id"]
            where, scope = self._scope(caller, domain, project)
            for role in caller.roles[:1]:
                if role not in roles:
                    made = await self.ask("POST", "/roles", {"role": {"name": role}}, token=admin)
                    roles[role] = made.json["role"]["id"]
                await self.ask("PUT", f"{where}/users/{user}/roles/{roles[role]}", token=admin)
            identity = {"methods": ["password"], "password": {"user": {"id": user, "password": PASSWORD}}}
            auth = {"auth": {"identity": identity, "scope": scope}}
            self.tokens[persona] = (await self.ask("POST", "/auth/tokens", auth)).headers["x-subject-token"]

    @staticmethod
    def _scope(caller: Context, domain: str, project: str) -> tuple[str, Any]:
        if caller.system:
            return "/system", {"system": {"all": True}}
        if caller.domain_id is not None:
            return f"/domains/{domain}", {"domain": {"id": domain}}
        if caller.project_id is not None:
            return f"/projects/{project}", {"project": {"id": project}}
        return "", "unscoped"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with running_cloud(tmp_path_factory.mktemp("rbac"), packages=("image",)) as cloud:
        made = Stage(cloud)
        await made.open()
        yield made


def api_of(stage: Stage, service: str) -> Api:
    return next(role.app for role in stage.cloud.cloud.services[service].roles if isinstance(role.app, Api))


def url_of(service: str, route: Route) -> str:
    absent = _ABSENT_UUID if service == "image" else _ABSENT
    return f"/{service}" + re.sub(r"\{(\w+)\}", lambda found: _NAMES.get(found[1], absent), route.template)


async def send(stage: Stage, service: str, route: Route, token: str | None) -> int:
    """The status of a request to the route, with an empty document where it takes one."""
    takes = route.method in ("POST", "PUT", "PATCH") and not route.raw
    reply = await stage.cloud.request(
        route.method, url_of(service, route), {} if takes else None, token=token, headers={"x-subject-token": "none"}
    )
    return reply.status


@pytest.mark.parametrize("service", SERVICES)
async def test_nobody_gets_in_without_a_token(stage: Stage, service: str) -> None:
    routes = [route for route in api_of(stage, service).routes if not route.public]
    assert {route.at: await send(stage, service, route, None) for route in routes} == {
        route.at: 401 for route in routes
    }


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("persona", PERSONAS)
async def test_every_route_lets_in_whom_the_published_rule_lets_in(stage: Stage, service: str, persona: str) -> None:
    caller, things = PERSONAS[persona], targets(set(keys(service)))
    wrong = {}
    for route in api_of(stage, service).routes:
        if route.public or route.policy not in facts(service) or route.at in DIFFERENT:
            continue
        always = allows(service, route.policy, caller, {})
        never = not any(allows(service, route.policy, caller, thing) for thing in things)
        if not always and not never:
            continue
        status = await send(stage, service, route, stage.tokens[persona])
        if (status in (401, 403)) if always else (status not in (403, 404)):
            wrong[route.at] = (route.policy, "always" if always else "never", status)
    assert wrong == {}
