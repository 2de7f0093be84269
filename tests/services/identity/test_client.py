# SPDX-License-Identifier: Apache-2.0
"""The typed client of identity, over the same bytes as every other client."""

from __future__ import annotations

from pathlib import Path

import pytest

from cumulet.client import identity as client
from cumulet.client.identity import IdentityClient
from cumulet.client.session import ServiceSession
from cumulet.kernel.errors import NotFound
from tests.cloud import running_cloud


async def test_what_others_ask_of_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAGE", 2)  # so that pages are followed
    async with running_cloud(tmp_path, packages=[], settings={"identity": {"hash_memory_kib": 8}}) as cloud:
        parts = cloud.cloud.parts
        session = ServiceSession(parts.transport, "compute", parts.secrets.get("service:compute"))
        identity = IdentityClient(session)
        projects = await identity.projects(as_service=True)
        assert {"admin", "demo", "alt_demo", "service"} <= {one.name for one in projects}
        (demo,) = await identity.projects(name="demo", as_service=True)
        assert await identity.project(demo.id, as_service=True) == demo
        assert (demo.domain_id, demo.enabled, demo.is_domain) == ("default", True, False)
        (user,) = await identity.users(name="demo", as_service=True)
        assert await identity.user(user.id, as_service=True) == user
        public = await identity.endpoints(interface="public", as_service=True)
        assert "http://localhost/compute/v2.1" in {one.url for one in public}
        for wrong in ("nothing", "../users", "a/b?c"):
            with pytest.raises(NotFound):
                await identity.project(wrong, as_service=True)
