# SPDX-License-Identifier: Apache-2.0
"""What the conformance suite needs around a driver: a host to try it on, and a look behind its back.

One rig per driver. A rig outlives the driver objects that it hands out, as a
host outlives the processes of the compute agent.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from cumulet.compute.drivers.model import GuestDisk, GuestEvent, GuestMissing, GuestNic, GuestPlan, Hypervisor, RootDisk
from cumulet.compute.drivers.simulated import SimulatedHypervisor
from tests.scratch import short

ROOT = Path(__file__).resolve().parents[2]
GUEST_UID = GUEST_GID = 65534
BOOT_SECONDS = 120.0
T = TypeVar("T")


class Rig(Protocol):
    """A host."""

    driver: Hypervisor

    async def reopen(self) -> None:
        """Throw the driver object away, as a crash of the agent does, and make a new one."""

    def plan(self, server_id: str | None = None, *, bootable: bool = False) -> GuestPlan: ...

    def disk(self, serial: str | None = None) -> GuestDisk: ...

    def nic(self) -> GuestNic: ...

    def target(self) -> Path:
        """A new file's name, in a folder that QEMU may write to."""

    def identity(self, server_id: str) -> str:
        """Changes when (and only when) the guest was started anew."""

    async def until_up(self, server_id: str) -> None:
        """Return when the guest's own system listens to buttons and plugs."""

    async def power_off_inside(self, server_id: str) -> None: ...

    def crash_inside(self, server_id: str) -> None: ...

    def left_of(self, server_id: str) -> list[str]:
        """Processes, domains and files of the guest that still exist."""

    async def close(self) -> None: ...


