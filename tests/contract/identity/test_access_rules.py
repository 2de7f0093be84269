# SPDX-License-Identifier: Apache-2.0
"""A token of an application credential with access rules does what they name, in every service, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cumulet.kernel.http.access import AccessRule, permits
from tests.cloud import TestCloud, running_cloud
from tests.services.identity.conftest import CHEAP

RULES = [
    {"service": "image", "method": "GET", "path": "/v2/images"},
    {"service": "image", "method": "POST", "path": "/image/v2/images"},
    {"service": "block-storage", "method": "GET", "path": "/v3/*/volumes/**"},
    {"service": "volume", "method": "GET", "path": "/v3/types"},
    {"service": "identity", "method": "GET", "path": "/v3/users/{user_id}"},
]


@pytest.fixture
async def several(tmp_path: Path) -> AsyncIterator[TestCloud]:
    settings = {"identity": {"hash_memory_kib": CHEAP.hash_memory_kib, "hash_passes": 1}}
    async with running_cloud(tmp_path, packages=["image", "volume"], settings=settings) as running:
        yield running


async def _restricted(cloud: TestCloud, rules: list[dict[str, str]]) -> tuple[str, dict[str, Any]]:
    """A token of demo that is good for ``rules``, and the user and project ids."""
    demo = await cloud.login("demo")
    headers = {"x-subject-token": demo}
    token = (await cloud.request("GET", "/identity/v3/auth/tokens", token=demo, headers=headers)).json["token"]
    user, project = token["user"]["id"], token["project"]["id"]
    path = f"/identity/v3/users/{user}/application_credentials"
    body = {"application_credential": {"name": "c", "access_rules": rules}}
    made = (await cloud.request("POST", path, body, token=demo)).json["application_credential"]
    proof = {"id": made["id"], "secret": made["secret"]}
    identity = {"methods": ["application_credential"], "application_credential": proof}
    reply = await cloud.request("POST", "/identity/v3/auth/tokens", {"auth": {"identity": identity}})
    assert reply.status == 201, reply.data
    return reply.headers["x-subject-token"], {"user": user, "project": project, "credential": made["id"]}


async def test_every_service_keeps_to_the_rules(several: TestCloud) -> None:
    token, ids = await _restricted(several, RULES)
    project, user = ids["project"], ids["user"]
    wanted = {
        "GET /image/v2/images": 200,
        "GET /image/v2/images/": 401,
        "GET /image/v2/images/x": 401,
        "GET /image/v2/schemas/image": 401,
        "DELETE /image/v2/images/x": 401,
        f"GET /volume/v3/{project}/volumes/detail": 200,
        f"GET /volume/v3/{project}/volumes": 401,
        f"GET /volume/v3/{project}/snapshots": 401,
        "GET /volume/v3/types": 200,
        "GET /identity/v3/auth/projects": 401,
        f"GET /identity/v3/users/{user}": 200,
        f"HEAD /identity/v3/users/{user}": 401,
        f"GET /identity/v3/users/{user}/groups": 401,
        f"GET /identity/v3/users/{user}/application_credentials": 401,
    }
    got = {}
    for line in wanted:
        method, path = line.split()
        got[line] = (await several.request(method, path, token=token)).status
    assert got == wanted
    body = {"name": "i", "disk_format": "raw", "container_format": "bare"}
    made = await several.request("POST", "/image/v2/images", body, token=token)
    assert made.status == 201, made.data

    # it may always ask what it is itself
    headers = {"x-subject-token": token, "openstack-identity-access-rules": "1"}
    seen = await several.request("GET", "/identity/v3/auth/tokens", token=token, headers=headers)
    assert [rule["path"] for rule in seen.json["token"]["application_credential"]["access_rules"]]

    # a service that stands behind the request is not held to the user's rules; a user can't pretend to be one
    password = several.cloud.parts.secrets.get("service:compute")
    named = {"name": "compute", "domain": {"id": "default"}, "password": password}
    scope = {"project": {"name": "service", "domain": {"id": "default"}}}
    auth = {"identity": {"methods": ["password"], "password": {"user": named}}, "scope": scope}
    reply = await several.request("POST", "/identity/v3/auth/tokens", {"auth": auth})
    path = f"/volume/v3/{project}/snapshots"
    for beside, status in ((reply.headers["x-subject-token"], 200), (await several.login("demo"), 401)):
        headers = {"x-service-token": beside}
        assert (await several.request("GET", path, token=token, headers=headers)).status == status

    demo = await several.login("demo")
    path = f"/identity/v3/users/{user}/application_credentials/{ids['credential']}"
    assert (await several.request("DELETE", path, token=demo)).status == 204
    async with asyncio.timeout(60):  # services hear of it by the feed
        while (await several.request("GET", "/image/v2/images", token=token)).status != 401:
            await asyncio.sleep(0.01)


async def test_no_rules_at_all_is_no_limit(cloud: TestCloud) -> None:
    """The usual client sends an empty list where its user said nothing."""
    token, _ = await _restricted(cloud, [])
    assert (await cloud.request("GET", "/identity/v3/auth/projects", token=token)).status == 200


@pytest.mark.parametrize(
    ("rule", "path", "wanted"),
    [
        ("/v2.1/servers", "/v2.1/servers", True),
        ("/compute/v2.1/servers", "/v2.1/servers", True),
        ("/v2.1/servers", "/v2x1/servers", False),
        ("/v2.1/servers", "/v2.1/servers\n", False),
        ("/v2.1/servers/*", "/v2.1/servers/a", True),
        ("/v2.1/servers/{id}", "/v2.1/servers/a", True),
        ("/v2.1/servers/*", "/v2.1/servers/a/b", False),
        ("/v2.1/servers/*", "/v2.1/servers/", False),
        ("/v2.1/**", "/v2.1/servers/a/b", True),
        ("/v2.1/**/ips", "/v2.1/servers/a/ips", True),
        ("/v2.1/*-{n}/c", "/v2.1/a-b/c", True),
        ("/v2.1/{", "/v2.1/{", True),
        ("/**a" * 50 + "b", "/" + "a" * 3000, False),
        ("/**", "/" + "a" * 5000, False),
    ],
)
def test_paths(rule: str, path: str, wanted: bool) -> None:
    rules = [AccessRule("compute", "GET", rule)]
    assert permits(rules, ("compute",), "GET", "/compute", path) is wanted
    assert not permits(rules, ("compute",), "POST", "/compute", path)
    assert not permits(rules, ("image",), "GET", "/compute", path)
