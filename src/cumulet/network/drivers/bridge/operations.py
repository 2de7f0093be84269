# SPDX-License-Identifier: Apache-2.0
"""What the privileged parent does for the bridge driver: whole plans, one function each.

These functions are the allow-list of the driver. They run as root, take one
typed value, trust nothing in it, and leave the host as the plan says however
often they are repeated and wherever they were killed before. One lock on the
machine makes changes follow one another, also between clouds.
"""

from __future__ import annotations

import fcntl
import pwd
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cumulet.kernel.host.model import Fds, HostError
from cumulet.network.drivers.bridge import dhcp, filters, links, naming, router
from cumulet.network.drivers.bridge.naming import METADATA, Names
from cumulet.network.drivers.model import NetworkPlan, Observed, PortPlan, RouterPlan

_PROGRAMS = ("ip", "nft", "dnsmasq", "conntrack")
_LOCK = Path("/run/cumulet/net/lock")
_ZONES = 0xFFFF
_VXLAN_PORT = 4789


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which cloud on which host: what every operation must know."""

    cloud: str
    """Any id of the cloud; all names are derived from it."""
    underlay: str | None = None
    """This host's address for tunnels; None is a host alone."""
    guest_user: str | None = None
    """The user that may open the taps; None leaves them to root."""
    domain: str = "openstacklocal"
    reachable: list[int] = []
    """TCP ports of this host that the public network may open."""


class ForNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    site: Site
    plan: NetworkPlan


class ForPort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    site: Site
    plan: PortPlan


class ForRouter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    site: Site
    plan: RouterPlan


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object by its id."""

    site: Site
    id: str


class Applied(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port's plan as it was last made whole; kept beside the rules, gone with them at a reboot."""

    plan: PortPlan
    zone: int


@contextmanager
def _changing() -> Iterator[Any]:
    """Hold the machine's lock and a netlink socket."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with links.netlink() as ip:
            yield ip


def prepare(site: Site) -> None:
    """Check what the host can do and load the base rules; the error says what to do."""
    names = Names(site.cloud)
    if missing := links.missing_programs(_PROGRAMS):
        raise HostError(f"missing on this host: {', '.join(missing)}; install iproute2, nftables, dnsmasq, conntrack")
    if not Path("/proc/sys/net/bridge").is_dir():
        links.program("modprobe", "br_netfilter", accept=(0, 1))
        if not Path("/proc/sys/net/bridge").is_dir():
            raise HostError("the kernel has no br_netfilter, which filters between guests: modprobe br_netfilter")
    if site.underlay is not None:
        naming.address(site.underlay)
    _guest_uid(site)
    with _changing():
        filters.change(names, filters.base(names, site.reachable))


def observe(site: Site) -> Observed:
    """What is really here: bridges, taps that are plugged and filtered, router namespaces."""
    names = Names(site.cloud)
    with links.netlink() as ip:
        found = [alias.split(":") for alias in links.aliases(ip, names.alias(""))]
    held = filters.state(names)
    router_prefix = names.router_namespace("")
    return Observed(
        networks=sorted(alias[3] for alias in found if alias[2] == "network"),
        ports=sorted(
            alias[3] for alias in found if alias[2] == "port" and naming.chain(alias[3]) in held.parts.values()
        ),
        routers=[
            name.removeprefix(router_prefix)
            for name in links.list_namespaces(router_prefix)
            if links.is_namespace(name)
        ],
    )


# -- networks -----------------------------------------------------------------------------------------


def ensure_network(params: ForNetwork) -> int:
    """Make the network whole on this host; return the inode of its DHCP namespace, 0 when it has none here."""
    site, plan = params.site, params.plan
    names = Names(site.cloud)
    naming.identifier(plan.id)
    naming.number(plan.segment, 1, 2**24 - 1, "a segment")
    naming.number(plan.mtu, 576, 65535, "an MTU")
    with _changing() as ip:
        _guard_ranges(ip, names, plan)
        bridge, zone = _ensure_bridge(ip, names, plan)
        filters.change(
            names,
            filters.base(names, site.reachable),
            filters.network(names, names.bridge(plan.id), zone, public=plan.external),
        )
        gateways = _gateways(plan)
        links.ensure_addresses(ip, bridge["index"], gateways)
        _ensure_tunnel(ip, site, names, plan, bridge["index"])
        if plan.dhcp_port is None:
            _drop_dhcp(ip, names, plan.id)
            return 0
        return _ensure_dhcp(ip, site, names, plan, bridge["index"])


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


def _ensure_tunnel(ip: Any, site: Site, names: Names, plan: NetworkPlan, bridge: int) -> None:
    name = names.tunnel(plan.id)
    if site.underlay is None:
        if plan.peers:
            raise HostError("this host has no underlay address, but the network has other hosts")
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
    want = {str(naming.address(peer)) for peer in plan.peers} - {local}
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
        links.drop_link(ip, name)
        filters.change(names, filters.distrust(names, name))


def drop_network(params: Named) -> None:
    """Remove the network from this host; its blackhole routes stay."""
    names, network_id = Names(params.site.cloud), naming.identifier(params.id)
    with _changing() as ip:
        _drop_dhcp(ip, names, network_id)
        _drop_trusted(ip, names, names.tunnel(network_id))
        filters.change(names, filters.forget_network(names, names.bridge(network_id)))
        links.drop_link(ip, names.bridge(network_id))


def open_metadata(params: Named) -> Fds:
    """A socket that listens on the metadata address inside the network's DHCP namespace."""
    names = Names(params.site.cloud)
    with links.inside(names.dhcp_namespace(naming.identifier(params.id))):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((METADATA, 80))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return Fds([listener.detach()])


