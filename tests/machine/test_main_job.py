# SPDX-License-Identifier: Apache-2.0
"""The main job with nothing simulated: `openstack` boots real guests, a person logs in, everything goes away again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.realcloud import RealCloud, inventory, real_cloud, run, sweep, until
from tests.machine.tenant import answers

pytestmark = pytest.mark.machine

USER_DATA = "#!/bin/sh\necho user-data-ran-on $(hostname) > /tmp/from-user-data\n"


@pytest.fixture(scope="module")
def before() -> dict[str, list[str]]:
    sweep()
    return inventory(Path("/"))


@pytest.fixture(scope="module")
def cloud(before: dict[str, list[str]]) -> Iterator[RealCloud]:
    with real_cloud(18080) as running:
        yield running


@pytest.fixture(scope="module")
def tenant(cloud: RealCloud) -> dict[str, str]:
    """A network of the user's own with a router, a group that lets ssh and ping in, a key."""
    openstack = cloud.openstack
    openstack("keypair", "create", "--public-key", f"{cloud.key}.pub", "mine")
    network = cloud.show("network", "create", "blue")["id"]
    openstack("subnet", "create", "--network", "blue", "--subnet-range", "10.77.0.0/24", "blue-v4")
    openstack("router", "create", "north")
    openstack("router", "set", "--external-gateway", "public", "north")
    openstack("router", "add", "subnet", "north", "blue-v4")
    openstack("security", "group", "create", "web")
    openstack("security", "group", "rule", "create", "--protocol", "tcp", "--dst-port", "22", "web")
    openstack("security", "group", "rule", "create", "--protocol", "icmp", "web")
    return {"network": network}


def _boot(cloud: RealCloud, name: str, *more: str) -> dict[str, object]:
    made: dict[str, object] = cloud.show(
        "server", "create", "--image", "tiny", "--flavor", "m1.nano", "--key-name", "mine", "--security-group", "web",
        *more, "--wait", name,
    )  # fmt: skip
    return made


def _floating(cloud: RealCloud, server: str) -> str:
    address: str = cloud.show("floating", "ip", "create", "public")["floating_ip_address"]
    cloud.openstack("server", "add", "floating", "ip", server, address)
    return address


def test_the_whole_thread(cloud: RealCloud, tenant: dict[str, str], before: dict[str, list[str]]) -> None:
    openstack = cloud.openstack
    at_rest = inventory(cloud.data)
    (cloud.secrets / "user-data").write_text(USER_DATA)

    # the user brings a port and a volume of their own
    port = cloud.show("port", "create", "--network", "blue", "--security-group", "web", "brought")
    fixed = port["fixed_ips"][0]["ip_address"]
    openstack("volume", "create", "--size", "1", "disk")
    until("the volume is available", lambda: cloud.show("volume", "show", "disk")["status"] == "available", 180)

    server = _boot(cloud, "first", "--port", str(port["id"]), "--user-data", str(cloud.secrets / "user-data"))
    assert server["status"] == "ACTIVE"
    address = _floating(cloud, "first")
    assert cloud.ssh(address, "hostname") == "first"
    assert f"{fixed}/24" in cloud.ssh(address, "ip -4 -o addr show dev eth0")
    assert until("user data", lambda: cloud.ssh(address, "cat /tmp/from-user-data"), 120) == "user-data-ran-on first"
    mtu = cloud.show("network", "show", "blue")["mtu"]
    assert f"mtu {mtu} " in cloud.ssh(address, "ip link show dev eth0")

    # the flow: all 29 steps, each done or skipped with a reason
    flow = json.loads(cloud.cumulet("flow", "first", "--json"))
    steps = {event["step"]: event for event in flow["events"] if event["step"]}
    assert sorted(steps) == list(range(1, 30)), sorted(set(range(1, 30)) - set(steps))
    assert all(event["error"] is None for event in flow["events"])
    assert steps[26]["skipped"]

    # a volume, hot-plugged and seen in the guest
    disks = cloud.ssh(address, "ls /sys/block | grep vd | wc -l")
    openstack("server", "add", "volume", "first", "disk")
    until("the volume is in use", lambda: cloud.show("volume", "show", "disk")["status"] == "in-use", 180)
    until(
        "the guest sees it", lambda: cloud.ssh(address, "ls /sys/block | grep vd | wc -l") == str(int(disks) + 1), 120
    )
    assert cloud.ssh(address, "cat /sys/block/vdb/size") == str(2 * 1024 * 1024)

    # a second guest on the same network
    other = _boot(cloud, "second", "--network", "blue")
    peer = str(other["addresses"]["blue"][0])  # type: ignore[index]
    until(
        "the second guest answers",
        lambda: "1 packets received" in cloud.ssh(address, f"sudo ping -c 1 -W 2 {peer} || true"),
        60,
    )

    # reboot keeps the address and the volume
    openstack("server", "reboot", "--hard", "--wait", "first")
    until("the guest is back", lambda: f"{fixed}/24" in cloud.ssh(address, "ip -4 -o addr show dev eth0"), 180)
    assert cloud.ssh(address, "cat /sys/block/vdb/size") == str(2 * 1024 * 1024)

    # delete: the user's port and volume survive, nothing else
    openstack("server", "delete", "--wait", "first", "second")
    assert cloud.show("port", "show", "brought")["device_id"] == ""
    assert cloud.show("volume", "show", "disk")["status"] == "available"
    assert cloud.show("floating", "ip", "list")
    for one in cloud.show("floating", "ip", "list"):
        openstack("floating", "ip", "delete", one["ID"])
    openstack("port", "delete", "brought")
    openstack("volume", "delete", "disk")
    until("nothing is left", lambda: inventory(cloud.data) == at_rest, 180)
    usage = cloud.show("limits", "show", "--absolute")
    used = {one["Name"]: one["Value"] for one in usage}
    assert (used["total_instances_used"], used["total_cores_used"], used["total_ram_used"]) == (0, 0, 0)
    providers = cloud.show("hypervisor", "list", cloud="cumulet-admin")
    assert len(providers) == 1
    assert not list((cloud.data / "hosts" / "node-1" / "guests").glob("*"))
    assert not list((cloud.data / "hosts" / "node-1" / "drives").glob("*"))


