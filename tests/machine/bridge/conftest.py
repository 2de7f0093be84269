# SPDX-License-Identifier: Apache-2.0
"""The machine of a module, and a driver for each test that must leave it as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from cumulet.network.drivers.bridge.driver import BridgeNetwork
from tests.machine.wires import Machine, within


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture
async def driver(machine: Machine, request: pytest.FixtureRequest) -> AsyncIterator[BridgeNetwork]:
    """A driver of a cloud of its own, purged afterwards; purging must leave the machine as it was."""
    before = machine.left_over()
    driver = BridgeNetwork(machine.host, cloud=request.node.name[:60])
    await driver.open()
    yield driver
    await driver.purge()
    for space in machine.spaces:
        space.remove()
    machine.spaces.clear()
    within(5, lambda: machine.left_over() == before)  # the kernel takes its time with the guests' links
    assert machine.left_over() == before
