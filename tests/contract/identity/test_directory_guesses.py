# SPDX-License-Identifier: Apache-2.0
"""Guessing at somebody of a directory: a name can be written in many ways there, and they are one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cloud import running_cloud
from tests.contract.identity.company import Company
from tests.contract.identity.conftest import CHEAP
from tests.directory import Slapd

pytestmark = pytest.mark.ldap


async def test_a_name_written_otherwise_is_the_same_guess(tmp_path: Path, slapd: Slapd) -> None:
    settings = {"identity": {**CHEAP, "login_failures_per_minute": 3}}
    async with running_cloud(tmp_path, packages=[], settings=settings) as running:
        company = await Company(running, slapd).open()
        slapd.person("ann", "wonderland")
        user = await company.id_of("ann")
        ways = [{"name": "ann"}, {"name": "Ann"}, {"name": "aNn"}, {"name": "anN"}, {"id": user}]
        for number, way in enumerate(ways):
            reply = await company.login(way.get("name", ""), "no", id=way.get("id"))
            assert reply.status == (401 if number < 3 else 429), way


async def test_a_credential_named_otherwise_is_the_same_guess(tmp_path: Path, slapd: Slapd) -> None:
    settings = {"identity": {**CHEAP, "login_failures_per_minute": 3}}
    async with running_cloud(tmp_path, packages=[], settings=settings) as running:
        company = await Company(running, slapd).open()
        slapd.person("ann", "wonderland")
        user, project, role = await company.id_of("ann"), await company.project(), await company.role("member")
        assert (await company.ask("PUT", f"/projects/{project}/users/{user}/roles/{role}")).status == 204
        token = (await company.login("ann", "wonderland", {"project": {"id": project}})).headers["x-subject-token"]
        body = {"application_credential": {"name": "c"}}
        made = await company.ask("POST", f"/users/{user}/application_credentials", body, token)
        assert made.status == 201, made.data
        domain = {"id": company.domain}
        ways: list[dict[str, Any]] = [
            {"name": "c", "user": {"name": name, "domain": domain}} for name in ("ann", "Ann")
        ]
        ways += [{"name": "c", "user": {"id": user}}, {"id": made.json["application_credential"]["id"]}]
        for number, way in enumerate(ways):
            identity = {"methods": ["application_credential"], "application_credential": {**way, "secret": "no"}}
            reply = await running.request("POST", "/identity/v3/auth/tokens", {"auth": {"identity": identity}})
            assert reply.status == (401 if number < 3 else 429), (way, reply.data)
