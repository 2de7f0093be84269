# SPDX-License-Identifier: Apache-2.0
"""One router in a namespace of its own: interfaces, address translation, floating IPs, routes.

Invariant: the namespace holds exactly what the plan says, changed in place, so
that connections through the router go on while another floating IP comes or
goes; a floating IP that goes, or moves to another port, takes its open
connections with it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from cumulet.kernel.host.model import HostError
from cumulet.network.drivers.bridge import filters, links, naming
from cumulet.network.drivers.bridge.links import Route
from cumulet.network.drivers.bridge.naming import Interface, Names
from cumulet.network.drivers.model import RouterInterface, RouterPlan

_TABLE = "ip cumulet"


def ensure_router(names: Names, plan: RouterPlan) -> None:
    """Make the router whole. The networks of its interfaces must be on this host."""
    namespace = names.router_namespace(naming.identifier(plan.id))
    ports = [*plan.interfaces, *([plan.gateway] if plan.gateway else [])]
    _checked(plan, ports)
    links.ensure_namespace(namespace)
    with links.inside(namespace):
        links.sysctl("net/ipv4/ip_forward", "1")
        links.sysctl("net/ipv6/conf/all/forwarding", "1")
    with links.netlink() as ip:
        wanted = {names.alias("router", plan.id, naming.identifier(port.port_id)): port for port in ports}
        for alias, link in links.aliases(ip, names.alias("router", plan.id, "")).items():
            if alias not in wanted:
                filters.change(names, filters.distrust(names, link))
                links.drop_link(ip, link)
        mtus = {}
        for alias, port in wanted.items():
            outer = names.router_link(plan.id, port.port_id)
            bridge = links.find_link(ip, names.bridge(naming.identifier(port.network_id)))
            if bridge is None:
                raise HostError(f"network {port.network_id} of router {plan.id} is not on this host")
            mtus[port.port_id] = bridge.get_attr("IFLA_MTU")
            inner = naming.inner_link(port.port_id, gateway=port is plan.gateway)
            link = links.ensure_veth(ip, outer, namespace, inner)
            links.quiet_ipv6(outer)
            filters.change(names, filters.trust(names, outer))
            links.settle_link(ip, link, mtu=mtus[port.port_id], up=plan.admin_up, alias=alias, master=bridge["index"])
    with links.inside(namespace):
        _inside(plan, ports, mtus)


def _checked(plan: RouterPlan, ports: list[RouterInterface]) -> None:
    """Read every value of the plan once, so that a wrong one is refused before anything is changed."""
    list(_routes(plan))
    translation(plan)
    for port in ports:
        naming.mac_address(port.mac)
        naming.identifier(port.network_id)
        list(map(naming.interface, port.addresses))


def _inside(plan: RouterPlan, ports: list[RouterInterface], mtus: dict[str, int]) -> None:
    """The router's own view: called in its namespace."""
    announced: list[tuple[str, str, str]] = []
    removed: set[str] = set()
    with links.netlink() as ip:
        for port in ports:
            gateway = port is plan.gateway
            name, mac = naming.inner_link(port.port_id, gateway=gateway), naming.mac_address(port.mac)
            link = links.find_link(ip, name)
            if link is None:
                raise HostError(f"the interface {name} of router {plan.id} is gone")
            links.settle_link(ip, link, mtu=mtus[port.port_id], up=plan.admin_up, mac=mac)
            addresses = [*map(naming.interface, port.addresses), *(_floating(plan) if gateway else [])]
            added, gone = links.ensure_addresses(ip, link["index"], addresses)
            if plan.admin_up:
                announced += [(name, mac, text.partition("/")[0]) for text in added if ":" not in text]
            removed |= {text.removesuffix("/32") for text in gone if gateway and text.endswith("/32")}
        removed |= _moved(filters.translations(_TABLE, "inward"), plan)
        filters.load(translation(plan))
        links.ensure_routes(ip, list(_routes(plan)) if plan.admin_up else [])
    for address in removed:
        for side in ("--orig-dst", "--reply-dst"):
            links.program("conntrack", "-D", "-f", "ipv4", side, address, accept=(0, 1))
    for name, mac, address in announced:
        _announce(name, mac, address)