# -- ports --------------------------------------------------------------------------------------------


def ensure_port(params: ForPort) -> None:
    """Make the tap, filter it, and only then plug it."""
    site, plan = params.site, params.plan
    names = Names(site.cloud)
    tap = naming.tap_name(plan.tap)
    naming.number(plan.mtu, 68, 65535, "an MTU")
    alias = names.alias("port", naming.identifier(plan.id))
    with _changing() as ip:
        bridge = links.find_link(ip, names.bridge(naming.identifier(plan.network_id)))
        if bridge is None:
            raise HostError(f"network {plan.network_id} of port {plan.id} is not on this host")
        zone = int((bridge.get_attr("IFLA_IFALIAS") or "").rpartition(":")[2])
        note = Path(names.directory) / "ports" / plan.id
        before = _read_note(note)
        if before is None:  # first of all: whatever comes to pass, drop and purge know the tap
            _write_note(note, Applied(plan, zone))
        for old in (name for known, name in links.aliases(ip, alias).items() if known == alias and name != tap):
            links.drop_link(ip, old)
        link = links.ensure_tap(ip, tap, _guest_uid(site))
        if not _is_free(ip, names, link, alias):
            raise HostError(f"the link {tap} belongs to somebody else")
        links.quiet_ipv6(tap)
        _filter_port(names, site, plan)
        if before is not None and before.plan != plan and _loses(before.plan, plan):
            filters.forget_connections(before.zone, [entry for _, entry in filters.identities(before.plan)])
        if before is not None and before != Applied(plan, zone):
            _write_note(note, Applied(plan, zone))
        links.settle_link(ip, link, mtu=plan.mtu, up=plan.admin_up, alias=alias, master=bridge["index"])


def _is_free(ip: Any, names: Names, link: Any, alias: str) -> bool:
    """Whether a link may become (or is) the port's tap: nobody else's by its alias nor by its bridge."""
    owner, master = link.get_attr("IFLA_IFALIAS"), link.get_attr("IFLA_MASTER")
    if owner not in (None, "", alias):
        return False
    if master is None:
        return True
    return names.link_pattern.fullmatch(ip.link("get", index=master)[0].get_attr("IFLA_IFNAME")) is not None