def test_a_guest_that_powers_itself_off_is_shutoff_and_starts_again(cloud: RealCloud, tenant: dict[str, str]) -> None:
    _boot(cloud, "tired", "--network", "blue")
    address = _floating(cloud, "tired")
    cloud.ssh(address, "sudo setsid sh -c 'sleep 1; poweroff' </dev/null >/dev/null 2>&1 &")
    until("it is SHUTOFF", lambda: cloud.show("server", "show", "tired")["status"] == "SHUTOFF", 180)
    cloud.openstack("server", "start", "tired")
    until("it is ACTIVE", lambda: cloud.show("server", "show", "tired")["status"] == "ACTIVE", 180)
    assert cloud.ssh(address, "hostname") == "tired"
    cloud.openstack("server", "delete", "--wait", "tired")
    cloud.openstack("floating", "ip", "delete", address)


def test_guests_never_notice_that_the_cloud_is_killed(cloud: RealCloud, tenant: dict[str, str]) -> None:
    _boot(cloud, "steady", "--network", "blue")
    address = _floating(cloud, "steady")
    cloud.ssh(address, "hostname")
    started = cloud.ssh(address, "cut -d. -f1 /proc/uptime")
    ping = subprocess.Popen(["ping", "-n", "-i", "0.2", address], stdout=subprocess.PIPE, text=True)
    try:
        cloud.kill_worker()
        assert int(cloud.ssh(address, "cut -d. -f1 /proc/uptime")) >= int(started)
    finally:
        ping.send_signal(2)
        told = ping.communicate(timeout=10)[0]
    answered, lost = answers(told)
    assert answered > 5
    assert lost == []
    assert cloud.show("server", "show", "steady")["status"] == "ACTIVE"
    cloud.openstack("server", "delete", "--wait", "steady")
    cloud.openstack("floating", "ip", "delete", address)


def test_a_kill_in_the_middle_of_create_and_delete_leaves_nothing(cloud: RealCloud, tenant: dict[str, str]) -> None:
    at_rest = inventory(cloud.data)
    names = [f"hasty-{number}" for number in range(3)]
    for (
        name
    ) in names:  # the worker dies while guests are at different steps: the first may run, the last has just begun
        cloud.openstack(
            "server",
            "create",
            "--image",
            "tiny",
            "--flavor",
            "m1.nano",
            "--key-name",
            "mine",
            "--network",
            "blue",
            name,
        )
    cloud.kill_worker()
    until("all settle", lambda: "BUILD" not in {one["Status"] for one in cloud.show("server", "list")}, 180)
    for name in names:
        server = cloud.show("server", "show", name)
        assert server["status"] == "ACTIVE" or (server["status"] == "ERROR" and server["fault"]), server
    cloud.openstack("server", "delete", *names)
    cloud.kill_worker()
    until("all are gone", lambda: not cloud.show("server", "list"), 180)
    until("nothing is left", lambda: inventory(cloud.data) == at_rest, 180)
    cloud.cumulet("check", "--wait", "15")  # its exit status tells


def test_nothing_that_listens_or_parses_runs_as_root(cloud: RealCloud) -> None:
    owners: dict[int, set[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            status = (process / "status").read_text()
        except OSError:
            continue
        line = b" ".join(words).decode(errors="replace")
        if str(cloud.data) not in line and not line.startswith(("dnsmasq", "/usr/sbin/dnsmasq")):
            continue
        uid = int(next(row for row in status.splitlines() if row.startswith("Uid:")).split()[2])
        owners.setdefault(uid, set()).add(line[:100])
        if uid == 0:
            sockets = run("ss", "-H", "-lntup").splitlines()
            assert not [row for row in sockets if f"pid={process.name}," in row], f"root listens: {line}"
    assert any(uid != 0 for uid in owners)
    worker = (Path("/proc") / str(cloud.worker) / "status").read_text()
    assert "Uid:\t0" not in worker
    assert "CapEff:\t0000000000000000" in worker
    assert "NoNewPrivs:\t1" in worker
    assert not [line for line in owners.get(0, set()) if "qemu" in line or "dnsmasq" in line]


def test_a_purge_leaves_the_machine_as_it_was(cloud: RealCloud) -> None:
    before = inventory(Path("/"))
    with real_cloud(18081) as second:
        second.openstack(
            "server", "create", "--image", "tiny", "--flavor", "m1.nano", "--network", "private", "--wait", "x"
        )
        during = inventory(second.data)
        mine, other = (one.show("subnet", "show", "public-subnet")["cidr"] for one in (second, cloud))
        assert mine != other, "two clouds on one machine reach each its own floating addresses"
        assert len(during["processes"]) > len(before["processes"])
        assert len(during["namespaces"]) > len(before["namespaces"])
    assert not second.data.exists()
    assert inventory(Path("/")) == before
