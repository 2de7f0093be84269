# SPDX-License-Identifier: Apache-2.0
"""The agent of a host: what is wanted is there, what is not wanted is not, and compute is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from sqlalchemy import update

from cumulet.kernel import clock
from cumulet.network import models as m
from cumulet.network.agent import NetworkAgent
from cumulet.network.drivers.model import GroupPlan, NetworkPlan, PortPlan, RouterPlan, RulePlan
from cumulet.network.drivers.simulated import Failure, Knobs, SimulatedNetwork
from cumulet.network.logic import agents
from tests.contract.image.lone import SERVICE, Lone, lone_service, project
from tests.contract.network.conftest import Net

STRAY = RulePlan("ingress", "IPv4", group="stray")


class Told:
    """Identity and compute as far as network speaks to them: a token, and what compute was told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.headers: Mapping[str, str] = {"x-subject-token": "t"}
        self.status = 0

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, timeout: float = 60.0
    ) -> Told:
        reply = Told()
        reply.status = 200
        if path.startswith("/v3/auth/tokens"):
            reply.status = 201
        else:
            assert (method, path) == ("POST", "/v2.1/os-server-external-events")
            self.events += orjson.loads(body)["events"]
        return reply

    async def read(self) -> bytes:
        return b'{"token": {"expires_at": "2999-01-01T00:00:00.000000Z"}}'


class Site:
    """A service, its agent on node-1, and the agent's simulated data plane."""

    def __init__(self, lone: Lone, told: Told) -> None:
        self.lone, self.net, self.told = lone, Net(lone), told
        self.service = self.net.by(SERVICE)
        self.driver: SimulatedNetwork = lone.parts.options["network_drivers"]["node-1"]

    async def port(self, network_id: str, host: str = "node-1", device: str = "s1", **more: Any) -> dict[str, Any]:
        binding = {"binding__host_id": host, "device_id": device, "device_owner": "compute:nova"}
        return await self.service.make("/ports", network_id=network_id, project_id=project("demo"), **binding, **more)

    def plan(self, port_id: str) -> PortPlan:
        return self.driver.plans.ports[port_id]


async def until(true: Callable[[], bool]) -> None:
    """Return as soon as it holds; fails after two minutes, for a machine may be busy."""
    async with asyncio.timeout(120):
        while not true():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(data: Path) -> AsyncIterator[Site]:
    told = Told()
    roles = {"network-api", "network-agent"}
    others = {"identity": told, "compute": told}
    async with lone_service("network", data, roles, mount="/network", others=others) as lone:
        site = Site(lone, told)
        async with asyncio.timeout(120):
            while not (await site.net.admin.get("/agents")).json["agents"]:
                await asyncio.sleep(0.005)
        yield site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with running(tmp_path) as site:
        yield site


async def test_a_port_and_what_it_needs(site: Site) -> None:
    network_id, subnet_id = await site.net.network("10.1.0.0/24")
    pairs = [{"ip_address": "10.1.0.20"}]
    boot = [{"opt_name": "tftp-server", "opt_value": "10.1.0.9"}, {"opt_name": "x", "opt_value": "6", "ip_version": 6}]
    port = await site.port(network_id, allowed_address_pairs=pairs, dns_name="web", extra_dhcp_opts=boot)
    await site.net.eventually(f"/ports/{port['id']}", status="ACTIVE")
    plan = site.plan(port["id"])
    address = port["fixed_ips"][0]["ip_address"]
    assert (plan.mac, plan.addresses, plan.tap) == (port["mac_address"], [address], "tap" + port["id"][:11])
    assert (plan.mtu, plan.admin_up, plan.port_security) == (1450, True, True)
    assert plan.allowed_pairs == [("10.1.0.20", port["mac_address"])]
    ingress = [rule for rule in plan.rules if rule.direction == "ingress"]
    assert {(rule.ethertype, rule.remotes) for rule in ingress} == {("IPv4", None), ("IPv6", None)}
    (default,) = {rule.group for rule in ingress}
    assert site.driver.plans.groups[str(default)].addresses == sorted([address, "10.1.0.20"])
    network: NetworkPlan = site.driver.plans.networks[network_id]
    assert (network.external, network.peers) == (False, [])
    (subnet,) = network.subnets
    assert (subnet.id, subnet.cidr, subnet.gateway, subnet.dhcp) == (subnet_id, "10.1.0.0/24", "10.1.0.1", True)
    assert network.dhcp_port is not None
    (lease,) = network.leases
    assert (lease.mac, lease.address, lease.hostname) == (port["mac_address"], address, "web")
    assert lease.options == [("tftp-server", "10.1.0.9")]
    (dhcp,) = (await site.net.get("/ports?device_owner=network:dhcp")).json["ports"]
    assert network.dhcp_port == (dhcp["id"], dhcp["mac_address"], [dhcp["fixed_ips"][0]["ip_address"]])
    await site.net.eventually(f"/ports/{dhcp['id']}", status="ACTIVE")


