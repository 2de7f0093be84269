# SPDX-License-Identifier: Apache-2.0
"""A worker that hangs, even in the kernel, holds up nobody: not whoever asks, nor the event loop."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from pathlib import Path

import pytest

from cumulet.kernel import ceph
from cumulet.kernel.ceph import Ceph, CephError, CephPlace


async def test_a_worker_that_does_not_end_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o755)
    waiting, may_end = threading.Event(), threading.Event()
    waited_by: list[threading.Thread] = []
    ended: list[subprocess.Popen[bytes]] = []
    wait = subprocess.Popen.wait

    def stuck(self: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        waited_by.append(threading.current_thread())
        waiting.set()
        may_end.wait(30)
        code = wait(self, timeout)
        ended.append(self)
        return code

    monkeypatch.setattr(ceph, "_GRACE", 0.2)
    monkeypatch.setattr(subprocess.Popen, "wait", stuck)
    asked = Ceph(CephPlace(pool="p", python=str(silent), seconds=0))
    try:
        with pytest.raises(CephError, match="does not answer"):
            await asked.ask("stats")
        assert await asyncio.to_thread(waiting.wait, 30)
        assert threading.main_thread() not in waited_by
        assert not may_end.is_set()
        may_end.set()
        async with asyncio.timeout(30):
            while not (ended and ended[0].stdout is not None and ended[0].stdout.closed):
                await asyncio.sleep(0.01)
        assert ended[0].returncode == -9
    finally:
        may_end.set()
        asked.close()
