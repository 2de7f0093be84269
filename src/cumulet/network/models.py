# SPDX-License-Identifier: Apache-2.0
"""The tables of network. An address of a subnet exists at most once, and so does a MAC of a network.

Every published resource has the standard columns (`_standard`); `duties` says
which host serves DHCP for a network or carries a router.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

from cumulet.kernel.db import Json, Time
from cumulet.kernel.fences import fence_table
from cumulet.kernel.outbox import outbox_table
from cumulet.kernel.quota import quota_tables
from cumulet.kernel.saga import saga_table

METADATA = MetaData()


def _standard() -> list[Column[object]]:
    return [
        Column("id", String(36), primary_key=True),
        Column("project_id", String(255), nullable=False, index=True),
        Column("name", String(255), nullable=False, default=""),
        Column("description", String(255), nullable=False, default=""),
        Column("created_at", Time, nullable=False),
        Column("updated_at", Time, nullable=False),
        Column("revision_number", Integer, nullable=False, default=1),
    ]


NETWORKS = Table(
    "networks",
    METADATA,
    *_standard(),
    Column("admin_state_up", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("shared", Boolean, nullable=False, index=True),
    Column("external", Boolean, nullable=False, index=True),
    Column("is_default", Boolean, nullable=False),
    Column("mtu", Integer, nullable=False),
    Column("port_security_enabled", Boolean, nullable=False),
    Column("network_type", String(32), nullable=False),
    Column("physical_network", String(64), unique=True),
    Column("segmentation_id", Integer),
    Column("segment", Integer, nullable=False, unique=True),
    Column("availability_zone_hints", Json, nullable=False),
    Column("dns_domain", String(255), nullable=False),
)

RBAC = Table(
    "rbac_policies",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("project_id", String(255), nullable=False, index=True),
    Column("object_type", String(32), nullable=False),
    Column("object_id", String(36), nullable=False, index=True),
    Column("action", String(32), nullable=False),
    Column("target", String(255), nullable=False, index=True),
    UniqueConstraint("object_id", "action", "target", name="uq_rbac_policies"),
)
"""``target`` is a project, or ``*`` for all of them."""

SUBNETPOOLS = Table(
    "subnetpools",
    METADATA,
    *_standard(),
    Column("ip_version", Integer, nullable=False),
    Column("prefixes", Json, nullable=False),
    Column("default_prefixlen", Integer, nullable=False),
    Column("min_prefixlen", Integer, nullable=False),
    Column("max_prefixlen", Integer, nullable=False),
    Column("default_quota", Integer),
    Column("shared", Boolean, nullable=False, index=True),
    Column("is_default", Boolean, nullable=False),
)

SUBNETS = Table(
    "subnets",
    METADATA,
    *_standard(),
    Column("network_id", String(36), ForeignKey("networks.id"), nullable=False, index=True),
    Column("ip_version", Integer, nullable=False),
    Column("subnetpool_id", String(36), index=True),
    Column("cidr", String(64), nullable=False),
    Column("gateway_ip", String(64)),
    Column("enable_dhcp", Boolean, nullable=False),
    Column("ipv6_address_mode", String(32)),
    Column("ipv6_ra_mode", String(32)),
    Column("allocation_pools", Json, nullable=False),
    Column("dns_nameservers", Json, nullable=False),
    Column("host_routes", Json, nullable=False),
)

PORTS = Table(
    "ports",
    METADATA,
    *_standard(),
    Column("network_id", String(36), ForeignKey("networks.id"), nullable=False, index=True),
    Column("mac_address", String(32), nullable=False),
    Column("admin_state_up", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("device_id", String(255), nullable=False, index=True),
    Column("device_owner", String(255), nullable=False, index=True),
    Column("port_security_enabled", Boolean, nullable=False),
    Column("allowed_address_pairs", Json, nullable=False),
    Column("extra_dhcp_opts", Json, nullable=False, server_default="[]"),
    Column("binding_host", String(255), nullable=False, index=True),
    Column("binding_vnic_type", String(64), nullable=False),
    Column("binding_profile", Json, nullable=False),
    Column("vif_type", String(32), nullable=False),
    Column("dns_name", String(255), nullable=False),
    Column("ours", Boolean, nullable=False),
    UniqueConstraint("network_id", "mac_address", name="uq_ports_mac"),
)
"""``ours`` marks the ports of DHCP servers, routers and floating IPs: only the service sets it. What a user writes
into ``device_owner`` or ``device_id`` never makes a port part of a router."""

ADDRESSES = Table(
    "addresses",
    METADATA,
    Column("subnet_id", String(36), ForeignKey("subnets.id"), primary_key=True),
    Column("number", String(32), primary_key=True),
    Column("address", String(64), nullable=False, index=True),
    Column("network_id", String(36), nullable=False),
    Column("port_id", String(36), ForeignKey("ports.id"), nullable=False, index=True),
    Column("place", Integer, nullable=False),
)
"""``number`` is the address as hex digits of fixed width, so its text order is its order."""

ROUTERS = Table(
    "routers",
    METADATA,
    *_standard(),
    Column("admin_state_up", Boolean, nullable=False),
    Column("status", String(16), nullable=False),
    Column("gateway_network_id", String(36), index=True),
    Column("gateway_port_id", String(36)),
    Column("enable_snat", Boolean, nullable=False),
    Column("routes", Json, nullable=False),
    Column("availability_zone_hints", Json, nullable=False),
)

FLOATINGIPS = Table(
    "floatingips",
    METADATA,
    *_standard(),
    Column("floating_network_id", String(36), nullable=False, index=True),
    Column("floating_ip_address", String(64), nullable=False, index=True),
    Column("floating_port_id", String(36), ForeignKey("ports.id"), nullable=False),
    Column("port_id", String(36), index=True),
    Column("fixed_ip_address", String(64)),
    Column("router_id", String(36), index=True),
    Column("generation", Integer, nullable=False, default=0, server_default="0"),
    Column("status", String(16), nullable=False),
    Column("dns_name", String(255), nullable=False),
    Column("dns_domain", String(255), nullable=False),
    UniqueConstraint("floating_network_id", "port_id", "fixed_ip_address", name="uq_floatingips_fixed"),
)
"""``generation`` counts the associations of an address: what a host or a saga says counts for its own one only."""

GROUPS = Table(
    "security_groups",
    METADATA,
    *_standard(),
    Column("default_of", String(255), unique=True),
)
"""``default_of`` is the project whose default group it is, else null: one per project."""

RULES = Table(
    "security_group_rules",
    METADATA,
    *_standard(),
    Column("security_group_id", String(36), ForeignKey("security_groups.id"), nullable=False, index=True),
    Column("direction", String(8), nullable=False),
    Column("ethertype", String(8), nullable=False),
    Column("protocol", String(40)),
    Column("port_range_min", Integer),
    Column("port_range_max", Integer),
    Column("remote_ip_prefix", String(64)),
    Column("remote_group_id", String(36), index=True),
)

PORT_GROUPS = Table(
    "port_security_groups",
    METADATA,
    Column("port_id", String(36), ForeignKey("ports.id"), primary_key=True),
    Column("security_group_id", String(36), ForeignKey("security_groups.id"), primary_key=True, index=True),
)

TAGS = Table(
    "tags",
    METADATA,
    Column("resource_id", String(36), primary_key=True),
    Column("tag", String(255), primary_key=True, index=True),
)

AGENTS = Table(
    "agents",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("host", String(255), nullable=False, unique=True),
    Column("agent_type", String(255), nullable=False),
    Column("binary", String(255), nullable=False),
    Column("topic", String(255), nullable=False),
    Column("availability_zone", String(255)),
    Column("admin_state_up", Boolean, nullable=False),
    Column("description", Text),
    Column("configurations", Json, nullable=False),
    Column("tunnel_address", String(64), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("heartbeat_at", Time, nullable=False),
)

DUTIES = Table(
    "duties",
    METADATA,
    Column("kind", String(8), primary_key=True),
    Column("object_id", String(36), primary_key=True),
    Column("host", String(255), nullable=False),
    Index("ix_duties_host", "host"),
)

OUTBOX = outbox_table(METADATA)
USAGE, LIMITS = quota_tables(METADATA)
SAGAS = saga_table(METADATA)
FENCES = fence_table(METADATA)