async def test_compute_hears_that_a_port_is_up(site: Site) -> None:
    network_id, _ = await site.net.network("10.1.0.0/24")
    port = await site.port(network_id, device="server-7")
    event = {"name": "network-vif-plugged", "server_uuid": "server-7", "tag": port["id"], "status": "completed"}
    await until(lambda: event in site.told.events)
    await site.service.put(f"/ports/{port['id']}", {"port": {"binding:host_id": ""}})
    gone = {**event, "name": "network-vif-unplugged"}
    await until(lambda: gone in site.told.events)
    await until(lambda: port["id"] not in site.driver.plans.ports)


async def test_binding_to_up_waits_for_no_timer(site: Site) -> None:
    network_id, _ = await site.net.network("10.1.0.0/24")
    await site.net.eventually(f"/networks/{network_id}", availability_zones=["nova"])
    port = await site.net.make("/ports", network_id=network_id)
    began = time.monotonic()
    await site.service.put(f"/ports/{port['id']}", {"port": {"binding:host_id": "node-1"}})
    await site.net.eventually(f"/ports/{port['id']}", status="ACTIVE")
    assert time.monotonic() - began < 10  # the agent looks every 20 s by itself; usually these are milliseconds


async def test_again_and_again_bound(site: Site) -> None:
    """A binding that went and came back between two looks of the agent is reported all the same."""
    network_id, _ = await site.net.network("10.1.0.0/24")
    port = await site.port(network_id)
    path = f"/ports/{port['id']}"
    await site.net.eventually(path, status="ACTIVE")
    for _ in range(5):
        await site.service.put(path, {"port": {"binding:host_id": ""}})
        await site.service.put(path, {"port": {"binding:host_id": "node-1"}})
        await site.net.eventually(path, status="ACTIVE")


async def test_a_failure_is_told_and_tried_again(site: Site) -> None:
    network_id, _ = await site.net.network("10.1.0.0/24")
    site.driver.knobs = Knobs(failures=[Failure("ensure_port", occurrence=1, message="no room")])
    port = await site.port(network_id, device="server-7")
    event = {"name": "network-vif-plugged", "server_uuid": "server-7", "tag": port["id"]}
    await until(lambda: {**event, "status": "failed"} in site.told.events)
    await until(lambda: {**event, "status": "completed"} in site.told.events)
    assert (await site.net.show(f"/ports/{port['id']}"))["status"] == "ACTIVE"


async def test_one_bad_port_stops_no_other(site: Site) -> None:
    network_id, _ = await site.net.network("10.1.0.0/24")
    bad = "11111111-2222-4333-8444-555555555555"
    site.driver.knobs = Knobs(failures=[Failure("ensure_port", id=bad)])
    await site.port(network_id, id=bad)
    good = await site.port(network_id)
    await site.net.eventually(f"/ports/{good['id']}", status="ACTIVE")
    assert (await site.net.show(f"/ports/{bad}"))["status"] == "DOWN"


async def test_what_is_deleted_goes(site: Site) -> None:
    network_id, _ = await site.net.network("10.1.0.0/24")
    port = await site.port(network_id)
    await site.net.eventually(f"/ports/{port['id']}", status="ACTIVE")
    await site.service.delete(f"/ports/{port['id']}")
    await until(lambda: port["id"] not in site.driver.plans.ports)
    assert site.driver.plans.networks[network_id].leases == []
    await site.net.delete(f"/networks/{network_id}")
    await until(lambda: not site.driver.plans.networks)


