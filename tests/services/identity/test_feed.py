# SPDX-License-Identifier: Apache-2.0
"""The feed of changes: numbered in order, told at once to who waits, also when another process made them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cumulet.identity.logic import Identity
from cumulet.kernel.db import Transaction
from cumulet.kernel.errors import Unauthorized
from tests.cloud import TestCloud, running_cloud
from tests.services.identity.conftest import make_identity


async def _change(identity: Identity, **named: Any) -> int:
    async def body(tx: Transaction) -> int:
        return await identity.feed.changed(tx, **named)

    return await identity.database.run(body)


async def test_numbers_rise_by_one_and_a_failed_change_takes_none(identity: Identity) -> None:
    first = await identity.feed.sequence()
    assert [await _change(identity, user_id="u") for _ in range(3)] == [first + 1, first + 2, first + 3]

    async def fails(tx: Transaction) -> None:
        await identity.feed.changed(tx, user_id="u")
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        await identity.database.run(fails)
    assert await identity.feed.sequence() == first + 3


async def test_waiting_ends_with_the_change(identity: Identity) -> None:
    first = await identity.feed.sequence()
    waiting = asyncio.create_task(identity.feed.wait(first, 20))
    await asyncio.sleep(0)
    assert not waiting.done()
    await _change(identity, user_id="u", void=True)
    async with asyncio.timeout(60):
        assert await waiting == first + 1
    sequence, rows = await identity.feed.since(first)
    assert sequence == first + 1
    assert [(row["user_id"], row["issued_before"] > 0) for row in rows] == [("u", True)]


async def test_waiting_ends_without_a_change(identity: Identity) -> None:
    first = await identity.feed.sequence()
    async with asyncio.timeout(60):
        assert await identity.feed.wait(first, 0.01) == first


async def test_the_change_of_another_process_is_seen(identity: Identity, tmp_path: Path) -> None:
    other, database = await make_identity(tmp_path)
    first = await identity.feed.sequence()
    waiting = asyncio.create_task(identity.feed.wait(first, 20))
    await asyncio.sleep(0)
    await _change(other, project_id="p")
    async with asyncio.timeout(60):
        assert await waiting == first + 1
    other.passwords.close()
    await database.close()


async def test_the_feed_is_told_to_services_and_admins_only(tmp_path: Path) -> None:
    async with running_cloud(tmp_path, packages=[], settings={"identity": {"hash_memory_kib": 8}}) as cloud:
        path = "/identity/v3/cumulet/revocations?wait=0"
        assert (await cloud.request("GET", path)).status == 401
        assert (await cloud.request("GET", path, token=await cloud.login("demo"))).status == 403
        admin = await cloud.login("admin")
        start = (await cloud.request("GET", path, token=admin)).json["sequence"]
        following = asyncio.create_task(
            cloud.request("GET", f"/identity/v3/cumulet/revocations?after={start}", token=await _service(cloud))
        )
        demo = await cloud.login("demo")
        headers = {"x-subject-token": demo}
        told = await cloud.request("GET", "/identity/v3/auth/tokens", token=demo, headers=headers)
        audit_id = told.json["token"]["audit_ids"][0]
        assert (await cloud.request("DELETE", "/identity/v3/auth/tokens", token=demo, headers=headers)).status == 204
        async with asyncio.timeout(60):
            reply = await following
        assert reply.json["sequence"] == start + 1
        (entry,) = reply.json["revoked"]
        assert entry["audit_id"] == audit_id
        assert entry["issued_before"] > 0
        assert (await cloud.request("GET", f"{path}&after=x", token=admin)).status == 400


async def _service(cloud: TestCloud) -> str:
    password = cloud.cloud.parts.secrets.get("service:compute")
    named = {"name": "compute", "domain": {"id": "default"}, "password": password}
    auth = {
        "identity": {"methods": ["password"], "password": {"user": named}},
        "scope": {"project": {"name": "service", "domain": {"id": "default"}}},
    }
    reply = await cloud.request("POST", "/identity/v3/auth/tokens", {"auth": auth})
    assert {role["name"] for role in reply.json["token"]["roles"]} == {
        "admin", "manager", "member", "reader", "service",
    }  # fmt: skip
    return reply.headers["x-subject-token"]


async def test_the_validator_of_the_other_services_follows(tmp_path: Path) -> None:
    """The authenticator that every service shares refuses a revoked token within a second, by the feed alone."""
    async with running_cloud(tmp_path, packages=[], settings={"identity": {"hash_memory_kib": 8}}) as cloud:
        authenticator: Any = cloud.cloud.parts.authenticator
        token = await cloud.login("demo")
        async with asyncio.timeout(60):
            while not (await authenticator.verify(token)).cached:
                await asyncio.sleep(0.01)
        headers = {"x-subject-token": token}
        await cloud.request("DELETE", "/identity/v3/auth/tokens", token=token, headers=headers)

        async def is_valid() -> bool:
            try:
                await authenticator.verify(token)
            except Unauthorized:
                return False
            return True

        async with asyncio.timeout(60):
            while await is_valid():
                await asyncio.sleep(0.01)
