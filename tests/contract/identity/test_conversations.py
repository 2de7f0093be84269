# SPDX-License-Identifier: Apache-2.0
"""Every section of every conversation, each with a new cloud; the core of them on PostgreSQL as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cloud import TestCloud
from tests.contract.conversation import Conversation, Section, sections

HERE = Path(__file__).parent
ALL = [
    pytest.param(section, id=f"{path.stem}: {section.title}")
    for path in sorted(HERE.glob("*.txt"))
    for section in sections(path)
]
_ON_POSTGRES = {
    "assignments", "credentials", "endpoint_filters", "federation", "limits", "oauth", "policies", "projects", "roles",
    "tokens", "trusts", "users",
}  # fmt: skip
ON_POSTGRES = [one for one in ALL if str(one.id).split(":")[0] in _ON_POSTGRES]


@pytest.mark.parametrize("section", ALL)
async def test_what_was_published_is_answered(cloud: TestCloud, section: Section) -> None:
    await Conversation(cloud).run(section)


@pytest.mark.postgres
@pytest.mark.parametrize("section", ON_POSTGRES)
async def test_postgresql_answers_the_same(postgres_cloud: TestCloud, section: Section) -> None:
    await Conversation(postgres_cloud).run(section)
