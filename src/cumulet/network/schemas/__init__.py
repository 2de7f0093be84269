# SPDX-License-Identifier: Apache-2.0
"""The attributes of every network resource, one literal table each: what may be set, seen, filtered and sorted by.

An attribute has a policy of its own exactly when `policy` has a rule
``<action>_<resource>:<attribute>``. ``inner`` is its column. What follows from a
table (body checks, lists, rendering) is in `api.resource`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cumulet.kernel.http.fields import ABSENT, ANY, BOOL, INTEGER, OBJECT, TEXT, UUID, Field, Schema, array, nullable
from cumulet.network.schemas import values as v


@dataclass(frozen=True)
class Attribute(Field):
    """A field of a resource, with what lists may do with it."""

    filter: bool = True
    sort: bool = True


def shown(name: str, type: Schema = TEXT, *, filter: bool = True, sort: bool = True, inner: str | None = None,
          convert: v.Convert | None = None) -> Attribute:  # fmt: skip
    """Read only."""
    return Attribute(name, type, optional=True, post=False, put=False, filter=filter, sort=sort, inner=inner,
                     convert=convert)  # fmt: skip


def fixed(
    name: str,
    type: Schema,
    convert: v.Convert,
    default: Any = ABSENT,
    *,
    need: bool = False,
    visible: bool = True,
    filter: bool = True,
    sort: bool = True,
) -> Attribute:
    """Set at the creation only."""
    return Attribute(name, type, optional=not need, default=default, put=False, visible=visible, convert=convert,
                     filter=filter, sort=sort)  # fmt: skip


def free(name: str, type: Schema, convert: v.Convert, default: Any = ABSENT, *, filter: bool = True,
         sort: bool = True, inner: str | None = None) -> Attribute:  # fmt: skip
    """Set at the creation and changed later."""
    return Attribute(name, type, optional=True, default=default, convert=convert, filter=filter, sort=sort, inner=inner)


def changed(name: str, type: Schema, convert: v.Convert, *, filter: bool = True, sort: bool = True) -> Attribute:
    """Changed later only."""
    return Attribute(name, type, optional=True, post=False, convert=convert, filter=filter, sort=sort)


PROJECT = (
    Attribute("tenant_id", TEXT, optional=True, put=False, inner="project_id", convert=v.text()),
    Attribute("project_id", TEXT, optional=True, put=False, convert=v.text()),
)
NAMED = (shown("id", UUID), free("name", TEXT, v.text(), ""), *PROJECT)
STANDARD = (
    free("description", TEXT, v.sentence, ""),
    shown("created_at", sort=True, filter=False),
    shown("updated_at", sort=True, filter=False),
    shown("revision_number", INTEGER, convert=v.integer()),
)
TAGGED = (shown("tags", array(TEXT), filter=False, sort=False),)
TAGGED_AT_ONCE = (fixed("tags", array(TEXT), v.items(v.oneline, 50), list, filter=False, sort=False),)
UP = free("admin_state_up", BOOL, v.boolean, True)
STATUS = shown("status")
MODES = ("dhcpv6-stateful", "dhcpv6-stateless", "slaac", None)
POOLS = array({"type": "object"})
ZONES = (
    shown("availability_zones", array(TEXT), filter=False, sort=False),
    fixed("availability_zone_hints", array(TEXT), v.items(v.text()), list, filter=False, sort=False),
)

NETWORK = (
    *NAMED,
    UP,
    STATUS,
    shown("subnets", array(UUID), filter=False, sort=False),
    free("shared", BOOL, v.boolean, False),
    free("router:external", BOOL, v.boolean, False, inner="external"),
    free("is_default", BOOL, v.boolean, False),
    free("mtu", INTEGER, v.integer(0)),
    free("port_security_enabled", BOOL, v.boolean, True),
    free("provider:network_type", nullable(TEXT), v.optional(v.text(32)), inner="network_type"),
    free("provider:physical_network", nullable(TEXT), v.optional(v.text(64)), inner="physical_network"),
    free("provider:segmentation_id", nullable(INTEGER), v.optional(v.integer()), inner="segmentation_id"),
    free("dns_domain", TEXT, v.dns_domain, ""),
    shown("ipv4_address_scope", nullable(UUID), filter=False, sort=False),
    shown("ipv6_address_scope", nullable(UUID), filter=False, sort=False),
    *ZONES,
    *STANDARD,
    *TAGGED,
)

SUBNET = (
    *NAMED,
    fixed("network_id", UUID, v.uuid, need=True),
    fixed("ip_version", INTEGER, v.integer(), need=True),
    fixed("cidr", TEXT, v.cidr),
    free("gateway_ip", nullable(TEXT), v.optional(v.address)),
    free("allocation_pools", POOLS, v.items(v.pool), filter=False, sort=False),
    free("dns_nameservers", array(TEXT), v.items(v.address), list, filter=False, sort=False),
    free("host_routes", POOLS, v.items(v.host_route), list, filter=False, sort=False),
    free("enable_dhcp", BOOL, v.boolean, True),
    fixed("ipv6_ra_mode", nullable(TEXT), v.choice(*MODES), None),
    fixed("ipv6_address_mode", nullable(TEXT), v.choice(*MODES), None),
    shown("router:external", BOOL, sort=False),
    fixed("subnetpool_id", nullable(UUID), v.optional(v.uuid), None),
    fixed("prefixlen", INTEGER, v.integer(0), visible=False, filter=False, sort=False),
    fixed("use_default_subnetpool", BOOL, v.boolean, False, visible=False, filter=False, sort=False),
    *STANDARD,
    *TAGGED,
)

SUBNETPOOL = (
    shown("id", UUID),
    Attribute("name", TEXT, optional=False, convert=v.filled),
    *PROJECT,
    Attribute("prefixes", array(TEXT), optional=False, convert=v.items(v.cidr), filter=False, sort=False),
    shown("ip_version", INTEGER, convert=v.integer()),
    free("default_prefixlen", INTEGER, v.integer(0)),
    free("min_prefixlen", INTEGER, v.integer(0)),
    free("max_prefixlen", INTEGER, v.integer(0)),
    free("default_quota", nullable(INTEGER), v.optional(v.integer(0))),
    fixed("shared", BOOL, v.boolean, False),
    free("is_default", BOOL, v.boolean, False),
    *STANDARD,
    *TAGGED,
)

VNIC_TYPES = ("normal", "direct", "macvtap", "baremetal", "direct-physical", "virtio-forwarder", "smart-nic", "vdpa",
              "accelerator-direct", "accelerator-direct-physical", "remote-managed")  # fmt: skip

PORT = (
    *NAMED,
    fixed("network_id", UUID, v.uuid, need=True),
    UP,
    STATUS,
    free("mac_address", TEXT, v.mac),
    free("fixed_ips", POOLS, v.fixed_ips, filter=False, sort=False),
    free("device_id", TEXT, v.sentence, ""),
    free("device_owner", TEXT, v.sentence, ""),
    free("security_groups", array(UUID), v.items(v.uuid), filter=False, sort=False),
    free("allowed_address_pairs", POOLS, v.items(v.address_pair, 10), list, filter=False, sort=False),
    free("extra_dhcp_opts", nullable(POOLS), v.dhcp_options, list, filter=False, sort=False),
    free("port_security_enabled", BOOL, v.boolean),
    free("binding:host_id", TEXT, v.sentence, "", inner="binding_host"),
    free("binding:vnic_type", TEXT, v.choice(*VNIC_TYPES), "normal", inner="binding_vnic_type"),
    free("binding:profile", OBJECT, v.mapping, dict, inner="binding_profile", filter=False, sort=False),
    shown("binding:vif_type", filter=False, sort=False, inner="vif_type"),
    shown("binding:vif_details", OBJECT, filter=False, sort=False),
    shown("ip_allocation", filter=False, sort=False),
    free("dns_name", TEXT, v.dns_name, ""),
    shown("dns_assignment", POOLS, filter=False, sort=False),
    *STANDARD,
    *TAGGED_AT_ONCE,
)

ROUTER = (
    *NAMED,
    UP,
    STATUS,
    free("external_gateway_info", nullable(OBJECT), v.gateway_info, None, filter=False, sort=False),
    changed("routes", POOLS, v.items(v.host_route), filter=False, sort=False),
    *ZONES,
    *STANDARD,
    *TAGGED,
)

FLOATINGIP = (
    shown("id", UUID),
    *PROJECT,
    fixed("floating_network_id", UUID, v.uuid, need=True),
    fixed("subnet_id", nullable(UUID), v.optional(v.uuid), None, visible=False, filter=False, sort=False),
    fixed("floating_ip_address", TEXT, v.optional(v.address), None),
    shown("router_id", nullable(UUID)),
    free("port_id", nullable(UUID), v.optional(v.uuid), None),
    free("fixed_ip_address", nullable(TEXT), v.optional(v.address), None),
    STATUS,
    fixed("dns_name", TEXT, v.dns_name, ""),
    fixed("dns_domain", TEXT, v.dns_domain, ""),
    shown("port_details", nullable(OBJECT), filter=False, sort=False),
    *STANDARD,
    *TAGGED,
)

SECURITY_GROUP = (
    *NAMED,
    shown("shared", BOOL, filter=False, sort=False),
    shown("security_group_rules", array(OBJECT), filter=False, sort=False),
    *STANDARD,
    *TAGGED,
)

SECURITY_GROUP_RULE = (
    shown("id", UUID),
    *PROJECT,
    fixed("security_group_id", UUID, v.text(36), need=True),
    fixed("direction", TEXT, v.choice("ingress", "egress"), need=True),
    fixed("ethertype", TEXT, v.ethertype, "IPv4"),
    fixed("protocol", nullable(TEXT), v.protocol, None),
    fixed("port_range_min", nullable(INTEGER), v.optional(v.port), None),
    fixed("port_range_max", nullable(INTEGER), v.optional(v.port), None),
    fixed("remote_ip_prefix", nullable(TEXT), v.prefix, None),
    fixed("remote_group_id", nullable(UUID), v.optional(v.text(36)), None),
    shown("normalized_cidr", nullable(TEXT), filter=False, sort=False),
    fixed("description", TEXT, v.sentence, ""),
    *STANDARD[1:],
)

RBAC_POLICY = (
    shown("id", UUID),
    *PROJECT,
    fixed("object_type", TEXT, v.rbac_type, need=True),
    fixed("object_id", UUID, v.uuid, need=True),
    fixed("action", TEXT, v.sentence, need=True),
    Attribute("target_tenant", TEXT, optional=False, inner="target", convert=v.target_project),
)

AGENT = (
    shown("id", UUID),
    shown("agent_type"),
    shown("binary"),
    shown("topic"),
    shown("host"),
    changed("admin_state_up", BOOL, v.boolean),
    changed("description", nullable(TEXT), v.optional(v.text())),
    shown("availability_zone"),
    shown("alive", BOOL, convert=v.boolean, filter=False, sort=False),
    shown("created_at", filter=False),
    shown("started_at", filter=False),
    shown("heartbeat_timestamp", filter=False, sort=False),
    shown("configurations", OBJECT, filter=False, sort=False),
)

TAGS_BODY: Schema = {
    "type": "object",
    "properties": {"tags": array({"type": "string"}, uniqueItems=True)},
    "required": ["tags"],
}
ROUTES_BODY: Schema = {"type": "object", "properties": {"router": ANY}, "required": ["router"]}
