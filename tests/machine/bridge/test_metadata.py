# SPDX-License-Identifier: Apache-2.0
"""The metadata service as a guest finds it."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.model import (
    MetadataPlan,
)
from tests.machine.bridge.plans import (
    mac,
    network,
    port,
)
from tests.machine.wires import Guest, Machine

pytestmark = pytest.mark.machine


class _Compute(http.server.BaseHTTPRequestHandler):
    """Stands for compute's metadata API: says what it was asked."""

    def do_GET(self) -> None:
        body = json.dumps([self.command, self.path, dict(self.headers)]).encode()
        self.send_response(200 if "missing" not in self.path else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def compute() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Compute)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_metadata_names_network_and_guest(
    machine: Machine, driver: BridgeNetwork, compute: str, tmp_path: Path
) -> None:
    import hashlib
    import hmac

    await driver.ensure_metadata(MetadataPlan(compute, "first"))
    for net, segment in (("red", 1), ("blue", 2)):
        await driver.ensure_network(network(net, segment))
        made = machine.guest(f"tap{net}-11", mac(11))
        await driver.ensure_port(port(11, net, rules=[]))  # metadata must be there whatever the groups say
        made.dhcp(tmp_path)
    red, blue = (space for space in machine.spaces if isinstance(space, Guest))
    await driver.ensure_metadata(MetadataPlan(compute, "s3cret"))

    async def ask(space: Guest, path: str, *more: str) -> tuple[int, list[object]]:
        argv = ["ip", "netns", "exec", space.name, "curl", "-s", "-m", "5", "-w", "\n%{http_code}", *more]
        process = await asyncio.create_subprocess_exec(
            *argv, f"http://169.254.169.254{path}", stdout=asyncio.subprocess.PIPE
        )
        text, _, code = (await process.communicate())[0].decode().rpartition("\n")
        return int(code), json.loads(text) if text else []

    forged = ("-H", "X-Forwarded-For: 10.77.0.12", "-H", "X-Neutron-Network-ID: blue", "-H", "X-Instance-ID: 1")
    for space, net in ((red, "red"), (blue, "blue")):
        code, (method, path, headers) = await ask(space, "/openstack/latest/meta_data.json?x=%2F", *forged)
        assert (code, method, path) == (200, "GET", "/openstack/latest/meta_data.json?x=%2F")
        assert isinstance(headers, dict)
        assert headers["X-Forwarded-For"] == "10.77.0.11"
        assert headers["X-Neutron-Network-ID"] == net
        assert (
            headers["X-Cumulet-Signature"]
            == hmac.new(b"s3cret", f"{net}10.77.0.11".encode(), hashlib.sha256).hexdigest()
        )
        assert "X-Instance-ID" not in headers
    assert (await ask(red, "/missing"))[0] == 404
    assert (await ask(red, "/", "-X", "DELETE"))[0] == 405
    (tmp_path / "big").write_bytes(bytes(200_000))
    assert (await ask(red, "/", "-X", "POST", "-H", "Expect:", "--data-binary", f"@{tmp_path}/big"))[0] == 413
    # One guest cannot hold every connection: the others are still served.
    held = [red.open_socket() for _ in range(40)]
    for one in held:
        one.setblocking(False)
        one.connect_ex(("169.254.169.254", 80))
    assert (await ask(blue, "/"))[0] == 200
    await asyncio.sleep(0.1)
    closed = 0
    for one in held:
        try:
            closed += one.recv(1) == b""
        except BlockingIOError:
            pass
        except ConnectionError:
            closed += 1
        one.close()
    assert closed >= 40 - 16
    # A service that does not answer is a 503, and a new process serves again.
    await driver.ensure_metadata(MetadataPlan("http://127.0.0.1:9", "s3cret"))
    assert (await ask(red, "/"))[0] == 503
    await driver.close()
    again = BridgeNetwork(machine.host, cloud=driver._site.cloud)
    await again.ensure_metadata(MetadataPlan(compute, "s3cret"))
    await again.ensure_network(network("red", 1))
    assert (await ask(red, "/"))[0] == 200
    await again.close()