async def test_a_plan_that_is_refused_keeps_nothing_else_here(site: Site) -> None:
    """One tenant's network that the driver can't make, and another's that is deleted."""
    network_id, _ = await site.net.network("10.1.0.0/24")
    port = await site.port(network_id)
    await site.net.eventually(f"/ports/{port['id']}", status="ACTIVE")
    groups = set(site.driver.plans.groups)
    assert groups
    bad, _ = await site.net.network("10.2.0.0/24")
    site.driver.knobs = Knobs(failures=[Failure("ensure_network", id=bad)])
    await site.port(bad, security_groups=[])
    await site.service.delete(f"/ports/{port['id']}")
    await site.net.delete(f"/networks/{network_id}")
    await until(lambda: not site.driver.plans.networks and not groups & set(site.driver.plans.groups))


async def test_groups_change_the_rules_of_others(site: Site) -> None:
    network_id, _ = await site.net.network("10.1.0.0/24")
    web = await site.net.make("/security-groups", name="web")
    db = await site.net.make("/security-groups", name="db")
    await site.net.make(
        "/security-group-rules", security_group_id=db["id"], direction="ingress", protocol="tcp", port_range_min=5432,
        port_range_max=5432, remote_group_id=web["id"],
    )  # fmt: skip
    database = await site.port(network_id, security_groups=[db["id"]])

    def remotes() -> list[str] | None:
        plan = site.driver.plans.ports.get(database["id"])
        found = [rule.group for rule in plan.rules if rule.port_min == 5432] if plan else []
        there = site.driver.plans.groups
        return there[str(found[0])].addresses if found and found[0] in there else None

    await until(lambda: remotes() == [])
    member = await site.port(network_id, security_groups=[web["id"]])
    address = member["fixed_ips"][0]["ip_address"]
    await until(lambda: remotes() == [address])
    unbound = await site.net.make("/ports", network_id=network_id, security_groups=[web["id"]])
    both = sorted([address, unbound["fixed_ips"][0]["ip_address"]])
    await until(lambda: remotes() == both)
    await site.service.put(f"/ports/{member['id']}", {"port": {"security_groups": []}})
    await until(lambda: remotes() == [unbound["fixed_ips"][0]["ip_address"]])
    (rule,) = (await site.net.get(f"/security-group-rules?remote_group_id={web['id']}")).json["security_group_rules"]
    await site.net.delete(f"/security-group-rules/{rule['id']}")
    await until(lambda: web["id"] not in site.driver.plans.groups)


async def test_a_member_more_changes_one_set_and_no_port(site: Site) -> None:
    """A group that names itself is O(n), not O(n²): no rule of the others is touched."""
    network_id, _ = await site.net.network("10.1.0.0/24")
    first = [await site.port(network_id) for _ in range(3)]
    for port in first:
        await site.net.eventually(f"/ports/{port['id']}", status="ACTIVE")
    calls: list[str] = []
    ensure = site.driver.ensure_port

    async def counted(plan: PortPlan) -> None:
        calls.append(plan.id)
        await ensure(plan)

    site.driver.ensure_port = counted  # type: ignore[method-assign]
    another = await site.port(network_id)
    await site.net.eventually(f"/ports/{another['id']}", status="ACTIVE")
    (default,) = site.driver.plans.groups.values()
    assert len(default.addresses) == 4
    assert calls == [another["id"]]


async def test_groups_that_nobody_names_go_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        network_id, _ = await site.net.network("10.1.0.0/24")
        port = await site.port(network_id)
        await site.net.eventually(f"/ports/{port['id']}", status="ACTIVE")
    before = SimulatedNetwork(state_file=tmp_path / "hosts" / "node-1" / "network.json")
    await before.open()
    assert len(before.plans.groups) == 1
    await before.ensure_group(GroupPlan("stray", ["10.1.0.7"]))
    await before.ensure_port(msgspec.structs.replace(before.plans.ports[port["id"]], rules=[STRAY]))
    async with running(tmp_path) as site:
        await until(lambda: list(site.driver.plans.groups) == list(before.plans.groups)[:1])
        assert "stray" not in {rule.group for rule in site.plan(port["id"]).rules}