async def until(look: Callable[[], Awaitable[T]], seconds: float, what: str) -> T:
    """Poll something outside of this process until it is true."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        if found := await look():
            return found
        assert asyncio.get_running_loop().time() < end, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.1)


def new_mac() -> str:
    return "fa:16:3e:" + ":".join(f"{octet:02x}" for octet in uuid.uuid4().bytes[:3])


class SimulatedRig:
    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="cm")
        self._file = Path(self._directory.name) / "host.json"
        self.driver: SimulatedHypervisor = SimulatedHypervisor("host", state_file=self._file)

    async def reopen(self) -> None:
        self.driver = SimulatedHypervisor("host", state_file=self._file)
        await self.driver.open()

    def plan(self, server_id: str | None = None, *, bootable: bool = False) -> GuestPlan:
        del bootable
        root = RootDisk(base=None, base_format="raw", size_gib=1)
        return GuestPlan(server_id or str(uuid.uuid4()), 1, "guest", "project", 1, 64, root)

    def disk(self, serial: str | None = None) -> GuestDisk:
        return GuestDisk(serial=serial or str(uuid.uuid4()), path="/nowhere", format="raw")

    def nic(self) -> GuestNic:
        return GuestNic(str(uuid.uuid4()), new_mac(), "tap", 1450)

    def target(self) -> Path:
        return Path(self._directory.name) / uuid.uuid4().hex

    def identity(self, server_id: str) -> str:
        return str(msgspec.json.decode(self._file.read_bytes())["guests"][server_id]["log"].count("attempt"))

    async def until_up(self, server_id: str) -> None:
        pass

    async def power_off_inside(self, server_id: str) -> None:
        self.driver.power_off_inside(server_id)

    def crash_inside(self, server_id: str) -> None:
        self.driver.power_off_inside(server_id, crash=True)

    def left_of(self, server_id: str) -> list[str]:
        return [f"{self._file}"] if server_id in self._file.read_text() else []

    async def close(self) -> None:
        await self.driver.close()
        self._directory.cleanup()


def guest_image() -> Path:
    """The tiny guest image; built once where CUMULET_GUEST_IMAGE does not name one."""
    named = os.environ.get("CUMULET_GUEST_IMAGE")
    image = Path(named) if named else ROOT / "build" / "guest.qcow2"
    if not image.exists():
        subprocess.run([str(ROOT / "images" / "build.sh"), str(image)], check=True, stdout=subprocess.DEVNULL)
    return image


class LibvirtRig:
    """Real guests under a libvirtd of the rig's own. Needs root, QEMU and libvirtd."""

    def __init__(self) -> None:
        from cumulet.compute.drivers.libvirtd import StartLibvirtd, start_libvirtd

        self.directory = Path(tempfile.mkdtemp(prefix="cm", dir=short()))  # a short path: sockets live below it
        self.directory.chmod(0o755)
        self.image = Path(shutil.copy(guest_image(), self.directory / "image.qcow2"))
        self.image.chmod(0o644)
        self.libvirtd = StartLibvirtd(str(self.directory / "lv"), GUEST_UID, GUEST_GID)
        self.info = start_libvirtd(self.libvirtd)
        self._taps: list[str] = []
        self.driver: Hypervisor = self.new_driver()

    def new_driver(self, cloud: str = "cloud-1") -> Hypervisor:
        from cumulet.compute.drivers.libvirt import LibvirtHypervisor

        return LibvirtHypervisor(
            self.info.uri,
            self.directory / "state",
            accelerator="tcg",
            guest_uid=GUEST_UID,
            guest_gid=GUEST_GID,
            cloud_id=cloud,
            hostname="host",
            log_dir=self.info.log_dir,
            tb_cache_mib=64,
        )

    async def reopen(self) -> None:
        await self.driver.close()
        self.driver = self.new_driver()
        await self.driver.open()

    def plan(self, server_id: str | None = None, *, bootable: bool = False) -> GuestPlan:
        root = RootDisk(str(self.image), "qcow2", 1) if bootable else RootDisk(None, "raw", 1)
        memory = 128 if bootable else 32
        return GuestPlan(server_id or str(uuid.uuid4()), 1, "guest", "project", 1, memory, root)

    def disk(self, serial: str | None = None) -> GuestDisk:
        serial = serial or str(uuid.uuid4())
        path = self.directory / f"volume-{uuid.uuid4().hex}"
        with path.open("wb") as file:
            file.truncate(32 << 20)
        os.chown(path, GUEST_UID, GUEST_GID)
        return GuestDisk(serial=serial, path=str(path), format="raw")

    def nic(self) -> GuestNic:
        tap = "cm" + uuid.uuid4().hex[:12]
        subprocess.run(["ip", "tuntap", "add", "dev", tap, "mode", "tap", "user", str(GUEST_UID)], check=True)
        self._taps.append(tap)
        subprocess.run(["ip", "link", "set", tap, "up"], check=True)
        return GuestNic(str(uuid.uuid4()), new_mac(), tap, 1450)

    def target(self) -> Path:
        folder = self.directory / "copies"
        folder.mkdir(exist_ok=True)
        os.chown(folder, -1, GUEST_GID)
        folder.chmod(0o2770)
        return folder / uuid.uuid4().hex

    def pids(self, server_id: str) -> list[int]:
        """QEMU processes of the guest; those that wait for their parent are gone."""
        found = []
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and server_id.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
        return [pid for pid in found if pid != os.getpid()]

    def identity(self, server_id: str) -> str:
        return " ".join(map(str, self.pids(server_id)))

    async def until_up(self, server_id: str) -> None:
        async def is_up() -> bool:
            text = await self.driver.console_log(server_id)
            return "login: " in text.rpartition("SYSLINUX")[2] and "ready host" in text.rpartition("SYSLINUX")[2]

        await until(is_up, BOOT_SECONDS, "the guest is up")

    async def type(self, server_id: str, *lines: str) -> str:
        """Log in on the serial console, type lines, log out, and return all that the guest said."""
        from cumulet.compute.drivers.libvirt import LibvirtHypervisor

        assert isinstance(self.driver, LibvirtHypervisor)
        reader, writer = await asyncio.open_unix_connection(self.driver.console_socket(server_id, "serial"))
        said = ""
        try:
            conversation = [
                ("", "login: "),
                ("cirros", "assword: "),
                ("gocubsgo", "$ "),
                *((line, "$ ") for line in lines),
                ("exit", "login: "),
            ]
            for line, answer in conversation:
                writer.write(line.encode() + b"\r")
                heard = ""
                while not heard.split("\r\n")[-1].replace("\x1b[6n", "").endswith(answer):
                    heard += (await asyncio.wait_for(reader.read(4096), 30)).decode(errors="replace")
                said += heard
        finally:
            writer.close()
        return said

    async def power_off_inside(self, server_id: str) -> None:
        from cumulet.compute.drivers.libvirt import LibvirtHypervisor

        assert isinstance(self.driver, LibvirtHypervisor)
        reader, writer = await asyncio.open_unix_connection(self.driver.console_socket(server_id, "serial"))
        try:
            for line, answer in (
                ("", b"login: "),
                ("cirros", b"assword: "),
                ("gocubsgo", b"$ "),
                ("sudo poweroff", b"Power down"),
            ):
                writer.write(line.encode() + b"\r")
                await asyncio.wait_for(reader.readuntil(answer), 30)
        finally:
            writer.close()

    def crash_inside(self, server_id: str) -> None:
        for pid in self.pids(server_id):
            os.kill(pid, signal.SIGKILL)

    def left_of(self, server_id: str) -> list[str]:
        found = [f"process {pid}" for pid in self.pids(server_id)]
        return found + [str(path) for path in self.directory.rglob("*") if server_id in path.name]

    async def close(self) -> None:
        from cumulet.compute.drivers.libvirtd import StopLibvirtd, stop_libvirtd

        for guest in await self.driver.guests():
            await self.driver.ensure_absent(guest.server_id)
        await self.driver.close()
        for tap in self._taps:
            subprocess.run(["ip", "link", "delete", tap], check=True)
        stop_libvirtd(StopLibvirtd(self.libvirtd.directory))
        shutil.rmtree(self.directory)


class Listener:
    """Collects events from now on."""

    def __init__(self, driver: Hypervisor) -> None:
        self.heard: list[GuestEvent] = []
        self._task = asyncio.create_task(self._listen(driver))

    async def _listen(self, driver: Hypervisor) -> None:
        async for event in driver.events():
            self.heard.append(event)

    async def wait(self, wanted: GuestEvent, seconds: float) -> None:
        async def is_heard() -> bool:
            return wanted in self.heard

        await until(is_heard, seconds, f"{wanted} among {self.heard}")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def is_missing(call: Awaitable[object]) -> bool:
    try:
        await call
    except GuestMissing:
        return True
    return False
