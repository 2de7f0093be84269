# SPDX-License-Identifier: Apache-2.0
"""`cumulet check` as an operator has it: sentences, exit status, a plan before a repair."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cumulet.kernel import ids
from tests.services.cli.conftest import Served


@pytest.fixture
def stray(cloud: Served) -> str:
    """A consumer that holds resources and is no server."""
    session, consumer = cloud.session("cumulet-admin"), ids.new_uuid()
    headers = {"OpenStack-API-Version": "placement 1.38"}
    (provider,) = session.call("placement", "GET", "/resource_providers")["resource_providers"]
    claim: dict[str, Any] = {
        "allocations": {provider["uuid"]: {"resources": {"MEMORY_MB": 1}}}, "project_id": "p", "user_id": "u",
        "consumer_generation": None, "consumer_type": "INSTANCE",
    }  # fmt: skip
    session.call("placement", "PUT", f"/allocations/{consumer}", claim, headers=headers)
    return consumer


def test_what_could_not_be_read_is_told(cloud: Served) -> None:
    """This cloud has no volume service: nothing is broken, and nobody may think that all was looked at."""
    result = cloud.run("check", "--wait", "20")
    assert result.exit_code == 2
    assert "block-storage was not read" in result.output
    assert "broken" not in result.output


def test_a_repair_shows_its_plan_and_asks_first(cloud: Served, stray: str) -> None:
    found = cloud.run("check")
    assert (found.exit_code, f"Consumer {stray} holds resources" in found.output) == (1, True)
    declined = cloud.run("check", "--repair")
    assert f"placement: DELETE /allocations/{stray}" in declined.output
    assert cloud.run("check").exit_code == 1  # nobody said yes
    mended = cloud.run("check", "--repair", "--yes")
    assert (mended.exit_code, f"allocation-stray {stray}: done" in mended.output) == (2, True)
    told = json.loads(cloud.run("check", "--json").stdout)
    assert told["findings"] == []


def test_only_an_administrator_may_look(cloud: Served) -> None:
    refused = cloud.run("check", cloud="cumulet-alt")
    assert refused.exit_code == 1
    assert "403" in refused.output
