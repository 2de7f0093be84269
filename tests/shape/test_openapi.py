# SPDX-License-Identifier: Apache-2.0
"""Every service publishes a valid OpenAPI document in which each of its routes stands."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from openapi_spec_validator import validate

from cumulet.assembly.table import SERVICES
from cumulet.cli import main
from cumulet.kernel.http import Api
from tests.cloud import running_cloud


async def test_each_route_of_each_service_is_in_its_document(tmp_path: Path) -> None:
    async with running_cloud(tmp_path) as cloud:
        for entry in SERVICES:
            service = cloud.cloud.services[entry.package]
            api = next(role.app for role in service.roles if isinstance(role.app, Api))
            reply = await cloud.request("GET", f"{entry.mount}/openapi.json")
            assert reply.status == 200
            document = reply.json
            validate(document)
            assert document["servers"][0]["url"].endswith(entry.mount)
            for route in api.routes:
                operation = document["paths"][route.template][route.method.lower()]
                rows = operation["x-openstack"]["rows"]
                row = {"min-ver": route.since, "max-ver": route.until, "action-name": route.action}
                row |= {"policy": route.policy}
                assert {name: value for name, value in row.items() if value is not None} in rows
                assert str(route.ok) in operation["responses"]
                if route.body is not None:
                    assert "requestBody" in operation, route.at
                if route.returns is not None and route.ok != 204:
                    assert "content" in operation["responses"][str(route.ok)], route.at


@pytest.mark.parametrize("service", ["image", "placement"])
def test_the_command_prints_it_without_a_cloud(service: str) -> None:
    told = CliRunner().invoke(main, ["openapi", service])
    assert told.exit_code == 0, told.output
    document = orjson.loads(told.stdout)
    validate(document)
    assert document["servers"] == [{"url": f"/{service}"}]


def test_an_unknown_service_is_named() -> None:
    told = CliRunner().invoke(main, ["openapi", "keystone"])
    assert told.exit_code == 2
    assert "'keystone' is none of identity, image" in told.output
