# SPDX-License-Identifier: Apache-2.0
"""What the privileged parent does for the bridge driver: whole plans, one function each.

These functions are the allow-list of the driver. They run as root, take one
typed value, trust nothing in it, and leave the host as the plan says however
often they are repeated and wherever they were killed before. One lock on the
machine makes changes follow one another, also between clouds.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from cumulet.kernel.host.model import Fds, HostError
from cumulet.network.drivers.bridge import dhcp, filters, groups, links, naming, networks, ports, router
from cumulet.network.drivers.bridge.naming import Names
from cumulet.network.drivers.bridge.site import Site, changing, guest_uid
from cumulet.network.drivers.model import GroupPlan, NetworkPlan, Observed, PortPlan, RouterPlan

_PROGRAMS = ("ip", "nft", "dnsmasq", "conntrack")


class ForNetwork(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    site: Site
    plan: NetworkPlan


class ForGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    site: Site
    plan: GroupPlan


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


def prepare(site: Site) -> list[str]:
    """Check what the host can do and load the base rules; the error says what to do.

    Returns warnings about what somebody else's rules will do to our packets.
    """
    names = Names(site.cloud)
    if os.geteuid() != 0:
        raise HostError("real networks need root: start the cloud as root, or let it use simulated networks")
    if missing := links.missing_programs(_PROGRAMS):
        raise HostError(f"missing on this host: {', '.join(missing)}; install iproute2, nftables, dnsmasq, conntrack")
    if not Path("/proc/sys/net/bridge").is_dir():
        links.program("modprobe", "br_netfilter", accept=(0, 1))
        if not Path("/proc/sys/net/bridge").is_dir():
            raise HostError("the kernel has no br_netfilter, which filters between guests: modprobe br_netfilter")
    if site.underlay is not None:
        naming.address(site.underlay)
    guest_uid(site)
    with changing():
        filters.change(names, filters.base(names, site.reachable))
    ours = names.bridges.removesuffix("*") + "+"
    return [
        f"{chain} on this host drops what it does not know, guests' packets as well; "
        f"let them pass, e.g.: iptables -I FORWARD -i {ours} -o {ours} -j ACCEPT"
        for chain in filters.unfriendly_chains()
    ]


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
        groups=groups.observed(names),
    )


def ensure_network(params: ForNetwork) -> int:
    """Make the network whole on this host; return the inode of its DHCP namespace, 0 when it has none here."""
    return networks.ensure_network(params.site, params.plan)


def drop_network(params: Named) -> None:
    networks.drop_network(params.site, params.id)


def open_metadata(params: Named) -> Fds:
    """A socket that listens on the metadata address inside the network's DHCP namespace."""
    return Fds([networks.open_metadata(params.site, params.id).detach()])


def ensure_group(params: ForGroup) -> None:
    groups.ensure_group(params.site, params.plan)


def drop_group(params: Named) -> None:
    groups.drop_group(params.site, params.id)


def ensure_port(params: ForPort) -> None:
    ports.ensure_port(params.site, params.plan)


def drop_port(params: Named) -> None:
    ports.drop_port(params.site, params.id)


def ensure_router(params: ForRouter) -> None:
    with changing():
        router.ensure_router(Names(params.site.cloud), params.plan)


def drop_router(params: Named) -> None:
    with changing() as ip:
        router.drop_router(Names(params.site.cloud), params.id, ip)


def purge(site: Site) -> None:
    """Remove everything that this cloud ever made on this host, and nothing else."""
    names = Names(site.cloud)
    directory = Path(names.directory)
    with changing() as ip:
        for folder in sorted((directory / "dhcp").glob("*")):
            dhcp.drop_server(names, folder.name)
        ports.drop_all(ip, names)
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