async def test_a_router_with_a_floating_ip(site: Site) -> None:
    net = site.net
    external = await net.external("198.51.100.0/24")
    network_id, subnet_id = await net.network("10.1.0.0/24")
    router = await net.make("/routers", external_gateway_info={"network_id": external})
    await net.put(f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet_id})
    port = await site.port(network_id)
    floating = await net.make("/floatingips", floating_network_id=external, port_id=port["id"])
    await net.eventually(f"/floatingips/{floating['id']}", status="ACTIVE")
    plan: RouterPlan = site.driver.plans.routers[router["id"]]
    assert plan.gateway is not None
    (outside,) = router["external_gateway_info"]["external_fixed_ips"]
    assert plan.gateway.addresses == [outside["ip_address"] + "/24"]
    assert (plan.gateway_next_hop, plan.snat) == ("198.51.100.1", True)
    assert [one.addresses for one in plan.interfaces] == [["10.1.0.1/24"]]
    (pair,) = plan.floating
    assert (pair.floating, pair.fixed) == (floating["floating_ip_address"], floating["fixed_ip_address"])
    assert site.driver.plans.networks[external].external
    changed = {"name": "network-changed", "server_uuid": "s1", "tag": port["id"], "status": "completed"}
    await until(lambda: changed in site.told.events)
    await net.put(f"/floatingips/{floating['id']}", {"floatingip": {"port_id": None}})
    await until(lambda: site.driver.plans.routers[router["id"]].floating == [])