def _moved(before: dict[str, str], plan: RouterPlan) -> set[str]:
    """Floating addresses that lead elsewhere from now on: their open connections belong to the former server."""
    now = {str(naming.address(one.floating)): str(naming.address(one.fixed)) for one in plan.floating}
    return {floating for floating, fixed in before.items() if now.get(floating) != fixed}


def _floating(plan: RouterPlan) -> Iterator[Interface]:
    for entry in plan.floating:
        yield naming.interface(f"{naming.address(entry.floating)}/32")


def _routes(plan: RouterPlan) -> Iterator[Route]:
    for to, via in plan.routes:
        yield Route(str(naming.cidr(to)), str(naming.address(via)))
    if plan.gateway is not None and plan.gateway_next_hop is not None:
        hop = naming.address(plan.gateway_next_hop)
        yield Route("0.0.0.0/0" if hop.version == 4 else "::/0", str(hop))


def translation(plan: RouterPlan) -> str:
    """The router's address translation as one nftables transaction: empty chains when it has no gateway."""
    lines = [
        f"add table {_TABLE}",
        f"add map {_TABLE} inward {{ type ipv4_addr : ipv4_addr; }}",
        f"add map {_TABLE} outward {{ type ipv4_addr : ipv4_addr; }}",
        f"add set {_TABLE} inside {{ type ipv4_addr; flags interval; auto-merge; }}",
        f"add chain {_TABLE} arriving {{ type nat hook prerouting priority -100; }}",
        f"add chain {_TABLE} leaving {{ type nat hook postrouting priority 100; }}",
        f"flush map {_TABLE} inward",
        f"flush map {_TABLE} outward",
        f"flush set {_TABLE} inside",
        f"flush chain {_TABLE} arriving",
        f"flush chain {_TABLE} leaving",
    ]
    if plan.gateway is None:
        return "\n".join(lines) + "\n"
    out = naming.inner_link(plan.gateway.port_id, gateway=True)
    pairs = [(naming.address(entry.floating), naming.address(entry.fixed)) for entry in plan.floating]
    lines += [f"add element {_TABLE} inward {{ {floating} : {fixed} }}" for floating, fixed in pairs]
    lines += [f"add element {_TABLE} outward {{ {fixed} : {floating} }}" for floating, fixed in pairs]
    inside = {
        str(entry.network)
        for port in plan.interfaces
        for entry in map(naming.interface, port.addresses)
        if entry.version == 4
    }
    lines += [f"add element {_TABLE} inside {{ {text} }}" for text in sorted(inside)]
    lines.append(f"add rule {_TABLE} arriving dnat to ip daddr map @inward")
    lines.append(f'add rule {_TABLE} leaving oifname "{out}" snat to ip saddr map @outward')
    own = next((e.ip for e in map(naming.interface, plan.gateway.addresses) if e.version == 4), None)
    if own is not None:
        # From inside to a floating IP of this very router: the answer must come back through here.
        lines.append(f'add rule {_TABLE} leaving oifname != "{out}" ct status dnat ip saddr @inside snat to {own}')
        if plan.snat:
            lines.append(f'add rule {_TABLE} leaving oifname "{out}" snat to {own}')
    return "\n".join(lines) + "\n"


def _announce(link: str, mac: str, address: str) -> None:
    """Tell the neighbours who has an address now: a gratuitous ARP request (RFC 5227, section 3)."""
    sender = bytes.fromhex(mac.replace(":", ""))
    own = socket.inet_aton(address)
    frame = b"\xff" * 6 + sender + b"\x08\x06" + b"\x00\x01\x08\x00\x06\x04\x00\x01" + sender + own + b"\0" * 6 + own
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        try:
            raw.bind((link, 0))
            raw.send(frame)
        except OSError:
            pass  # a hint only: neighbours ask again by themselves


def drop_router(names: Names, router_id: str, ip: Any) -> None:
    for link in links.aliases(ip, names.alias("router", naming.identifier(router_id), "")).values():
        filters.change(names, filters.distrust(names, link))
        links.drop_link(ip, link)
    links.drop_namespace(names.router_namespace(router_id))
