# SPDX-License-Identifier: Apache-2.0
"""The start: a host that lacks something, and a worker without privilege."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cumulet
from cumulet.kernel.host import DirectHost
from cumulet.network.drivers.bridge import OPERATIONS, links
from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.bridge.naming import Names
from cumulet.network.drivers.model import (
    NetworkError,
)
from tests.machine.bridge.plans import (
    mac,
)
from tests.machine.wires import Machine, eventually

pytestmark = pytest.mark.machine


async def test_what_is_wrong_with_the_host_is_told(
    machine: Machine, driver: BridgeNetwork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine.space("nft", "add", "table", "ip", "filter")
    machine.space("nft", "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
    try:
        await driver.open()
    finally:
        machine.space("nft", "delete", "table", "ip", "filter")
    prefix = Names(driver._site.cloud).prefix
    assert "ip filter FORWARD on this host drops what it does not know" in caplog.text
    assert f"-I FORWARD -i {prefix}b+" in caplog.text
    direct = DirectHost(OPERATIONS)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NetworkError, match="start the cloud as root"):
        await BridgeNetwork(direct, cloud="nobody").open()
    direct.close()


def test_an_unprivileged_worker_runs_real_networks(machine: Machine, tmp_path: Path) -> None:
    """The whole way: a worker of an ordinary user, the parent it was forked from, a guest that asks for metadata."""
    report = tmp_path / "report"
    report.touch()
    report.chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    root = str(Path(__file__).parents[3])
    one = machine.guest("tapnet1-11", mac(11))
    code = (
        f"import sys; sys.path[:0] = [{str(Path(cumulet.__file__).parents[1])!r}, {root!r}]\n"
        "from tests.machine.bridge.worker import worker\n"
        # An interpreter in somebody's home can't be read by another user: what is needed is loaded before the fork.
        "import cumulet.network.drivers.bridge.metadata\n"
        "from cumulet.kernel.host import run_privileged\n"
        "from cumulet.network.drivers.bridge import OPERATIONS\n"
        f"sys.exit(run_privileged(lambda host: worker(host, {str(report)!r}), user='nobody', operations=OPERATIONS))"
    )
    with links.inside(machine.space.name):
        process = subprocess.Popen([sys.executable, "-c", code])
    try:
        eventually(lambda: "ready" in report.read_text(), 120)
        one.dhcp(tmp_path)
        answer = one("curl", "-s", "-m", "5", "http://169.254.169.254/")
        assert answer == "nobody proxied for 10.77.0.11"
    finally:
        process.terminate()
        assert process.wait(20) == 0
    machine.spaces.pop().remove()
    eventually(lambda: machine.links() == {"lo", "up0"})
