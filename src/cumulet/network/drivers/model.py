# SPDX-License-Identifier: Apache-2.0
"""What the network agent and a network driver say to each other: plans, complete and versionless.

A plan names everything that must be on this host for one object. The same plan
applied twice changes nothing; packets of running guests never notice. The
agent computes which plans to apply; a driver only knows how.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class SubnetPlan(msgspec.Struct, frozen=True):
    id: str
    cidr: str
    gateway: str | None
    dns: list[str] = []
    host_routes: list[tuple[str, str]] = []
    """(destination CIDR, next hop) pairs."""
    dhcp: bool = True


class DhcpHost(msgspec.Struct, frozen=True):
    """One static lease: the only leases there are."""

    port_id: str
    mac: str
    address: str
    hostname: str
    options: list[tuple[str, str]] = []
    """(name or number, value) of further DHCP options; an empty value takes out what the subnet says."""


class NetworkPlan(msgspec.Struct, frozen=True):
    """One network on one host: bridge, tunnel, DHCP namespace, metadata."""

    id: str
    segment: int
    """VXLAN network identifier, 1 to 2^24-1; also the conntrack zone's source."""
    mtu: int
    external: bool
    """The public network: its gateway address lives on its bridge's own namespace side."""
    subnets: list[SubnetPlan] = []
    dhcp_port: tuple[str, str, list[str]] | None = None
    """(port id, MAC, addresses) of the DHCP server when it runs on this host, else None."""
    leases: list[DhcpHost] = []
    peers: list[str] = []
    """Underlay addresses of the other hosts that have this network."""


class GroupPlan(msgspec.Struct, frozen=True):
    """A security group that rules name as the far side: who is in it, named once for all rules of the host."""

    id: str
    addresses: list[str] = []
    """CIDRs and addresses of both versions."""


class RulePlan(msgspec.Struct, frozen=True):
    """One security group rule."""

    direction: str
    """``ingress`` or ``egress``."""
    ethertype: str
    """``IPv4`` or ``IPv6``."""
    protocol: int | None = None
    """IANA protocol number; None is any."""
    port_min: int | None = None
    """Lowest port, or ICMP type."""
    port_max: int | None = None
    """Highest port, or ICMP code."""
    remotes: list[str] | None = None
    """CIDRs or addresses of the far side; None is anywhere, [] is nobody."""
    group: str | None = None
    """Id of the group that is the far side (``remotes`` is None then); one that is not on this host is nobody."""


class PortPlan(msgspec.Struct, frozen=True):
    """One guest port on this host: a persistent tap, its place on the bridge, its filter."""

    id: str
    network_id: str
    mac: str
    addresses: list[str]
    mtu: int
    tap: str
    admin_up: bool = True
    port_security: bool = True
    allowed_pairs: list[tuple[str, str]] = []
    """(CIDR or address, MAC) pairs beyond the port's own."""
    rules: list[RulePlan] = []


class FloatingPlan(msgspec.Struct, frozen=True):
    floating: str
    fixed: str
    generation: int = 0
    """Which association of the address this is; no matter to the driver."""


class RouterInterface(msgspec.Struct, frozen=True):
    port_id: str
    network_id: str
    mac: str
    addresses: list[str]
    """With prefix length, e.g. ``10.0.0.1/24``."""


class RouterPlan(msgspec.Struct, frozen=True):
    """One router, in a namespace of its own on this host."""

    id: str
    interfaces: list[RouterInterface] = []
    gateway: RouterInterface | None = None
    gateway_next_hop: str | None = None
    snat: bool = True
    floating: list[FloatingPlan] = []
    routes: list[tuple[str, str]] = []
    admin_up: bool = True


class MetadataPlan(msgspec.Struct, frozen=True):
    """Where 169.254.169.254 of each network leads: the driver listens in the namespace
    and hands accepted requests on with the network's id and the guest's address."""

    url: str
    """Base URL of the compute metadata API, e.g. ``http://127.0.0.1:8775``."""
    secret: str
    """What requests are signed with; this host's own."""
    host: str = ""
    """Whose it is."""
    ca: str = ""
    """A file with the authorities that vouch for the URL's certificate; empty: the system's."""


class Observed(msgspec.Struct, frozen=True):
    """Ids of what this driver really finds on the host, its own only."""

    networks: list[str] = []
    ports: list[str] = []
    routers: list[str] = []
    groups: list[str] = []


class NetworkError(RuntimeError):
    """The host refused; the text is fit for a port's or server's fault."""


class NetworkDriver(Protocol):
    """One host's data plane. Idempotent, never blocks the loop, never touches what it did not make."""

    async def open(self) -> None:
        """Prepare the host; raises NetworkError with what to do."""

    async def close(self) -> None:
        """Let go; packets go on flowing."""

    async def observed(self) -> Observed: ...

    async def ensure_network(self, plan: NetworkPlan) -> None: ...

    async def drop_network(self, network_id: str) -> None: ...

    async def ensure_group(self, plan: GroupPlan) -> None:
        """Make the group's addresses these; a connection with one that left it is judged again."""

    async def drop_group(self, group_id: str) -> None:
        """Forget the group, once no port's rule names it (NetworkError before)."""

    async def ensure_port(self, plan: PortPlan) -> None:
        """Make the tap (owned by the guest user), plug it, filter it. The network must be there."""

    async def drop_port(self, port_id: str) -> None: ...

    async def ensure_router(self, plan: RouterPlan) -> None: ...

    async def drop_router(self, router_id: str) -> None: ...

    async def ensure_metadata(self, plan: MetadataPlan) -> None: ...

    async def purge(self) -> None:
        """Remove everything that this driver ever made on this host, and nothing else."""
