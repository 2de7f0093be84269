# SPDX-License-Identifier: Apache-2.0
"""The network service's policy: upstream's rule names and newest defaults, as data.

`<action>_<resource>` decides about a resource, `<action>_<resource>:<attribute>`
about one attribute of it: an attribute has a policy of its own exactly when
its rule stands here. `shared`, `network_owner` and `sg_owner` look at what the
logic lays beside a resource for this purpose.
"""

from __future__ import annotations

from cumulet.kernel.owned import CHECK, READ
from cumulet.kernel.policy import Rule

MEMBER = "(rule:admin_only) or (role:member and project_id:%(project_id)s)"
READER = "(rule:admin_only) or (role:reader and project_id:%(project_id)s)"
ADMIN = "rule:admin_only"
SERVICE = "(rule:admin_only) or (rule:service_api)"
NETWORK_OWNER = "(rule:admin_only) or (rule:service_api) or role:member and rule:network_owner"
NETWORK_USER = "(rule:admin_only) or (rule:service_api) or role:member and rule:network_owner or rule:shared"
PAIRS = "(rule:admin_only) or (role:member and rule:network_owner) or rule:service_api"
SUBNET_OWNER = "role:member and project_id:%(project_id)s or (rule:admin_only) or (role:member and rule:network_owner)"
MEMBER_OR_SERVICE = "(rule:admin_only) or (role:member and project_id:%(project_id)s) or rule:service_api"
GROUP_OWNER = "(rule:admin_only) or (role:member and rule:sg_owner)"

