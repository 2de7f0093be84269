# SPDX-License-Identifier: Apache-2.0
"""What a dead cloud left is named with the commands that remove it; what a living one has is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

from click.testing import CliRunner

from cumulet.assembly.leftovers import Seen, known_clouds, leftovers
from cumulet.cli import main
from cumulet.network.drivers.bridge.naming import Names

DEAD, LIVING = Names("dead"), Names("living")


def seen(*clouds: Names) -> Seen:
    """The output of the tools where these clouds have one of each, beside things of others."""
    return Seen(
        json.dumps(
            [{"ifname": "eth0"}, {"ifname": "tap1", "ifalias": "somebody's"}]
            + [{"ifname": one.bridge("n")} for one in clouds]
            + [{"ifname": f"tap{one.prefix}", "ifalias": one.alias("port", "p")} for one in clouds]
        ).encode(),
        json.dumps([{"name": "other"}, *({"name": one.dhcp_namespace("n")} for one in clouds)]).encode(),
        json.dumps(
            {"nftables": [{"metainfo": {}}, {"table": {"family": "inet", "name": "filter"}},
                          *({"table": {"family": "inet", "name": one.table}} for one in clouds)]}
        ).encode(),
        json.dumps(
            [{"type": "blackhole", "dst": "192.0.2.0/24", "metric": 5},
             *({"type": "blackhole", "dst": "172.24.4.0/24", "metric": one.metric} for one in clouds)]
        ).encode(),
    )  # fmt: skip


def test_what_is_left_and_how_it_goes() -> None:
    (one,) = leftovers(seen(DEAD, LIVING), {"living"})
    assert f"c{one.cloud}" == DEAD.prefix
    assert one.commands == [
        f"ip netns delete {DEAD.dhcp_namespace('n')}",
        f"ip link delete {DEAD.bridge('n')}",
        f"ip link delete tap{DEAD.prefix}",
        f"nft delete table inet {DEAD.table}",
        f"ip route delete blackhole 172.24.4.0/24 metric {DEAD.metric}",
    ]
    assert leftovers(seen(LIVING), {"living"}) == []
    assert leftovers(Seen(b"", b"", b"", b""), set()) == []


def test_a_directory_makes_its_cloud_known(tmp_path: Path) -> None:
    (tmp_path / "cloud-id").write_text("living\n")
    assert "living" in known_clouds(tmp_path, tmp_path / "nowhere")


def test_the_command_names_each_check(tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["doctor", "--data", str(tmp_path), "--port", "0", "--json"])
    names = [one["name"] for one in json.loads(told.stdout)]
    assert {"QEMU", "file systems", "disk space", "root"} <= set(names)
    (root,) = (one for one in json.loads(told.stdout) if one["name"] == "root")
    assert root["ok"] == (os.geteuid() == 0)
