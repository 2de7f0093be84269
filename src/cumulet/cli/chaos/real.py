# SPDX-License-Identifier: Apache-2.0
"""A cloud with real guests in processes of its own, as root: killed, started again, and removed to the last link.

Invariant: it lives in a directory of its own below ``/var/tmp``, which QEMU's
user can walk to, and makes nothing that its own purge does not take away.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from cumulet.cli.chaos.coverage import Aim
from cumulet.cli.chaos.process import CloudProcess, Struck

_ENDED_WITHIN = 30.0


PLACE = "/var/tmp"  # noqa: S108 - short, for libvirt's sockets, and everybody may walk to it


class RealCloud(CloudProcess):
    """One `cumulet up` with real guests: a supervisor, an operator that is root, and the worker that serves."""

    aim_within = 240.0  # a guest must boot, for real, before something can be attached to it
    pace = 5.0

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="cmc-", dir=PLACE))
        folder.chmod(0o711)
        super().__init__(folder / "c", halts=True)
        assert self.halts is not None
        self.halts.mkdir()
        self.halts.chmod(0o777)  # the worker is an ordinary user
        self._hypervisor = ("--hypervisor", "libvirt", "--libvirtd", "own")
        self._dead = 0
        self._kills = 0

    def _facts(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.data / "run.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    def _is_ready(self) -> bool:
        facts = self._facts()
        pid = int(facts.get("pid", 0))
        if pid in (0, self._dead) or not Path(f"/proc/{pid}").exists():
            return False
        self._port = int(facts["port"])
        return True

    async def strike(self, kind: str, aim: Aim | None = None) -> Struck:
        """Kill the worker and, every other time, all of the cloud's processes; or stop the worker."""
        struck = await super().strike(kind, aim)
        if kind == "kill":
            struck.what = "the worker" if self._kills % 2 else "all processes"
        return struck

    async def kill(self) -> None:
        """SIGKILL to the worker, which its supervisor starts again; at every second time to all three processes."""
        assert self._process is not None
        self._kills += 1
        self._dead = int(self._facts().get("pid", 0))
        if self._kills % 2:
            _send(self._dead, signal.SIGKILL)
            return
        await asyncio.to_thread(_kill_all, [self._process.pid, *_children(self._process.pid)])
        await self._process.wait()

    async def freeze(self, seconds: float) -> None:
        worker = int(self._facts().get("pid", 0))
        _send(worker, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            _send(worker, signal.SIGCONT)

    async def remove(self) -> None:
        """Stop it, and leave nothing of it on this machine."""
        await self.stop()
        argv = [sys.executable, "-m", "cumulet.cli", "down", "--purge", "--data", str(self.data)]
        purging = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL)
        if await purging.wait() != 0:
            raise RuntimeError(f"the purge failed; what is left is told by: cumulet down --purge --data {self.data}")
        await asyncio.to_thread(shutil.rmtree, self.data.parent, ignore_errors=True)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        if pid > 1:
            os.kill(pid, number)
    except ProcessLookupError:
        pass


def _kill_all(pids: list[int]) -> None:
    """SIGKILL, and wait until these processes have ended."""
    handles = []
    for pid in pids:
        try:
            handles.append(os.pidfd_open(pid))
        except ProcessLookupError:
            continue
        _send(pid, signal.SIGKILL)
    for handle in handles:
        select.select([handle], [], [], _ENDED_WITHIN)
        os.close(handle)


def _children(pid: int) -> list[int]:
    """The processes that this one started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
        except OSError:
            continue
    return found