RULES = [
    # base
    Rule("context_is_admin", "role:admin"),
    Rule("service_api", "role:service"),
    Rule("owner", "project_id:%(project_id)s"),
    Rule("admin_or_owner", "rule:context_is_admin or rule:owner"),
    Rule("context_is_advsvc", "role:advsvc"),
    Rule("admin_or_network_owner", "rule:context_is_admin or project_id:%(network:project_id)s"),
    Rule("admin_owner_or_network_owner", "rule:owner or rule:admin_or_network_owner"),
    Rule("network_owner", "project_id:%(network:project_id)s"),
    Rule("admin_only", "rule:context_is_admin"),
    Rule("regular_user", ""),
    Rule("shared", "field:networks:shared=True"),
    Rule("default", "rule:admin_or_owner"),
    Rule("sg_owner", "project_id:%(security_group:project_id)s"),
    # network
    Rule("external", "field:networks:router:external=True"),
    Rule("create_network", MEMBER),
    Rule("create_network:shared", ADMIN),
    Rule("create_network:router:external", ADMIN),
    Rule("create_network:is_default", ADMIN),
    Rule("create_network:port_security_enabled", MEMBER),
    Rule("create_network:provider:network_type", ADMIN),
    Rule("create_network:provider:physical_network", ADMIN),
    Rule("create_network:provider:segmentation_id", ADMIN),
    Rule("create_network:tags", MEMBER),
    Rule(
        "get_network",
        "(rule:admin_only) or (role:reader and project_id:%(project_id)s) or rule:service_api or "
        "rule:shared or rule:external or rule:context_is_advsvc",
    ),
    Rule("get_network:provider:network_type", ADMIN),
    Rule("get_network:provider:physical_network", ADMIN),
    Rule("get_network:provider:segmentation_id", ADMIN),
    Rule(
        "get_network:tags",
        "(rule:admin_only) or (role:reader and project_id:%(project_id)s) or rule:shared or "
        "rule:external or rule:context_is_advsvc",
    ),
    Rule("update_network", MEMBER),
    Rule("update_network:shared", ADMIN),
    Rule("update_network:provider:network_type", ADMIN),
    Rule("update_network:provider:physical_network", ADMIN),
    Rule("update_network:provider:segmentation_id", ADMIN),
    Rule("update_network:router:external", ADMIN),
    Rule("update_network:is_default", ADMIN),
    Rule("update_network:port_security_enabled", MEMBER),
    Rule("update_network:tags", MEMBER),
    Rule("delete_network", MEMBER),
    Rule("delete_network:tags", MEMBER),
    # port
    Rule("network_device", "field:port:device_owner=~^network:"),
    Rule("compute_device", "field:port:device_owner=~^compute:"),
    Rule("baremetal_device", "field:port:device_owner=~^baremetal:"),
    Rule("manila_device", "field:port:device_owner=~^manila:"),
    Rule("create_port", NETWORK_USER),
    Rule("create_port:device_id", MEMBER_OR_SERVICE),
    Rule(
        "create_port:device_owner",
        "not rule:network_device or (rule:admin_only) or (rule:service_api) or role:member and rule:network_owner",
    ),
    Rule("create_port:mac_address", NETWORK_OWNER),
    Rule("create_port:fixed_ips", NETWORK_USER),
    Rule("create_port:fixed_ips:ip_address", NETWORK_OWNER),
    Rule("create_port:fixed_ips:subnet_id", NETWORK_USER),
    Rule("create_port:port_security_enabled", NETWORK_OWNER),
    Rule("create_port:binding:host_id", SERVICE),
    Rule("create_port:binding:profile", "rule:service_api"),
    Rule("create_port:binding:vnic_type", MEMBER_OR_SERVICE),
    Rule("create_port:allowed_address_pairs", PAIRS),
    Rule("create_port:allowed_address_pairs:mac_address", PAIRS),
    Rule("create_port:allowed_address_pairs:ip_address", PAIRS),
    Rule(
        "create_port:tags", "(rule:admin_only) or (role:member and project_id:%(project_id)s) or rule:context_is_advsvc"
    ),
    Rule(
        "get_port",
        "(rule:admin_only) or (rule:service_api) or role:reader and rule:network_owner or "
        "role:reader and project_id:%(project_id)s",
    ),
    Rule("get_port:binding:vif_type", SERVICE),
    Rule("get_port:binding:vif_details", SERVICE),
    Rule("get_port:binding:host_id", SERVICE),
    Rule("get_port:binding:profile", SERVICE),
    Rule(
        "get_port:tags",
        "rule:context_is_advsvc or (rule:admin_only) or (role:reader and rule:network_owner) or "
        "role:reader and project_id:%(project_id)s",
    ),
    Rule("update_port", "(rule:admin_only) or (rule:service_api) or role:member and project_id:%(project_id)s"),
    Rule("update_port:device_id", MEMBER_OR_SERVICE),
    Rule(
        "update_port:device_owner",
        "not rule:network_device or (rule:admin_only) or (rule:service_api) or role:member and rule:network_owner",
    ),
    Rule("update_port:mac_address", "(rule:admin_only) or (rule:service_api) or role:manager and rule:network_owner"),
    Rule("update_port:fixed_ips", NETWORK_OWNER),
    Rule("update_port:fixed_ips:ip_address", NETWORK_OWNER),
    Rule("update_port:fixed_ips:subnet_id", NETWORK_USER),
    Rule("update_port:port_security_enabled", NETWORK_OWNER),
    Rule("update_port:binding:host_id", SERVICE),
    Rule("update_port:binding:profile", "rule:service_api"),
    Rule(
        "update_port:binding:vnic_type",
        "(rule:admin_only) or (rule:service_api) or role:member and project_id:%(project_id)s",
    ),
    Rule("update_port:allowed_address_pairs", PAIRS),
    Rule("update_port:allowed_address_pairs:mac_address", PAIRS),
    Rule("update_port:allowed_address_pairs:ip_address", PAIRS),
    Rule(
        "update_port:tags", "(rule:admin_only) or (role:member and project_id:%(project_id)s) or rule:context_is_advsvc"
    ),
    Rule(
        "delete_port",
        "(rule:admin_only) or (rule:service_api) or "
        "(service_roles:service and (role:member and rule:network_owner or "
        "role:member and project_id:%(project_id)s)) or "
        "(not rule:compute_device and not rule:baremetal_device and not rule:manila_device and "
        "(role:member and rule:network_owner or "
        "role:member and project_id:%(project_id)s))",
    ),
    Rule(
        "delete_port:tags",
        "rule:context_is_advsvc or role:member and project_id:%(project_id)s or (rule:admin_only) or "
        "(role:member and rule:network_owner)",
    ),
    # subnet
    Rule("external_network", "field:subnets:router:external=True"),
    Rule("create_subnet", "(rule:admin_only) or (role:member and rule:network_owner)"),
    Rule("create_subnet:tags", SUBNET_OWNER),
    Rule(
        "get_subnet",
        "role:reader and project_id:%(project_id)s or rule:shared or rule:external_network or "
        "(rule:admin_only) or (role:reader and rule:network_owner) or rule:service_api",
    ),
    Rule(
        "get_subnet:tags",
        "role:reader and project_id:%(project_id)s or rule:shared or rule:external_network or "
        "(rule:admin_only) or (role:reader and rule:network_owner)",
    ),
    Rule("update_subnet", SUBNET_OWNER),
    Rule("update_subnet:tags", SUBNET_OWNER),
    Rule("delete_subnet", SUBNET_OWNER),
    Rule("delete_subnet:tags", SUBNET_OWNER),
    # subnetpool
    Rule("shared_subnetpools", "field:subnetpools:shared=True"),
    Rule("create_subnetpool", MEMBER),
    Rule("create_subnetpool:shared", ADMIN),
    Rule("create_subnetpool:is_default", ADMIN),
    Rule("create_subnetpool:tags", MEMBER),
    Rule("get_subnetpool", f"{READER} or rule:shared_subnetpools"),
    Rule("get_subnetpool:tags", f"{READER} or rule:shared_subnetpools"),
    Rule("update_subnetpool", MEMBER),
    Rule("update_subnetpool:is_default", ADMIN),
    Rule("update_subnetpool:tags", MEMBER),
    Rule("delete_subnetpool", MEMBER),
    Rule("delete_subnetpool:tags", MEMBER),
    Rule("add_prefixes", MEMBER),
    Rule("remove_prefixes", MEMBER),
    # router
    Rule("create_router", MEMBER),
    Rule("create_router:external_gateway_info", MEMBER),
    Rule("create_router:external_gateway_info:network_id", MEMBER),
    Rule("create_router:external_gateway_info:enable_snat", ADMIN),
    Rule("create_router:external_gateway_info:external_fixed_ips", ADMIN),
    Rule("create_router:tags", MEMBER),
    Rule("get_router", READER),
    Rule("get_router:tags", READER),
    Rule("update_router", MEMBER),
    Rule("update_router:external_gateway_info", MEMBER),
    Rule("update_router:external_gateway_info:network_id", MEMBER),
    Rule("update_router:external_gateway_info:enable_snat", ADMIN),
    Rule("update_router:external_gateway_info:external_fixed_ips", ADMIN),
    Rule("update_router:tags", MEMBER),
    Rule("delete_router", MEMBER),
    Rule("delete_router:tags", MEMBER),
    Rule("add_router_interface", MEMBER),
    Rule("remove_router_interface", MEMBER),
    Rule("add_extraroutes", MEMBER),
    Rule("remove_extraroutes", MEMBER),
    # floatingip
    Rule("create_floatingip", MEMBER),
    Rule("create_floatingip:floating_ip_address", "(rule:admin_only) or (role:manager and project_id:%(project_id)s)"),
    Rule("create_floatingip:tags", MEMBER),
    Rule("get_floatingip", READER),
    Rule("get_floatingip:tags", READER),
    Rule("update_floatingip", MEMBER),
    Rule("update_floatingip:tags", MEMBER),
    Rule("delete_floatingip", MEMBER),
    Rule("delete_floatingip:tags", MEMBER),
    # security_group
    Rule("admin_or_sg_owner", "rule:context_is_admin or project_id:%(security_group:project_id)s"),
    Rule("admin_owner_or_sg_owner", "rule:owner or rule:admin_or_sg_owner"),
    Rule("shared_security_group", "field:security_groups:shared=True"),
    Rule("rule_default_sg", "field:security_group_rules:belongs_to_default_sg=True"),
    Rule("create_security_group", MEMBER),
    Rule("create_security_group:tags", MEMBER),
    Rule(
        "get_security_group",
        "(rule:admin_only) or (role:reader and project_id:%(project_id)s) or rule:shared_security_group",
    ),
    Rule(
        "get_security_group:tags",
        "(rule:admin_only) or (role:reader and project_id:%(project_id)s) or rule:shared_security_group",
    ),
    Rule("update_security_group", MEMBER),
    Rule("update_security_group:tags", MEMBER),
    Rule("delete_security_group", MEMBER),
    Rule("delete_security_group:tags", MEMBER),
    Rule("create_security_group_rule", GROUP_OWNER),
    Rule("get_security_group_rule", "(rule:admin_only) or (role:reader and rule:sg_owner)"),
    Rule("delete_security_group_rule", GROUP_OWNER),
    # rbac_policy
    Rule("create_rbac_policy", MEMBER),
    Rule("create_rbac_policy:target_tenant", f"({ADMIN}) or (not field:rbac_policy:target_tenant=*)"),
    Rule("update_rbac_policy", MEMBER),
    Rule("update_rbac_policy:target_tenant", f"({ADMIN}) or (not field:rbac_policy:target_tenant=*)"),
    Rule("get_rbac_policy", READER),
    Rule("delete_rbac_policy", MEMBER),
    # agent
    Rule("get_agent", ADMIN),
    Rule("update_agent", ADMIN),
    Rule("delete_agent", ADMIN),
    # quotas
    Rule("get_quota", "(rule:admin_only) or (role:manager and project_id:%(project_id)s)"),
    Rule("update_quota", ADMIN),
    Rule("delete_quota", ADMIN),
    # auto_allocated_topology
    Rule("get_auto_allocated_topology", READER),
    Rule("delete_auto_allocated_topology", MEMBER),
    # network_ip_availability
    Rule("get_network_ip_availability", SERVICE),
    # availability_zone
    Rule("get_availability_zone", "role:reader"),
    Rule(READ, CHECK),
]
