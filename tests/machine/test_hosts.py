# SPDX-License-Identifier: Apache-2.0
"""One controller and three hosts with real guests on one network over vxlan."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.hosts import Hosts, hosts
from tests.machine.realcloud import until
from tests.machine.tenant import GATEWAY, NETWORK, Tenant
from tests.rabbit import Node

pytestmark = [
    pytest.mark.machine, pytest.mark.postgres, pytest.mark.rabbit, pytest.mark.timeout(900),
]  # fmt: skip

HOSTS = ("one", "two", "three")
MTU = 1450
"""What is left of 1500 bytes when a packet travels in a vxlan."""


@pytest.fixture(scope="module")
def cloud(postgres: str, rabbit_broker: Node) -> Iterator[Hosts]:
    with hosts(HOSTS, postgres, rabbit_broker) as running:
        yield running


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
    providers = cloud.get("/placement/resource_providers")["resource_providers"]
    assert {one["name"] for one in providers} == set(HOSTS)


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
    until("only the friend reaches it", lambda: reached() == [two.name], 30)
    put(two.port, "web")
    put(one.port, "web", "friends")
    until("the new friend reaches it, the old one no more", lambda: reached() == [one.name], 30)
    put(one.port, "web")
    put(three.port, "web")
    until("everybody does again", lambda: reached() == [one.name, two.name], 30)
