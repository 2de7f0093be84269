# SPDX-License-Identifier: Apache-2.0
"""Leaves nothing of a cloud on this machine: guests, networks, libvirtd, users, the data directory; nothing else."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from cumulet.assembly.machine import drop_users
from cumulet.assembly.place import Place


class NotOurs(RuntimeError):
    """The directory is no data directory of ours; nothing was removed."""


def purge(place: Place) -> list[str]:
    """Remove everything that the (stopped) cloud made; returns what, in words. Raises NotOurs."""
    data, removed = place.data, []
    marker = data / "cloud-id"
    if not marker.exists():
        if any(data.iterdir()):
            raise NotOurs(f"{data} holds no cloud; nothing was removed")
        data.rmdir()
        return [str(data)]
    cloud_id = marker.read_text().strip()
    made = place.made()
    libvirt = Path(made.get("libvirt", data / "libvirt"))
    if os.geteuid() == 0 and made.get("libvirtd") == "system":
        removed.append(f"{_system_guests(cloud_id)} guest(s)")
    if os.geteuid() == 0 and libvirt.exists():
        removed += _guests(data, libvirt)
        shutil.rmtree(libvirt, ignore_errors=True)
    if os.geteuid() == 0:
        asyncio.run(_networks(cloud_id))
        removed.append("networks")
    shutil.rmtree(data)
    removed.append(str(data))
    users = made.get("users", [])
    if users and os.geteuid() == 0:
        drop_users(users)
        removed += [f"user {name}" for name in users]
    return removed


def _system_guests(cloud_id: str) -> int:
    """End and forget this cloud's guests on the machine's libvirtd, with the logs of QEMU that it keeps for them."""
    import libvirt

    from cumulet.compute.drivers.libvirt import guest
    from cumulet.compute.drivers.libvirtd import LibvirtdError, find_system

    if (system := find_system()) is None:
        raise LibvirtdError("this cloud's guests are on the machine's libvirtd, which does not answer; start it first")

    def erase(domain: libvirt.virDomain, tag: object) -> str:
        guest.erase(domain)
        return str(domain.name())

    connection = libvirt.open(system.uri)
    try:
        names = guest.each(connection, cloud_id, erase)
    finally:
        connection.close()
    for name in names:
        Path(f"/var/log/libvirt/qemu/{name}.log").unlink(missing_ok=True)
    return len(names)


def _guests(data: Path, libvirt: Path) -> list[str]:
    """End libvirtd, then every QEMU process whose files are this cloud's."""
    from cumulet.compute.drivers.libvirtd import StopLibvirtd, stop_libvirtd

    ended = _end_guests(data, libvirt)
    stop_libvirtd(StopLibvirtd(str(libvirt)))
    return [f"{ended} guest(s)", "libvirtd"]


def _end_guests(data: Path, libvirt: Path) -> int:
    """Kill QEMU processes by the pid files of our own libvirtd."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if words.startswith(("qemu-system", "/usr/bin/qemu-system")) and (
            f"{data}/" in words or f"{libvirt}/" in words
        ):
            subprocess.run(["kill", "-9", process.name], check=False)
            count += 1
    return count


async def _networks(cloud_id: str) -> None:
    from cumulet.kernel.host import DirectHost
    from cumulet.network.drivers.bridge import OPERATIONS
    from cumulet.network.drivers.bridge.driver import BridgeNetwork

    host: Any = DirectHost(OPERATIONS)
    await BridgeNetwork(host, cloud=cloud_id).purge()
