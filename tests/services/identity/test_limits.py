# SPDX-License-Identifier: Apache-2.0
"""The hierarchical model: a project gets no more than its domain, and trees are two deep."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cumulet.identity.bootstrap import bootstrap
from cumulet.identity.config import IdentitySettings
from cumulet.identity.logic import Identity, limits
from cumulet.identity.logic.catalogue import list_services
from cumulet.identity.logic.limits import STRICT
from cumulet.identity.logic.listing import Page
from cumulet.identity.logic.projects import create_project
from cumulet.kernel.errors import Forbidden
from tests.services.identity.conftest import make_identity

SETTINGS = IdentitySettings(hash_memory_kib=8, hash_passes=1, enforcement_model=STRICT)


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Identity]:
    made, database = await make_identity(tmp_path, SETTINGS)
    await bootstrap(made, password="pw", service_passwords={}, region="RegionOne")
    yield made
    made.passwords.close()
    await database.close()


async def _cores(identity: Identity, default: int) -> dict[str, Any]:
    service = (await list_services(identity.database, Page()))[0][0]
    about = {"service_id": service["id"], "resource_name": "cores"}
    await limits.register(identity.database, [{**about, "default_limit": default}])
    return about


async def _limit(identity: Identity, *sent: dict[str, Any]) -> list[dict[str, Any]]:
    return await limits.create_limits(identity.database, STRICT, list(sent))


async def test_a_project_gets_no_more_than_its_domain(strict: Identity) -> None:
    about = await _cores(strict, 10)
    project = await create_project(strict.database, strict.settings, {"name": "p", "domain_id": "default"})
    own = {**about, "project_id": project["id"]}
    with pytest.raises(Forbidden, match="doesn't satisfy current hierarchy model"):
        await _limit(strict, {**own, "resource_limit": 11})  # what is registered holds for the domain
    with pytest.raises(Forbidden):
        await _limit(strict, {**own, "resource_limit": -1})  # nor is it without limit
    domain = {**about, "domain_id": "default"}
    of_domain, mine = await _limit(strict, {**domain, "resource_limit": 20}, {**own, "resource_limit": 15})
    with pytest.raises(Forbidden):
        await limits.update_limit(strict.database, STRICT, mine["id"], {"resource_limit": 21})
    with pytest.raises(Forbidden):
        await limits.update_limit(strict.database, STRICT, of_domain["id"], {"resource_limit": 14})
    await limits.update_limit(strict.database, STRICT, of_domain["id"], {"resource_limit": -1})
    await limits.update_limit(strict.database, STRICT, mine["id"], {"resource_limit": 1000})
    shown = await limits.show_limit(strict.database, mine["id"])
    assert shown["resource_limit"] == 1000


async def test_a_refused_request_leaves_nothing(strict: Identity) -> None:
    about = await _cores(strict, 10)
    project = await create_project(strict.database, strict.settings, {"name": "p", "domain_id": "default"})
    with pytest.raises(Forbidden):
        await _limit(
            strict,
            {**about, "domain_id": "default", "resource_limit": 5},
            {**about, "project_id": project["id"], "resource_limit": 6},
        )
    assert (await limits.list_limits(strict.database, Page()))[0] == []


async def test_zero_is_a_limit(strict: Identity) -> None:
    about = await _cores(strict, 10)
    (row,) = await _limit(strict, {**about, "domain_id": "default", "resource_limit": 5})
    await limits.update_limit(strict.database, STRICT, row["id"], {"resource_limit": 0})
    assert (await limits.show_limit(strict.database, row["id"]))["resource_limit"] == 0


async def test_a_tree_is_two_deep(strict: Identity) -> None:
    project = await create_project(strict.database, strict.settings, {"name": "p", "domain_id": "default"})
    below = {"name": "below", "domain_id": "default", "parent_id": project["id"]}
    with pytest.raises(Forbidden, match="Max hierarchy depth"):
        await create_project(strict.database, strict.settings, below)
