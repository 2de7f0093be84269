# SPDX-License-Identifier: Apache-2.0
"""One network on one host: bridge, tunnel, DHCP namespace, and the host's own routes kept clean of it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from cumulet.kernel.host.model import HostError
from cumulet.network.drivers.bridge import dhcp, filters, links, naming
from cumulet.network.drivers.bridge.naming import METADATA, Names
from cumulet.network.drivers.bridge.site import Site, changing
from cumulet.network.drivers.model import NetworkPlan

_ZONES = 0xFFFF
_VXLAN_PORT = 4789


def ensure_network(site: Site, plan: NetworkPlan) -> int:
    """Make the network whole on this host; return the inode of its DHCP namespace, 0 when it has none here."""
    names = Names(site.cloud)
    naming.identifier(plan.id)
    naming.number(plan.segment, 1, 2**24 - 1, "a segment")
    naming.number(plan.mtu, 68, 65535, "an MTU")
    dhcp.render(plan, Path(names.directory), site.domain, "")  # a wrong value is refused before anything is changed
    peers = {str(naming.address(peer)) for peer in plan.peers}
    if peers and site.underlay is None:
        raise HostError("this host has no underlay address, but the network has other hosts")
    with changing() as ip:
        _guard_ranges(ip, names, plan)
        bridge, zone = _ensure_bridge(ip, names, plan)
        filters.change(
            names,
            filters.base(names, site.reachable),
            filters.network(names, names.bridge(plan.id), zone, public=plan.external),
        )
        gateways = _gateways(plan)
        links.ensure_addresses(ip, bridge["index"], gateways)
        _ensure_tunnel(ip, site, names, plan, bridge["index"], peers)
        if plan.dhcp_port is None:
            _drop_dhcp(ip, names, plan.id)
            return 0
        return _ensure_dhcp(ip, site, names, plan, bridge["index"])


def drop_network(site: Site, network_id: str) -> None:
    """Remove the network from this host; its blackhole routes stay."""
    names = Names(site.cloud)
    with changing() as ip:
        bridge, tunnel = names.bridge(naming.identifier(network_id)), names.tunnel(network_id)
        filters.change(
            names,
            filters.forget_network(names, bridge),
            filters.distrust(names, tunnel),
            filters.distrust(names, names.dhcp_link(network_id)),
        )
        _drop_dhcp(ip, names, network_id)
        for link in (tunnel, bridge):
            links.drop_link(ip, link)


def open_metadata(site: Site, network_id: str) -> socket.socket:
    """A socket that listens on the metadata address inside the network's DHCP namespace."""
    names = Names(site.cloud)
    with links.inside(names.dhcp_namespace(naming.identifier(network_id))):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((METADATA, 80))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _ensure_bridge(ip: Any, names: Names, plan: NetworkPlan) -> tuple[Any, int]:
    name = names.bridge(plan.id)
    bridge = links.ensure_link(
        ip,
        name,
        "bridge",
        address=_mac_of(name),
        br_forward_delay=0,
        br_stp_state=0,
        br_mcast_snooping=0,
        br_nf_call_iptables=1,  # on our own bridges only, whatever the host's switch for all of them says
        br_nf_call_ip6tables=1,
    )
    ours = [alias.split(":") for alias in links.aliases(ip, "cumulet:")]
    zones = {(alias[1], alias[3]): int(alias[4]) for alias in ours if alias[2] == "network" and len(alias) == 5}
    mine = (names.prefix, plan.id)
    zone = zones.get(mine) or next(n for n in range(1, _ZONES) if n not in zones.values())
    if not plan.external or not any(entry.version == 6 for entry in _gateways(plan)):
        links.quiet_ipv6(name)
    else:
        links.sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0")
        links.sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")
        links.sysctl(f"net/ipv6/conf/{name}/addr_gen_mode", "1")
    # The host must not answer for addresses that it has elsewhere, nor believe a source from elsewhere.
    links.sysctl(f"net/ipv4/conf/{name}/arp_ignore", "1" if plan.external else "8")
    links.sysctl(f"net/ipv4/conf/{name}/rp_filter", "1")
    links.settle_link(ip, bridge, mtu=plan.mtu, up=True, alias=names.alias("network", plan.id, str(zone)))
    return bridge, zone


def _mac_of(name: str) -> str:
    """A locally administered MAC that stays the same, so that a bridge does not change its own with its ports."""
    digits = name[-8:] + name[1:3]
    return "02:" + ":".join(digits[i : i + 2] for i in range(0, 10, 2))


def _gateways(plan: NetworkPlan) -> list[naming.Interface]:
    """The gateway addresses that the public network's bridge carries on this host."""
    if not plan.external:
        return []
    return [
        naming.interface(f"{naming.address(subnet.gateway)}/{naming.cidr(subnet.cidr).prefixlen}")
        for subnet in plan.subnets
        if subnet.gateway is not None
    ]


