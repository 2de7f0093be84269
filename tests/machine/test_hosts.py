# SPDX-License-Identifier: Apache-2.0
"""One controller and three hosts with real guests on one network over vxlan."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.machine.credentials import strange_secrets
from tests.machine.hosts import Hosts, hosts
from tests.machine.machines import Machine
from tests.machine.realcloud import until
from tests.machine.tenant import GATEWAY, NETWORK, SERVERS, VOLUMES, Pings, Tenant
from tests.rabbit import Node

pytestmark = [
    pytest.mark.machine, pytest.mark.postgres, pytest.mark.rabbit, pytest.mark.timeout(1800),
]  # fmt: skip

HOSTS = ("one", "two", "three")
MTU = 1450
"""What is left of 1500 bytes when a packet travels in a vxlan."""


@pytest.fixture(scope="module")
def cloud(postgres: str, rabbit_broker: Node, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    before = request.session.testsfailed
    with hosts(HOSTS, postgres, rabbit_broker) as running:
        yield running
        if request.session.testsfailed > before:
            request.config.get_terminal_writer().write(running.said())


@pytest.fixture(scope="module")
def tenant(cloud: Hosts) -> Tenant:
    """A guest on each host; those of the first two have a floating IP."""
    user = Tenant(cloud, cloud.folder / "key")
    user.settle_in()
    asked = [user.ask(f"on-{name}", name) for name in HOSTS]
    for server in asked:
        user.met(server)
    for name in HOSTS[:2]:
        user.expose(user.guests[f"on-{name}"])
    return user


def test_three_hosts_with_what_they_have(cloud: Hosts) -> None:
    listed = cloud.openstack("hypervisor", "list")
    assert sorted((one["Hypervisor Hostname"], one["State"], one["Host IP"]) for one in listed) == sorted(
        (name, "up", machine.address) for name, machine in cloud.machines.items()
    )
    agents = cloud.get(f"{NETWORK}/agents")["agents"]
    assert {one["host"]: one["configurations"]["tunneling_ip"] for one in agents if one["alive"]} == {
        name: machine.address for name, machine in cloud.machines.items()
    }


def test_placement_knows_what_each_machine_has(cloud: Hosts) -> None:
    providers = {one["name"]: one["uuid"] for one in cloud.get("/placement/resource_providers")["resource_providers"]}
    assert set(providers) == set(HOSTS)
    for name, machine in cloud.machines.items():
        socket = machine.folder / "data" / "libvirt" / "run" / "libvirt" / "libvirt-sock"
        node = machine.run(sys.executable, "-c", _NODE_INFO, f"qemu+unix:///session?socket={socket}").split()
        disk = os.statvfs(machine.folder / "data")
        memory = dict(line.split(":") for line in machine.run("cat", "/proc/meminfo").splitlines())
        cpus = len(_PROCESSOR.findall(machine.run("cat", "/proc/cpuinfo")))
        mib = int(memory["MemTotal"].split()[0]) >> 10
        assert node == [str(cpus)]  # its MiB leave out what was plugged in while the machine ran
        gib = disk.f_blocks * disk.f_frsize >> 30
        told = cloud.get(f"/placement/resource_providers/{providers[name]}/inventories")["inventories"]
        assert told == {
            "VCPU": _all_of(cpus, allocation_ratio=4.0), "MEMORY_MB": _all_of(mib, reserved=512),
            "DISK_GB": _all_of(gib),
        }  # fmt: skip


_PROCESSOR = re.compile("^processor", re.MULTILINE)
_NODE_INFO = "import libvirt, sys; print(libvirt.openReadOnly(sys.argv[1]).getInfo()[2])"
"""Processors, as libvirt counts them."""


def _all_of(total: int, **more: float) -> dict[str, float]:
    """An inventory that offers ``total`` and has published defaults else."""
    rest = {"reserved": 0, "min_unit": 1, "max_unit": total, "step_size": 1, "allocation_ratio": 1.0}
    return {"total": total, **rest, **more}


def test_a_host_holds_no_credential_but_its_own(cloud: Hosts) -> None:
    assert strange_secrets(cloud) == []


def test_how_soon_a_host_is_there(cloud: Hosts, request: pytest.FixtureRequest) -> None:
    """Told, not judged: the machine has other things to do. docs/reference/reliability.md has the numbers."""
    again = []
    for name in HOSTS:
        cloud.running[name].end(signal.SIGTERM)
        again.append(cloud.rejoin(name))
        cloud.running[name].ready()
    first = [cloud.joined[name] for name in HOSTS]
    for what, seconds in (("joined", first), ("there again", again)):
        told = f"{what} after {', '.join(f'{one:.1f}' for one in seconds)} s (load {os.getloadavg()[0]:.1f})"
        request.config.get_terminal_writer().write(f"\n{told} ")


def test_guests_on_three_hosts_share_a_network(cloud: Hosts, tenant: Tenant) -> None:
    assert {guest.host for guest in tenant.guests.values()} == set(HOSTS)
    for guest in tenant.guests.values():
        # its key, with which we are here, and its name came from the metadata address, which is on one host only
        assert tenant.ssh(guest, "hostname") == guest.name
        link = tenant.ssh(guest, "ip link show dev eth0; ip -4 -o addr show dev eth0")
        assert f"mtu {MTU} " in link
        assert f" {guest.address}/24 " in link
        others = {other.address: MTU for other in tenant.guests.values() if other is not guest}
        assert tenant.answers(guest, others) == list(others), guest.name
        assert tenant.answers(guest, {GATEWAY: MTU}) == [GATEWAY], "out by its floating IP, or by the router's address"
    floating = [guest.floating for guest in tenant.guests.values() if guest.floating]
    last = tenant.guests["on-three"]
    assert tenant.answers(last, dict.fromkeys(floating, MTU)) == floating, "by floating IPs, whatever host"
    assert cloud.check() == []


def test_one_host_serves_dhcp_and_routes(cloud: Hosts, tenant: Tenant) -> None:
    def spaces(kind: str, key: str) -> list[str]:
        return [name for name, one in cloud.machines.items() if f"{kind}-{key}" in one.run("ip", "netns", "list")]

    assert len(spaces("qdhcp", tenant.network)) == 1
    assert len(spaces("qrouter", tenant.router)) == 1
    servers = [one.run("ps", "-wweo", "args").count(tenant.network) for one in cloud.machines.values()]
    assert sorted(servers) == [0, 0, 1], "one dnsmasq for one network"
    assert strange_secrets(cloud) == [], "with guests, networks and their metadata, too"


def test_a_group_counts_its_members_on_other_hosts(cloud: Hosts, tenant: Tenant) -> None:
    one, two, three = (tenant.guests[f"on-{name}"] for name in HOSTS)
    tenant.group("friends")
    ssh = {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22}
    tenant.group("shy", ssh, {"protocol": "icmp", "remote_group_id": tenant.groups["friends"]})

    def put(port: str, *groups: str) -> None:
        change = {"port": {"security_groups": [tenant.groups[name] for name in groups]}}
        assert cloud.request("PUT", f"{NETWORK}/ports/{port}", change).status == 200

    def reached() -> list[str]:
        return [guest.name for guest in (one, two) if tenant.answers(guest, {three.address: 100})]

    put(three.port, "shy")
    put(two.port, "web", "friends")
    until("only the friend reaches it", lambda: reached() == [two.name], 180)
    put(two.port, "web")
    put(one.port, "web", "friends")
    until("the new friend reaches it, the old one no more", lambda: reached() == [one.name], 180)
    put(one.port, "web")
    put(three.port, "web")
    until("everybody does again", lambda: reached() == [one.name, two.name], 180)


def test_guests_never_notice_what_dies_around_them(cloud: Hosts, tenant: Tenant) -> None:
    """Ten pings a second go through the router's host, a tunnel and the guest's host, whatever is killed on both."""
    gateway, guest = tenant.gateway, tenant.guests["on-two"]
    tenant.ssh(guest, "true")
    pings = Pings(gateway, guest.floating)
    try:
        for name in (guest.host, gateway.name):
            machine, agents = cloud.machines[name], cloud.running[name]
            worker = agents.worker()
            machine.run("kill", "-9", str(worker))
            until("the agents are there again", partial(_differs, agents.worker, worker), 180)
            libvirtd = _libvirtd(machine)
            machine.run("kill", "-9", str(libvirtd))
            until("libvirtd is there again", partial(_differs, partial(_libvirtd, machine), libvirtd), 180)
            agents.end(signal.SIGKILL)
            cloud.start_host(name).ready()
        for key in [key for key in cloud.running if key not in cloud.machines]:
            cloud.running[key].end(signal.SIGKILL)
            cloud.restart_control(key).ready()
        cloud.running[guest.host].end(signal.SIGTERM)
        cloud.start_host(guest.host).ready()
    finally:
        answered, lost = pings.stop()
    assert answered > 100
    assert lost == []
    until("the cloud is clean", lambda: cloud.check() == [], 180)


def _differs(now: Callable[[], int], before: int) -> bool:
    return now() not in (0, before)


def _lacks(machine: Machine, word: str, *argv: str) -> bool:
    return word not in machine.run(*argv)


def _libvirtd(machine: Machine) -> int:
    """The pid of the machine's libvirtd that answers; 0: none does."""
    record = json.loads((machine.folder / "data" / "libvirt" / "libvirtd.json").read_text())
    return int(record["pid"]) if machine.run("ps", "-o", "comm=", "-p", str(record["pid"]), check=False) else 0


