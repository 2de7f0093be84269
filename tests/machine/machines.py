# SPDX-License-Identifier: Apache-2.0
"""Machines on this machine: each with a network, processes, mounts and a name of its own, and a power switch.

Nothing of a machine has a name outside: when its first process ends, or the
tests die, the kernel takes everything of it away, links, rules and mounts too.
Only files on its disk stay, as on a real one.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tests.machine.realcloud import run, until

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_PREFIX_LENGTH = 24
_BOOT = """
set -e
hostname "$1"
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/netns /run/lock
mount --bind "$2" /proc/sys/kernel/random/boot_id
ip link set lo up
echo up
exec "$3" -I -S -c 'import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans are reaped by the kernel
while True: signal.pause()'
"""


class Machine:
    """One machine; ``folder`` is its disk."""

    def __init__(self, name: str, folder: Path, address: str) -> None:
        self.name, self.folder, self.address = name, folder, address
        folder.mkdir(parents=True)
        folder.chmod(0o711)
        self._outer: subprocess.Popen[str] | None = None
        self.init = 0
        """The pid of its first process, as this machine counts."""

    def boot(self) -> None:
        """Switch it on, with nothing running and no link but the loopback."""
        boot_id = self.folder / "boot-id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        boot_id.chmod(0o644)
        argv = [
            "setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "--ipc", "--mount", "--propagation",
            "private", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", _BOOT, "boot", self.name,
            str(boot_id), sys.executable,
        ]  # fmt: skip
        self._outer = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self._outer.stdout is not None
        assert self._outer.stdout.readline() == "up\n", f"{self.name} does not boot"
        self.init = _child_of(self._outer.pid)

    def power_cut(self, *, wait: bool = True) -> None:
        """Everything that runs there is gone at once; the disk stays."""
        if self._outer is not None:
            self._outer.kill()  # --kill-child
            if not wait:
                return
            self._outer.wait(30)
            assert self._outer.stdout is not None
            self._outer.stdout.close()
            until(f"{self.name} is off", lambda: not Path(f"/proc/{self.init}").exists(), 30, 0.02)
            self._outer = None

    def inside(self, *argv: str | Path) -> list[str]:
        """The command that runs ``argv`` there."""
        spaces = ("--net", "--uts", "--ipc", "--mount", "--pid")
        return ["nsenter", "--target", str(self.init), *spaces, "--", *map(str, argv)]

    def run(self, *argv: str | Path, check: bool = True, timeout: float = 180.0) -> str:
        """What a command there prints."""
        return run(*self.inside(*argv), check=check, timeout=timeout)

    def plug(self, hub: Machine) -> None:
        """A cable from this machine's ``mgmt0`` to the bridge of ``hub``."""
        port = f"to-{self.name}"
        hub.run("ip", "link", "delete", port, check=False)  # the kernel is not always done with the last one
        run(
            "nsenter", "--target", str(hub.init), "--net", "ip", "link", "add", port, "type", "veth", "peer", "name",
            "mgmt0", "netns", str(self.init),
        )  # fmt: skip
        hub.run("ip", "link", "set", port, "master", "hub", "up")
        self.run("ip", "addr", "add", f"{self.address}/{_PREFIX_LENGTH}", "dev", "mgmt0")
        self.run("ip", "link", "set", "mgmt0", "up")

    def be_hub(self) -> None:
        """The bridge that the other machines are plugged into, with this one's address."""
        self.run("ip", "link", "add", "hub", "type", "bridge")
        self.run("ip", "addr", "add", f"{self.address}/{_PREFIX_LENGTH}", "dev", "hub")
        self.run("ip", "link", "set", "hub", "up")


class Visitor:
    """One thread that lives in a machine's network: what it opens belongs there."""

    def __init__(self, machine: Machine) -> None:
        self._pool = ThreadPoolExecutor(1, f"in {machine.name}", _enter, (machine.init,))

    def call(self, work: Callable[..., T], *arguments: Any) -> T:
        return self._pool.submit(work, *arguments).result()

    def close(self) -> None:
        self._pool.shutdown()


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(handle)


def _child_of(pid: int) -> int:
    """The only child of a process."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"process {pid} has no child")
