# SPDX-License-Identifier: Apache-2.0
"""A process of its own that pushes a large image through the service and back, and says how much memory it took.

usage: python -m tests.services.image.streaming FOLDER MIB [STORES]   (a JSON list; two directories without it)
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.contract.image.lone import DEMO, lone_service

PIECE = bytes(1024 * 1024)


async def push(folder: Path, mib: int, stores: list[dict[str, Any]]) -> int:
    """Upload, import to all stores and download ``mib`` MiB; returns the peak of this process's memory in MiB."""

    async def data() -> AsyncIterator[bytes]:
        for _ in range(mib):
            yield PIECE

    told_stores = {"image": {"stores": stores}}
    async with lone_service("image", folder, {"image-api"}, mount="/image", settings=told_stores) as image:
        body = {"disk_format": "raw", "container_format": "bare"}
        image_id = (await image.request("POST", "/v2/images", body)).json["id"]
        path = f"/v2/images/{image_id}"
        headers = {"content-type": "application/octet-stream", "x-auth-token": DEMO}
        sent = await image.transport.send("PUT", f"{path}/stage", headers, data(), timeout=3600.0)
        assert (sent.status, await sent.read()) == (204, b"")
        told = {"method": {"name": "glance-direct"}, "all_stores": True}
        assert (await image.request("POST", f"{path}/import", told)).status == 202
        while (await image.request("GET", path)).json["status"] == "importing":
            await asyncio.sleep(0.05)
        reply = await image.transport.send("GET", f"{path}/file", {"x-auth-token": DEMO}, timeout=3600.0)
        seen = 0
        async for piece in reply.pieces():
            seen += len(piece)
        assert seen == mib * len(PIECE), seen
        assert (await image.request("DELETE", path)).status == 204
    # not getrusage: that also counts what the process was before exec, which is pytest
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) // 1024


if __name__ == "__main__":
    wanted = json.loads(sys.argv[3]) if len(sys.argv) > 3 else [{"id": "a"}, {"id": "b"}]
    sys.stdout.write(f"{asyncio.run(push(Path(sys.argv[1]), int(sys.argv[2]), wanted))}\n")