def _guard_ranges(ip: Any, names: Names, plan: NetworkPlan) -> None:
    """Blackhole the plan's ranges on the host, so that no packet for a guest ever leaves by an uplink.

    A tenant may choose any range for a network of his own. He must not take
    the host's own network, or a part of the Internet, away from the host: such
    a tenant's range gets no route (guests' packets are never routed by the
    host anyway). Nor may he take a part of the public network away. A public
    range that the host uses already is refused.
    """
    own = {link["index"] for link in ip.get_links() if names.link_pattern.fullmatch(link.get_attr("IFLA_IFNAME"))}
    taken = links.foreign_ranges(ip, own if plan.external else set())
    wanted = []
    for entry in (naming.cidr(subnet.cidr) for subnet in plan.subnets):
        clash = next((f"{r} on {link}" for r, link in taken if r.version == entry.version and r.overlaps(entry)), None)
        if clash is None and (plan.external or not entry.is_global):
            wanted.append(entry)
        elif clash is not None and plan.external:
            raise HostError(f"the public range {entry} is in use on this host already ({clash}); choose another")
    if plan.external:
        links.drop_blackholes(ip, names.metric, inside=wanted)
    links.ensure_blackholes(ip, wanted, names.metric)


def _ensure_tunnel(ip: Any, site: Site, names: Names, plan: NetworkPlan, bridge: int, peers: set[str]) -> None:
    name = names.tunnel(plan.id)
    if site.underlay is None:
        _drop_trusted(ip, names, name)
        return
    local = str(naming.address(site.underlay))
    link = links.find_link(ip, name)
    if link is not None and _tunnel_key(link) != (plan.segment, local):
        links.drop_link(ip, name)
    family = "vxlan_local" if ":" not in local else "vxlan_local6"
    link = links.ensure_link(
        ip, name, "vxlan", vxlan_id=plan.segment, vxlan_port=_VXLAN_PORT, vxlan_learning=1, **{family: local}
    )
    links.quiet_ipv6(name)
    filters.change(names, filters.trust(names, name))
    links.settle_link(ip, link, mtu=plan.mtu, up=True, alias=names.alias("tunnel", plan.id), master=bridge)
    flood, index = "00:00:00:00:00:00", link["index"]
    want = peers - {local}
    entries = ip.fdb("dump", ifindex=index)
    have = {entry.get_attr("NDA_DST") for entry in entries if entry.get_attr("NDA_LLADDR") == flood}
    for peer in want - have:
        ip.fdb("append", ifindex=index, lladdr=flood, dst=peer)
    for peer in have - want - {None}:
        ip.fdb("del", ifindex=index, lladdr=flood, dst=peer)


def _tunnel_key(link: Any) -> tuple[int | None, str | None]:
    data = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    return data.get_attr("IFLA_VXLAN_ID"), data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6")


def _ensure_dhcp(ip: Any, site: Site, names: Names, plan: NetworkPlan, bridge: int) -> int:
    assert plan.dhcp_port is not None
    namespace, outer = names.dhcp_namespace(plan.id), names.dhcp_link(plan.id)
    addresses = dhcp.server_addresses(plan)
    inode = links.ensure_namespace(namespace)
    link = links.ensure_veth(ip, outer, namespace, dhcp.LINK)
    links.quiet_ipv6(outer)
    filters.change(names, filters.trust(names, outer))
    links.settle_link(ip, link, mtu=plan.mtu, up=True, alias=names.alias("dhcp", plan.id), master=bridge)
    with links.inside(namespace), links.netlink() as there:
        inner = links.find_link(there, dhcp.LINK)
        # A new link or namespace means new settings below, and so a new dnsmasq.
        place = f"# namespace {inode}, link {inner['index']}"
        links.settle_link(there, inner, mtu=plan.mtu, up=True, mac=naming.mac_address(plan.dhcp_port[1]))
        links.ensure_addresses(there, inner["index"], [*addresses, naming.interface(f"{METADATA}/32")])
    if any(subnet.dhcp for subnet in plan.subnets):
        dhcp.ensure_server(names, plan, site.domain, place)
    else:
        dhcp.drop_server(names, plan.id)
    return inode


def _drop_dhcp(ip: Any, names: Names, network_id: str) -> None:
    dhcp.drop_server(names, network_id)
    _drop_trusted(ip, names, names.dhcp_link(network_id))
    links.drop_namespace(names.dhcp_namespace(network_id))


def _drop_trusted(ip: Any, names: Names, name: str) -> None:
    if links.find_link(ip, name) is not None:
        filters.change(names, filters.distrust(names, name))
        links.drop_link(ip, name)
