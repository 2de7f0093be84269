# SPDX-License-Identifier: Apache-2.0
"""Looks for secrets on the hosts of a cloud: each has its own, and none of the controllers' or of another host's."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from tests.machine.hosts import Hosts
from tests.machine.machines import Machine

_LARGEST = 8 << 20
"""Bytes of a file that is looked into: disks of guests are larger."""


def strange_secrets(cloud: Hosts) -> list[tuple[str, str]]:
    """(host, name of a secret) wherever a host has a secret that is not its own."""
    control = json.loads((cloud.hub.folder / "secrets.json").read_text())
    assert {"seal", "metadata", "hosts", "admin_password", "service:compute", "bus_management"} <= set(control)
    secrets = {("control", key): value for key, value in control.items()}
    secrets["control", "database"] = cloud.database
    secrets["control", "database's name"] = urlsplit(cloud.database).path[1:]
    secrets["control", "password on the bus"] = cloud.bus.split("@")[0].rpartition(":")[2]
    for name, machine in cloud.machines.items():
        own = json.loads((machine.folder / "data" / "secrets.json").read_text())
        assert {"host", "bus", "metadata:host", "claim"} <= set(own)
        secrets |= {(name, key): value for key, value in own.items()}
    secrets = {key: value for key, value in secrets.items() if key[1] != "cloud_id"}
    found = []
    for name, machine in cloud.machines.items():
        held = _held(machine) + cloud.running[name].log.read_bytes()
        there = [key for key, value in secrets.items() if value.encode() in held]
        assert (name, "host") in there, "it looks"
        found += [(name, f"{owner}'s {key}") for owner, key in there if owner != name]
    return found


def _held(machine: Machine) -> bytes:
    """What is in the files of a host, and what its processes were started with."""
    files = [path for path in machine.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    content = b"".join(path.read_bytes() for path in files if path.stat().st_size < _LARGEST)
    started = machine.run("sh", "-c", r"cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n'")
    return content + started.encode()