def _filter_port(names: Names, site: Site, plan: PortPlan) -> None:
    held, part = filters.state(names), naming.chain(plan.id)
    digest, text = filters.port(names, plan, held)
    if filters.applied(names, part) != digest or held.parts.get(plan.tap) != part:
        filters.change(names, filters.base(names, site.reachable), text)


def _loses(before: PortPlan, after: PortPlan) -> bool:
    """Whether connections that the port had may be forbidden to it now."""
    if not after.port_security:
        return False
    return (
        not before.port_security or before.addresses != after.addresses or filters.narrower(before.rules, after.rules)
    )


def _read_note(note: Path) -> Applied | None:
    try:
        return msgspec.json.decode(note.read_bytes(), type=Applied)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _write_note(note: Path, applied: Applied) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    fresh = note.with_name(f".{note.name}")
    fresh.write_bytes(msgspec.json.encode(applied))
    fresh.replace(note)


def _guest_uid(site: Site) -> int | None:
    if site.guest_user is None:
        return None
    try:
        return pwd.getpwnam(site.guest_user).pw_uid
    except KeyError:
        user = site.guest_user[:32]
        raise HostError(f"there is no user {user!r} for guests: create it with 'useradd --system {user}'") from None


def drop_port(params: Named) -> None:
    """Unplug and remove the tap first, its filter after it, then what its connections left."""
    names, port_id = Names(params.site.cloud), naming.identifier(params.id)
    with _changing() as ip:
        alias = names.alias("port", port_id)
        note = Path(names.directory) / "ports" / port_id
        _drop_taps(ip, alias, note)
        held, part = filters.state(names), naming.chain(port_id)
        if part in held.parts.values() or part in held.numbers:
            filters.change(names, filters.forget_port(names, part, held))
        if (before := _read_note(note)) is not None:
            filters.forget_connections(before.zone, [entry for _, entry in filters.identities(before.plan)])
        note.unlink(missing_ok=True)


def _drop_taps(ip: Any, alias: str, note: Path) -> None:
    taps = {name for known, name in links.aliases(ip, alias).items() if known == alias}
    if (before := _read_note(note)) is not None:
        taps.add(naming.tap_name(before.plan.tap))
    for tap in taps:
        link = links.find_link(ip, tap)
        if link is not None and link.get_attr("IFLA_IFALIAS") in (None, "", alias):
            links.drop_link(ip, tap)


# -- routers ------------------------------------------------------------------------------------------


def ensure_router(params: ForRouter) -> None:
    with _changing():
        router.ensure_router(Names(params.site.cloud), params.plan)


def drop_router(params: Named) -> None:
    with _changing() as ip:
        router.drop_router(Names(params.site.cloud), params.id, ip)


# -- everything ---------------------------------------------------------------------------------------


def purge(site: Site) -> None:
    """Remove everything that this cloud ever made on this host, and nothing else."""
    names = Names(site.cloud)
    directory = Path(names.directory)
    with _changing() as ip:
        for folder in sorted((directory / "dhcp").glob("*")):
            dhcp.drop_server(names, folder.name)
        for note in sorted((directory / "ports").glob("[!.]*")):
            _drop_taps(ip, names.alias("port", note.name), note)
            if (before := _read_note(note)) is not None:
                filters.forget_connections(before.zone, [entry for _, entry in filters.identities(before.plan)])
        own = set(links.aliases(ip, names.alias("")).values())
        own |= {n for link in ip.get_links() if names.link_pattern.fullmatch(n := link.get_attr("IFLA_IFNAME"))}
        for name in sorted(own):
            links.drop_link(ip, name)
        for prefix in (names.dhcp_namespace(""), names.router_namespace("")):
            for namespace in links.list_namespaces(prefix):
                links.drop_namespace(namespace)
        filters.clear(names)
        links.drop_blackholes(ip, names.metric)
        if directory.is_dir():
            shutil.rmtree(directory)
