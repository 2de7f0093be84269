# SPDX-License-Identifier: Apache-2.0
"""The first two steps of the flow are recorded under the new token's audit id, and nothing tells a secret."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cumulet.kernel import trace
from tests.cloud import PASSWORD, TestCloud, running_cloud


async def _taken(buffer: trace.Buffer) -> list[trace.Event]:
    taken: list[trace.Event] = []

    async def take(events: list[trace.Event]) -> None:
        taken.extend(events)

    await buffer.flush(take)
    return taken


def _auth(password: str) -> dict[str, Any]:
    named = {"name": "demo", "domain": {"id": "default"}, "password": password}
    scope = {"project": {"name": "demo", "domain": {"id": "default"}}}
    return {"auth": {"identity": {"methods": ["password"], "password": {"user": named}}, "scope": scope}}


async def test_a_login_leaves_two_events(cloud: TestCloud) -> None:
    await _taken(cloud.cloud.buffer)
    reply = await cloud.request("POST", "/identity/v3/auth/tokens", _auth(PASSWORD))
    audit_id = reply.json["token"]["audit_ids"][0]
    events = {event.name: event for event in await _taken(cloud.cloud.buffer) if event.subject == audit_id}
    assert set(events) == {"auth.request", "auth.token"}
    asked, made = events["auth.request"], events["auth.token"]
    assert asked.started_at <= made.started_at
    assert asked.duration_ms > 0
    assert made.detail["roles"] == ["member", "reader"]
    assert asked.component == made.component == "identity"
    assert asked.request_id == reply.headers["x-openstack-request-id"]


async def test_a_failed_login_leaves_none(cloud: TestCloud) -> None:
    await _taken(cloud.cloud.buffer)
    assert (await cloud.request("POST", "/identity/v3/auth/tokens", _auth("wrong"))).status == 401
    assert [event for event in await _taken(cloud.cloud.buffer) if event.name.startswith("auth.")] == []


async def test_no_secret_is_written_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not in logs, events, error answers, nor the database, for a login, a new user, and malformed requests."""
    secret = "correct horse battery"
    with caplog.at_level(logging.DEBUG):
        async with running_cloud(tmp_path, packages=[], settings={"identity": {"hash_memory_kib": 8}}) as cloud:
            admin = await cloud.login("admin")
            created = await cloud.request(
                "POST", "/identity/v3/users", {"user": {"name": "ann", "password": secret}}, token=admin
            )
            user_id = created.json["user"]["id"]
            own = f"/identity/v3/users/{user_id}/password"
            answers = [
                created,
                await cloud.request("POST", own, {"user": {"original_password": secret, "password": [secret]}}),
                await cloud.request("POST", own, {"user": {"original_password": secret}}),
                await cloud.request("POST", own, {"user": {"original_password": secret, "password": secret, "x": 1}}),
                await cloud.request("POST", "/identity/v3/auth/tokens", {"auth": {"identity": {"password": secret}}}),
                await cloud.request("POST", "/identity/v3/users", {"user": {"password": secret}}, token=admin),
                await cloud.request(
                    "PATCH", f"/identity/v3/users/{user_id}", {"user": {"password": secret}}, token=admin
                ),
            ]
            assert [answer.status for answer in answers] == [201, 400, 400, 400, 400, 400, 200]
            assert all(secret.encode() not in answer.data for answer in answers)
            events = msgspec.json.encode(await _taken(cloud.cloud.buffer)).decode()
    for secret_text in (secret, PASSWORD, admin):
        assert secret_text not in caplog.text
        assert secret_text not in events
        for file in tmp_path.glob("identity.db*"):
            assert secret_text.encode() not in file.read_bytes()
