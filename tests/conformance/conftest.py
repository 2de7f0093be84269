# SPDX-License-Identifier: Apache-2.0
"""The hosts that the hypervisor's suites are tried on: one for each driver."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conformance.hypervisor_rigs import LibvirtRig, Rig, SimulatedRig

REAL = pytest.param(LibvirtRig, id="libvirt", marks=pytest.mark.machine)


@pytest.fixture(params=[pytest.param(SimulatedRig, id="simulated"), REAL])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    found: Rig = request.param()
    await found.driver.open()
    yield found
    await found.close()
