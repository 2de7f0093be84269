# SPDX-License-Identifier: Apache-2.0
"""Every section of every conversation with the image service, each with a new cloud of identity and image.

Its settings are those that tools/peer.py gives the published service.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cloud import TestCloud, running_cloud
from tests.contract.conversation import SPEECH, Conversation, Section, sections
from tests.contract.identity.conftest import CHEAP
from tests.services.image.web import LOOPBACK, serving

HERE = Path(__file__).parent
ALL = [
    pytest.param(section, id=f"{path.stem}: {section.title}")
    for path in sorted(HERE.glob("*.txt"))
    for section in sections(path)
]
STORES = [{"id": "file", "weight": 0}, {"id": "second"}, {"id": "http", "type": "web"}]


@pytest.fixture
async def cloud(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[TestCloud]:
    file = request.node.callspec.id.partition(":")[0]
    more = {"web": LOOPBACK, "locations": {**LOOPBACK, "show_locations": True}}.get(file, {})
    told = {"identity": CHEAP, "image": {"stores": STORES, **more}}
    async with running_cloud(tmp_path, packages=["image"], settings=told) as running:
        yield running


@pytest.mark.parametrize("section", ALL)
async def test_what_was_published_is_answered(cloud: TestCloud, section: Section) -> None:
    async with serving() as kept:
        await Conversation(cloud, SPEECH["image"], kept=kept).run(section)