def test_after_a_power_cut_guests_are_there_again(cloud: Hosts, tenant: Tenant) -> None:
    """All hosts at once; the one with the volume has even forgotten which guests it had."""
    volume = cloud.make("/volume/v3/volumes", "volume", {"size": 1, "name": "disk"})["id"]
    forgetful = cloud.settle(f"{VOLUMES}/{volume}", "volume", ["available"])["os-vol-host-attr:host"].partition("@")[0]
    writer = tenant.guests[f"on-{forgetful}"]
    asleep, other = (guest for guest in tenant.guests.values() if guest is not writer)
    attachment = {"volumeAttachment": {"volumeId": volume}}
    assert cloud.request("POST", f"{SERVERS}/{writer.id}/os-volume_attachments", attachment).status == 200
    cloud.settle(f"{VOLUMES}/{volume}", "volume", ["in-use"])
    until("the guest sees it", lambda: "vdb" in tenant.ssh(writer, "ls /sys/block"), 400)
    tenant.ssh(writer, "echo kept | sudo dd of=/dev/vdb conv=fsync; echo mine > note; sync")
    assert cloud.request("POST", f"{SERVERS}/{asleep.id}/action", {"os-stop": None}).status == 202
    cloud.settle(f"{SERVERS}/{asleep.id}", "server", ["SHUTOFF"], 120)

    for machine in cloud.machines.values():
        machine.power_cut()
    shutil.rmtree(cloud.machines[forgetful].folder / "data" / "libvirt")
    for name in cloud.machines:
        cloud.power_on(name)

    for guest in (writer, other):
        assert int(tenant.ssh(guest, "cut -d. -f1 /proc/uptime", within=400)) < 600
        assert f" {guest.address}/24 " in tenant.ssh(guest, "ip -4 -o addr show dev eth0")
    assert tenant.ssh(writer, "sudo dd if=/dev/vdb bs=5 count=1 2>/dev/null; cat note").split() == ["kept", "mine"]
    assert tenant.answers(writer, {other.address: MTU}) == [other.address]
    assert cloud.get(f"{SERVERS}/{asleep.id}")["server"]["status"] == "SHUTOFF"
    until("the cloud is clean", lambda: cloud.check() == [], 180)
    assert cloud.request("POST", f"{SERVERS}/{asleep.id}/action", {"os-start": None}).status == 202
    assert tenant.ssh(asleep, "hostname") == asleep.name


def test_everything_goes_again(cloud: Hosts, tenant: Tenant) -> None:
    for guest in tenant.guests.values():
        assert cloud.request("DELETE", f"{SERVERS}/{guest.id}").status == 204
    until("the servers are gone", lambda: not cloud.get(SERVERS)["servers"], 180)
    for machine in cloud.machines.values():
        until("no guest is left", partial(_lacks, machine, "qemu", "ps", "-eo", "comm"), 180)
        until("no tap is left", partial(_lacks, machine, "tap", "ip", "-br", "link"), 180)
    until("the cloud is clean", lambda: cloud.check() == [], 180)