async def test_a_restart_changes_nothing_and_strays_go(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        network_id, _ = await site.net.network("10.1.0.0/24")
        port = await site.port(network_id)
        await site.net.eventually(f"/ports/{port['id']}", status="ACTIVE")
    stray = SimulatedNetwork(state_file=tmp_path / "hosts" / "node-1" / "network.json")
    await stray.open()
    before = (dict(stray.plans.networks), dict(stray.plans.ports))
    await stray.ensure_port(PortPlan("stray", network_id, "fa:16:3e:00:00:09", ["10.1.0.9"], 1450, "tapstray"))
    async with running(tmp_path) as site:
        await until(lambda: "stray" not in site.driver.plans.ports)
        await until(lambda: (site.driver.plans.networks, site.driver.plans.ports) == before)
        assert (await site.net.show(f"/ports/{port['id']}"))["status"] == "ACTIVE"


@pytest.mark.parametrize("kind", ["router", "port", "network", "group"])
async def test_a_stray_that_stays_stops_nothing_else(site: Site, kind: str) -> None:
    """What nobody wants and what can't be removed: everything else goes on, and so do the tries."""
    network_id, _ = await site.net.network("10.1.0.0/24")
    old = await site.port(network_id)
    await site.net.eventually(f"/ports/{old['id']}", status="ACTIVE")
    driver = site.driver
    driver.knobs = Knobs(failures=[Failure(f"drop_{kind}", id="stray")])
    await driver.ensure_network(NetworkPlan("stray", 4000, 1450, external=False))
    await driver.ensure_port(PortPlan("stray", network_id, "fa:16:3e:00:00:09", ["10.1.0.9"], 1450, "tapstray"))
    await driver.ensure_router(RouterPlan("stray"))
    await driver.ensure_group(GroupPlan("stray", ["10.1.0.7"]))
    (role,) = [role for role in site.lone.service.roles if role.name == "network-agent"]
    agent = role.tasks[0]
    assert isinstance(agent, NetworkAgent)
    agent._look_at = 0.0  # the timer's turn
    agent.loop.poke()
    fresh = await site.port(network_id)
    await site.net.eventually(f"/ports/{fresh['id']}", status="ACTIVE")
    await site.service.delete(f"/ports/{old['id']}")
    plans: dict[str, dict[str, Any]] = {"router": driver.plans.routers, "port": driver.plans.ports}
    plans |= {"group": driver.plans.groups, "network": driver.plans.networks}
    await until(lambda: old["id"] not in driver.plans.ports)
    # a network stays as long as something that may stand on it can't go
    await until(lambda: {one for one, there in plans.items() if "stray" in there} - {"network"} == {kind} - {"network"})
    driver.knobs = Knobs()
    agent.loop.poke()
    await until(lambda: not any("stray" in there for there in plans.values()))


async def test_what_vanished_from_the_host_comes_back(site: Site) -> None:
    network_id, _ = await site.net.network("10.1.0.0/24")
    port = await site.port(network_id)
    await site.net.eventually(f"/ports/{port['id']}", status="ACTIVE")
    (role,) = [role for role in site.lone.service.roles if role.name == "network-agent"]
    agent = role.tasks[0]
    assert isinstance(agent, NetworkAgent)
    await site.driver.drop_port(port["id"])
    agent._look_at = 0.0  # the timer's turn
    agent.loop.poke()
    await until(lambda: port["id"] in site.driver.plans.ports)


@asynccontextmanager
async def second_host(site: Site) -> AsyncIterator[SimulatedNetwork]:
    driver = SimulatedNetwork()
    agent = NetworkAgent(site.lone.parts.bus, driver, "node-2", tunnel_address="192.0.2.2")
    await agent.start()
    async with asyncio.timeout(120):
        while len((await site.net.admin.get("/agents")).json["agents"]) < 2:
            await asyncio.sleep(0.005)
    yield driver
    await agent.stop()


async def test_two_hosts_know_each_other(site: Site) -> None:
    network_id, _ = await site.net.network("10.1.0.0/24")
    async with second_host(site) as other:
        here, there = await site.port(network_id), await site.port(network_id, host="node-2")
        await site.net.eventually(f"/ports/{there['id']}", status="ACTIVE")
        await until(lambda: site.driver.plans.networks[network_id].peers == ["192.0.2.2"])
        assert set(other.plans.ports) == {there["id"]}
        assert (other.plans.networks[network_id].dhcp_port, other.plans.networks[network_id].leases) == (None, [])
        await until(lambda: len(site.driver.plans.networks[network_id].leases) == 2)
        await site.service.put(f"/ports/{here['id']}", {"port": {"binding:host_id": "node-2"}})
        await until(lambda: set(other.plans.ports) == {here["id"], there["id"]})
        await until(lambda: not site.driver.plans.ports)
        await site.net.eventually(f"/ports/{here['id']}", status="ACTIVE")


async def test_a_late_report_changes_nothing(site: Site) -> None:
    from cumulet.network.logic import reports
    from cumulet.network.rpc import Report

    network_id, _ = await site.net.network("10.1.0.0/24")
    port = await site.service.make("/ports", network_id=network_id, binding__host_id="nowhere")
    await reports.apply(site.lone.inner, Report("node-1", up=[port["id"]]))
    assert (await site.net.admin.show(f"/ports/{port['id']}"))["status"] == "DOWN"


async def test_duties_move_from_a_lost_host_only(site: Site) -> None:
    net, inner = site.net, site.lone.inner
    network_id, subnet_id = await net.network("10.1.0.0/24")
    router = await net.make("/routers")
    await net.put(f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet_id})
    await until(lambda: router["id"] in site.driver.plans.routers)

    async def silent(seconds: float) -> None:
        async def body(work: Any) -> None:
            statement = update(m.AGENTS).where(m.AGENTS.c.host == "node-1")
            await work.tx.run(statement.values(heartbeat_at=clock.now() - seconds))

        await inner.change(agents.NOBODY, body)
        await agents.place(inner)

    (role,) = [role for role in site.lone.service.roles if role.name == "network-agent"]
    async with second_host(site) as other:
        await role.tasks[0].stop()
        await silent(100)  # dead, but perhaps only for a moment
        assert router["id"] not in other.plans.routers
        await silent(400)
        await until(lambda: router["id"] in other.plans.routers)
        await until(lambda: other.plans.networks[network_id].dhcp_port is not None)
        await role.tasks[0].start()  # the lost host comes back and learns that it has no duty any more
        await until(lambda: not site.driver.plans.routers and not site.driver.plans.networks)
