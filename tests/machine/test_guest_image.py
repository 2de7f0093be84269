# SPDX-License-Identifier: Apache-2.0
"""The tiny guest image on a network: addresses, MTU, routes, metadata, keys, and how soon ssh answers.

The network is one bridge and one namespace of the test's own; nothing leaves them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from cumulet.compute.drivers.model import GuestNic
from tests.conformance.hypervisor_rigs import LibvirtRig, guest_image, until

pytestmark = pytest.mark.machine
GUEST = "10.11.12.50"
METADATA = """
import http.server, json, sys
FILES = json.loads(sys.argv[1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = FILES.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write((body or "").encode())
    def log_message(self, *words):
        pass
http.server.HTTPServer(("169.254.169.254", 80), Handler).serve_forever()
"""
BANNER = """
import socket, sys, time
begun = time.monotonic()
while time.monotonic() - begun < 120:
    try:
        with socket.create_connection((sys.argv[1], 22), timeout=2) as server:
            banner = server.recv(64)
            if banner:
                print(banner.decode(errors="replace"))
                break
    except OSError:
        time.sleep(0.1)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
async def network() -> AsyncIterator[tuple[str, str]]:
    """(bridge, namespace) with 10.11.12.1 and 169.254.169.254 in the namespace."""
    mark = uuid.uuid4().hex[:8]
    bridge, space, inner, outer = f"b{mark}", f"n{mark}", f"i{mark}", f"o{mark}"
    ip("netns", "add", space)
    try:
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
        ip("link", "set", outer, "master", bridge, "up")
        ip("link", "set", bridge, "up")
        for words in (
            ("addr", "add", "10.11.12.1/24", "dev", inner),
            ("addr", "add", "169.254.169.254/32", "dev", inner),
        ):
            ip("-n", space, *words)
        for device in ("lo", inner):
            ip("-n", space, "link", "set", device, "up")
        yield bridge, space
    finally:
        ip("netns", "delete", space)
        subprocess.run(["ip", "link", "delete", bridge], check=False)


@contextlib.asynccontextmanager
async def inside(space: str, *argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec("ip", "netns", "exec", space, *argv, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def test_the_image_is_small() -> None:
    assert guest_image().stat().st_size < 25_000_000


async def test_a_guest_finds_its_network_and_its_cloud(
    network: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    """How soon it answers is told, not judged: the machine has other things to do."""
    bridge, space = network
    rig = LibvirtRig()
    await rig.driver.open()
    try:
        await check_guest(rig, bridge, space, request.config.get_terminal_writer().write)
    finally:
        await rig.close()


async def check_guest(rig: LibvirtRig, bridge: str, space: str, tell: Callable[[str], object]) -> None:
    first = msgspec.structs.replace(rig.nic(), mtu=1450)
    second: GuestNic = rig.nic()
    ip("link", "set", first.tap, "master", bridge)
    plan = msgspec.structs.replace(rig.plan(bootable=True), nics=[first, second])
    metadata = {
        "uuid": plan.server_id,
        "hostname": "from-service.example",
        "public_keys": {"a": "ssh-ed25519 AAAAkey one\n", "b": "ecdsa-sha2-nistp256 BBBB two"},
    }
    files = {
        "/openstack/latest/meta_data.json": json.dumps(metadata),
        "/openstack/latest/user_data": "#!/bin/sh\necho user-data says $(hostname)\n",
    }
    dnsmasq = [
        *("dnsmasq", "--keep-in-foreground", "--no-hosts", "--no-resolv", "--port=0", "--bind-interfaces"),
        *("--conf-file=/dev/null", "--pid-file=", f"--dhcp-leasefile={rig.directory}/leases", "--user=root"),
        *(
            "--dhcp-range=10.11.12.0,static,255.255.255.0",
            f"--dhcp-host={first.mac},{GUEST}",
            "--listen-address=10.11.12.1",
        ),
        *(
            "--dhcp-option=option:mtu,1400",
            "--dhcp-option=option:router,10.11.12.99",
            "--dhcp-option=option:dns-server,10.11.12.1",
        ),
        "--dhcp-option=option:classless-static-route,0.0.0.0/0,10.11.12.1,10.99.0.0/16,10.11.12.7",
    ]
    async with (
        inside(space, *dnsmasq),
        inside(space, sys.executable, "-c", METADATA, json.dumps(files)),
        inside(space, sys.executable, "-c", BANNER, GUEST) as banner,
    ):
        await rig.driver.resources()  # libvirt's first look at QEMU takes seconds of its own
        begun = asyncio.get_running_loop().time()
        await rig.driver.ensure_running(plan)
        assert banner.stdout is not None
        said = (await banner.stdout.read()).decode()
        seconds = asyncio.get_running_loop().time() - begun
        assert said.startswith("SSH-2.0-dropbear")
        tell(
            f"\nssh after {seconds:.1f} s (load {os.getloadavg()[0]:.1f}; 10 where the machine has nothing else to do) "
        )
        await rig.until_up(plan.server_id)
        shown = await rig.type(
            plan.server_id,
            "ip -4 -o address show dev eth0; cat /sys/class/net/eth0/mtu",
            "ip route",
            "cat /home/cirros/.ssh/authorized_keys; cat /etc/resolv.conf; hostname",
            "ls -ld /home/cirros/.ssh",
        )
        assert f"{GUEST}/24" in shown
        assert "\n1400\r" in shown
        assert "default via 10.11.12.1 dev eth0" in shown
        assert "10.99.0.0/16 via 10.11.12.7 dev eth0" in shown
        assert "10.11.12.99" not in shown, "classless routes replace the router option"
        assert "\nssh-ed25519 AAAAkey one\r" in shown
        assert "\necdsa-sha2-nistp256 BBBB two\r" in shown
        assert "\nnameserver 10.11.12.1\r" in shown
        assert "\nfrom-service\r" in shown
        assert "drwx------" in shown
        assert "user-data says from-service" in await rig.driver.console_log(plan.server_id)

        # A reboot does not run the user data again.
        await rig.driver.reboot(plan.server_id, hard=True, grace=0)

        async def is_up_again() -> bool:
            return (await rig.driver.console_log(plan.server_id)).count("ready host=from-service") == 2

        await until(is_up_again, 120, "the second boot")
        assert (await rig.driver.console_log(plan.server_id)).count("user-data says") == 1
