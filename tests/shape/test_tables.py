# SPDX-License-Identifier: Apache-2.0
"""The code base examined: every route has a rule, every rule is used, every row of a table means something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cumulet.assembly.table import SERVICES
from cumulet.kernel.http import Api
from cumulet.kernel.http.versions import parse
from tests.cloud import running_cloud

SOURCES = Path(__file__).parents[2] / "src" / "cumulet"
LONGEST = 600
"""Lines that one can read in one sitting."""


@pytest.fixture
async def apis(tmp_path: Path) -> dict[str, Api]:
    async with running_cloud(tmp_path) as cloud:
        return {
            name: role.app
            for name, service in cloud.cloud.services.items()
            for role in service.roles
            if isinstance(role.app, Api)
        }


async def test_every_service_has_an_api(apis: dict[str, Api]) -> None:
    assert set(apis) == {entry.package for entry in SERVICES}


async def test_every_route_is_public_or_has_a_known_rule(apis: dict[str, Api]) -> None:
    for name, api in apis.items():
        for route in api.routes:
            assert route.public != (route.policy is not None), f"{name}: {route.at} has no rule, or is public with one"
            assert route.policy is None or route.policy in api.policy.names(), f"{name}: {route.at}: {route.policy}"


async def test_versions_of_routes_lie_within_the_published_range(apis: dict[str, Api]) -> None:
    for name, api in apis.items():
        for route in api.routes:
            for version in (route.since, route.until):
                if version is not None:
                    assert api.versions is not None, name
                    assert parse(api.versions.minimum) <= parse(version) <= parse(api.versions.maximum), route.at


async def test_no_two_rows_answer_the_same_request(apis: dict[str, Api]) -> None:
    for name, api in apis.items():
        ranges: dict[tuple[str, str | None], list[tuple[str, str]]] = {}
        for route in api.routes:
            key = (route.at.split("#")[0], route.action)
            for since, until in ranges.setdefault(key, []):
                low, high = parse(route.since or "1.0"), parse(route.until or "9.999")
                assert high < parse(since) or low > parse(until), f"{name}: {route.at} stands twice"
            ranges[key].append((route.since or "1.0", route.until or "9.999"))


def test_files_can_be_read_in_one_sitting() -> None:
    long = {str(path.relative_to(SOURCES)): len(path.read_text().splitlines()) for path in SOURCES.rglob("*.py")}
    assert {path: lines for path, lines in long.items() if lines > LONGEST} == {}


def test_every_module_says_why_it_exists() -> None:
    for path in SOURCES.rglob("*.py"):
        text = path.read_text()
        if not text.strip():
            continue
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        assert re.match(r'# SPDX[^\n]*\n\s*r?"""', text), f"{path} has no docstring"


def test_no_module_is_called_utils() -> None:
    bad = {"utils", "util", "common", "base", "helpers", "misc"}
    assert [path for path in SOURCES.rglob("*") if path.stem in bad] == []
