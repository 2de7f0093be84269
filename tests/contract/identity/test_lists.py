# SPDX-License-Identifier: Apache-2.0
"""Lists under an operator's settings: cut where he says, and users by the age of their passwords."""

from __future__ import annotations

from pathlib import Path

from tests.cloud import running_cloud
from tests.contract.identity.conftest import CHEAP


async def test_a_list_is_cut_and_says_so(tmp_path: Path) -> None:
    settings = {"identity": {**CHEAP, "list_limit": 2}}
    async with running_cloud(tmp_path, packages=[], settings=settings) as cloud:
        admin = await cloud.login("admin")
        first = (await cloud.request("GET", "/identity/v3/projects?sort_key=name", token=admin)).json
        assert [row["name"] for row in first["projects"]] == ["admin", "alt_demo"]
        assert first["truncated"] is True
        path = first["links"]["next"].removeprefix("http://localhost")
        second = (await cloud.request("GET", path, token=admin)).json
        assert [row["name"] for row in second["projects"]] == ["demo", "service"]
        assert "truncated" not in second
        whole = (await cloud.request("GET", "/identity/v3/projects?limit=10", token=admin)).json
        assert len(whole["projects"]) == 4
        assert "truncated" not in whole


async def test_users_whose_passwords_end(tmp_path: Path) -> None:
    settings = {"identity": {**CHEAP, "password_expires_days": 30}}
    async with running_cloud(tmp_path, packages=[], settings=settings) as cloud:
        admin = await cloud.login("admin")
        sent = {"user": {"name": "ann", "password": "p"}}
        ann = (await cloud.request("POST", "/identity/v3/users", sent, token=admin)).json["user"]
        assert ann["password_expires_at"] is not None

        async def names(*wishes: str) -> list[str]:
            query = "&".join(f"password_expires_at={wish}" for wish in wishes)
            found = (await cloud.request("GET", f"/identity/v3/users?name=ann&{query}", token=admin)).json["users"]
            return [row["name"] for row in found]

        assert await names("gt:2000-01-01T00:00:00Z", "lt:2200-01-01T00:00:00Z") == ["ann"]
        assert await names("gt:2000-01-01T00:00:00Z", "gte:2200-01-01T00:00:00Z") == []
        assert await names("neq:2000-01-01T00:00:00Z") == ["ann"]
        assert await names("eq:2000-01-01T00:00:00Z") == []
