# SPDX-License-Identifier: Apache-2.0
"""What an unprivileged worker does in a test: imported by a process of its own."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal

from cumulet.kernel.host import ChannelHost
from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.model import (
    MetadataPlan,
)
from tests.machine.bridge.plans import (
    network,
    port,
)


def worker(host: ChannelHost, report: str) -> int:
    """Runs as nobody: brings a network up, answers metadata, purges when told to stop."""

    async def main() -> None:
        async def metadata(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = (await reader.readuntil(b"\r\n\r\n")).decode()
            guest = next(line.split(": ")[1] for line in asked.splitlines() if line.startswith("X-Forwarded-For"))
            body = f"{pwd.getpwuid(os.getuid()).pw_name} proxied for {guest}".encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            writer.close()

        told = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
        server = await asyncio.start_server(metadata, "127.0.0.1", 0)
        driver = BridgeNetwork(host, cloud="worker")
        await driver.open()
        await driver.ensure_metadata(MetadataPlan(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "s"))
        await driver.ensure_network(network())
        await driver.ensure_port(port(11))
        with open(report, "a") as file:
            file.write("ready")
        await told.wait()
        await driver.purge()
        server.close()

    asyncio.run(main())
    return 0
