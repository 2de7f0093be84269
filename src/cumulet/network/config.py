# SPDX-License-Identifier: Apache-2.0
"""The section ``[network]`` of the settings."""

from __future__ import annotations

import msgspec


class NetworkConfig(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator may choose; quotas are the published defaults."""

    path_mtu: int = 1500
    """Largest packet of the underlay in bytes; tunnelled networks get 50 less."""
    dns_domain: str = "openstacklocal"
    """Domain of the names that guests get with their leases."""
    dns_servers: list[str] = []
    """Resolvers told to guests of the first networks."""
    public_cidr: str = ""
    """The external network that a first start makes; empty: the first of 172.24.4.0/24 … 172.24.254.0/24 that this
    machine has no route for, so that several clouds live beside each other."""
    public_pool: tuple[str, str] | None = None
    """First and last address of it that is given out; null: all of a given range, .10 to .250 of a chosen one."""
    private_cidr: str = "10.20.0.0/24"
    """The demo project's network that a first start makes."""
    auto_cidr: str = "10.21.0.0/24"
    """The subnet of a network that is made for a project which asks for any."""
    heartbeat: float = 20.0
    """Seconds between two looks of an agent at its desired state when nobody pokes it."""
    agent_down: float = 75.0
    """Seconds without a heartbeat after which an agent counts as dead."""
    agent_lost: float = 300.0
    """Seconds without a heartbeat after which a dead agent's DHCP and routers move to another host."""
    underlay_address: str = ""
    """This host's address on the underlay, by which the others reach its tunnels."""
    quota_network: int = 100
    quota_subnet: int = 100
    quota_subnetpool: int = -1
    quota_port: int = 500
    quota_router: int = 10
    quota_floatingip: int = 50
    quota_security_group: int = 10
    quota_security_group_rule: int = 100
    quota_rbac_policy: int = 10

    def quotas(self) -> dict[str, int]:
        """Published resource name → default limit (-1: unlimited)."""
        return {
            name.removeprefix("quota_"): getattr(self, name)
            for name in self.__struct_fields__
            if name.startswith("quota_")
        }
