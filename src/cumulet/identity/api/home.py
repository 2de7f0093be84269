# SPDX-License-Identifier: Apache-2.0
"""JSON Home: the published relations and where each is found.

Only what this service offers is shown: a row without a route is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from cumulet.kernel.http.route import Route

MEDIA_TYPE = "application/json-home"
_BASE = "https://docs.openstack.org/api/openstack-identity/3"
_EXPERIMENTAL = ("limit", "limits", "limit_model", "registered_limit", "registered_limits")
_VARIABLES = {
    "access_token_id": "ext/OS-OAUTH1/1.0/param/access_token_id",
    "consumer_id": "ext/OS-OAUTH1/1.0/param/consumer_id",
    "endpoint_group_id": "ext/OS-EP-FILTER/1.0/param/endpoint_group_id",
    "group": "param/config_group",
    "idp_id": "ext/OS-FEDERATION/1.0/param/idp_id",
    "implied_role_id": "param/role_id",
    "mapping_id": "ext/OS-FEDERATION/1.0/param/mapping_id",
    "option": "param/config_option",
    "prior_role_id": "param/role_id",
    "protocol_id": "ext/OS-FEDERATION/1.0/param/protocol_id",
    "request_token_id": "ext/OS-OAUTH1/1.0/param/request_token_id",
    "service_provider_id": "ext/OS-FEDERATION/1.0/param/service_provider_id",
    "trust_id": "ext/OS-TRUST/1.0/param/trust_id",
    "value": "param/tag_value",
}
"""The relations of path variables; those of all others are their own names."""

RELATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        ("auth_projects", "/auth/projects"),
        ("auth_domains", "/auth/domains"),
        ("auth_system", "/auth/system"),
        ("auth_catalog", "/auth/catalog"),
        ("auth_tokens", "/auth/tokens"),
        ("credentials", "/credentials"),
        ("credential", "/credentials/{credential_id}"),
        ("domains", "/domains"),
        ("domain", "/domains/{domain_id}"),
        ("domain_config", "/domains/{domain_id}/config"),
        ("domain_config_group", "/domains/{domain_id}/config/{group}"),
        ("domain_config_option", "/domains/{domain_id}/config/{group}/{option}"),
        ("domain_config_default", "/domains/config/default"),
        ("domain_config_default_group", "/domains/config/{group}/default"),
        ("domain_config_default_option", "/domains/config/{group}/{option}/default"),
        ("domain_user_roles", "/domains/{domain_id}/users/{user_id}/roles"),
        ("domain_user_role", "/domains/{domain_id}/users/{user_id}/roles/{role_id}"),
        ("domain_group_roles", "/domains/{domain_id}/groups/{group_id}/roles"),
        ("domain_group_role", "/domains/{domain_id}/groups/{group_id}/roles/{role_id}"),
        ("endpoints", "/endpoints"),
        ("endpoint", "/endpoints/{endpoint_id}"),
        ("groups", "/groups"),
        ("group", "/groups/{group_id}"),
        ("group_users", "/groups/{group_id}/users"),
        ("group_user", "/groups/{group_id}/users/{user_id}"),
        ("limits", "/limits"),
        ("limit", "/limits/{limit_id}"),
        ("limit_model", "/limits/model"),
        ("policies", "/policies"),
        ("policy", "/policies/{policy_id}"),
        ("projects", "/projects"),
        ("project", "/projects/{project_id}"),
        ("project_tags", "/projects/{project_id}/tags/{value}"),
        ("project_user_role", "/projects/{project_id}/users/{user_id}/roles/{role_id}"),
        ("project_user_roles", "/projects/{project_id}/users/{user_id}/roles"),
        ("project_group_role", "/projects/{project_id}/groups/{group_id}/roles/{role_id}"),
        ("project_group_roles", "/projects/{project_id}/groups/{group_id}/roles"),
        ("regions", "/regions"),
        ("region", "/regions/{region_id}"),
        ("registered_limits", "/registered_limits"),
        ("registered_limit", "/registered_limits/{registered_limit_id}"),
        ("role_assignments", "/role_assignments"),
        ("role_inferences", "/role_inferences"),
        ("roles", "/roles"),
        ("role", "/roles/{role_id}"),
        ("implied_roles", "/roles/{prior_role_id}/implies"),
        ("implied_role", "/roles/{prior_role_id}/implies/{implied_role_id}"),
        ("services", "/services"),
        ("service", "/services/{service_id}"),
        ("system_user_roles", "/system/users/{user_id}/roles"),
        ("system_user_role", "/system/users/{user_id}/roles/{role_id}"),
        ("system_group_roles", "/system/groups/{group_id}/roles"),
        ("system_group_role", "/system/groups/{group_id}/roles/{role_id}"),
        ("users", "/users"),
        ("user", "/users/{user_id}"),
        ("user_change_password", "/users/{user_id}/password"),
        ("user_groups", "/users/{user_id}/groups"),
        ("user_projects", "/users/{user_id}/projects"),
        ("application_credentials", "/users/{user_id}/application_credentials"),
        ("application_credential", "/users/{user_id}/application_credentials/{application_credential_id}"),
        ("access_rules", "/users/{user_id}/access_rules"),
        ("access_rule", "/users/{user_id}/access_rules/{access_rule_id}"),
        ("user_tokens", "/users/{user_id}/tokens"),
    ),
    "OS-FEDERATION": (
        ("projects", "/auth/projects"),
        ("domains", "/auth/domains"),
        ("saml2", "/auth/OS-FEDERATION/saml2"),
        ("ecp", "/auth/OS-FEDERATION/saml2/ecp"),
        ("websso", "/auth/OS-FEDERATION/websso/{protocol_id}"),
        ("identity_providers_websso", "/auth/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/websso"),
        ("metadata", "/OS-FEDERATION/saml2/metadata"),
        ("identity_provider_protocol_auth", "/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/auth"),
        ("identity_providers", "/OS-FEDERATION/identity_providers"),
        ("identity_provider", "/OS-FEDERATION/identity_providers/{idp_id}"),
        ("identity_provider_protocol", "/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}"),
        ("identity_provider_protocols", "/OS-FEDERATION/identity_providers/{idp_id}/protocols"),
        ("mappings", "/OS-FEDERATION/mappings"),
        ("mapping", "/OS-FEDERATION/mappings/{mapping_id}"),
        ("service_providers", "/OS-FEDERATION/service_providers"),
        ("service_provider", "/OS-FEDERATION/service_providers/{service_provider_id}"),
    ),
    "OS-PKI": (("revocations", "/auth/tokens/OS-PKI/revoked"),),
    "OS-EC2": (
        ("ec2tokens", "/ec2tokens"),
        ("user_credentials", "/users/{user_id}/credentials/OS-EC2"),
        ("user_credential", "/users/{user_id}/credentials/OS-EC2/{credential_id}"),
    ),
    "OS-ENDPOINT-POLICY": (
        ("endpoint_policy", "/endpoints/{endpoint_id}/OS-ENDPOINT-POLICY/policy"),
        ("policy_endpoints", "/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints"),
        ("endpoint_policy_association", "/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints/{endpoint_id}"),
        ("service_policy_association", "/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}"),
        (
            "region_and_service_policy_association",
            "/policies/{policy_id}/OS-ENDPOINT-POLICY/services/{service_id}/regions/{region_id}",
        ),
    ),
    "OS-EP-FILTER": (
        ("endpoint_groups", "/OS-EP-FILTER/endpoint_groups"),
        ("endpoint_group", "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}"),
        ("endpoint_projects", "/OS-EP-FILTER/endpoints/{endpoint_id}/projects"),
        ("project_endpoint", "/OS-EP-FILTER/projects/{project_id}/endpoints/{endpoint_id}"),
        ("project_endpoints", "/OS-EP-FILTER/projects/{project_id}/endpoints"),
        ("project_endpoint_groups", "/OS-EP-FILTER/projects/{project_id}/endpoint_groups"),
        ("endpoints_in_endpoint_group", "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/endpoints"),
        ("projects_associated_with_endpoint_group", "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/projects"),
        (
            "endpoint_group_to_project_association",
            "/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}/projects/{project_id}",
        ),
    ),
    "OS-INHERIT": (
        (
            "domain_group_role_inherited_to_projects",
            "/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects",
        ),
        (
            "domain_group_roles_inherited_to_projects",
            "/OS-INHERIT/domains/{domain_id}/groups/{group_id}/roles/inherited_to_projects",
        ),
        (
            "domain_user_role_inherited_to_projects",
            "/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/{role_id}/inherited_to_projects",
        ),
        (
            "domain_user_roles_inherited_to_projects",
            "/OS-INHERIT/domains/{domain_id}/users/{user_id}/roles/inherited_to_projects",
        ),
        (
            "project_user_role_inherited_to_projects",
            "/OS-INHERIT/projects/{project_id}/users/{user_id}/roles/{role_id}/inherited_to_projects",
        ),
        (
            "project_group_role_inherited_to_projects",
            "/OS-INHERIT/projects/{project_id}/groups/{group_id}/roles/{role_id}/inherited_to_projects",
        ),
    ),
    "OS-OAUTH1": (
        ("consumers", "/OS-OAUTH1/consumers"),
        ("consumer", "/OS-OAUTH1/consumers/{consumer_id}"),
        ("request_tokens", "/OS-OAUTH1/request_token"),
        ("access_tokens", "/OS-OAUTH1/access_token"),
        ("authorize_request_token", "/OS-OAUTH1/authorize/{request_token_id}"),
        ("user_access_tokens", "/users/{user_id}/OS-OAUTH1/access_tokens"),
        ("user_access_token", "/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}"),
        ("user_access_token_roles", "/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}/roles"),
        ("user_access_token_role", "/users/{user_id}/OS-OAUTH1/access_tokens/{access_token_id}/roles/{role_id}"),
    ),
    "OS-OAUTH2": (("token", "/OS-OAUTH2/token"),),
    "OS-REVOKE": (("events", "/OS-REVOKE/events"),),
    "OS-SIMPLE-CERT": (
        ("ca_certificate", "/OS-SIMPLE-CERT/ca"),
        ("certificates", "/OS-SIMPLE-CERT/certificates"),
    ),
    "s3tokens": (("s3tokens", "/s3tokens"),),
    "OS-TRUST": (
        ("trusts", "/OS-TRUST/trusts"),
        ("trust", "/OS-TRUST/trusts/{trust_id}"),
        ("trust_roles", "/OS-TRUST/trusts/{trust_id}/roles"),
        ("trust_role", "/OS-TRUST/trusts/{trust_id}/roles/{role_id}"),
    ),
}
"""By extension (none for the core): relation and path below ``/v3``."""


def _shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def document(routes: Iterable[Route], prefix: str = "") -> dict[str, Any]:
    """The home document of a service with these routes, whose paths it shows below ``prefix``."""
    offered = {_shape(route.template.removeprefix("/v3")) for route in routes}
    resources: dict[str, Any] = {}
    for extension, rows in RELATIONS.items():
        start = f"{_BASE}/ext/{extension}/1.0" if extension else _BASE
        for relation, path in rows:
            if _shape(path) in offered:
                resources[f"{start}/rel/{relation}"] = _place(relation, path, prefix)
    return {"resources": resources}


def _place(relation: str, path: str, prefix: str) -> dict[str, Any]:
    names = re.findall(r"\{([^}]*)\}", path)
    place: dict[str, Any] = {"href": prefix + path}
    if names:
        variables = {name: f"{_BASE}/{_VARIABLES.get(name, f'param/{name}')}" for name in names}
        place = {"href-template": prefix + path, "href-vars": variables}
    if relation in _EXPERIMENTAL:
        place["hints"] = {"status": "experimental"}
    return place


def wanted(accept: str) -> bool:
    """Whether a client asks for the home document rather than for the version."""
    best = {"application/json": 0.0, MEDIA_TYPE: 0.0}
    for part in accept.split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            if match := re.fullmatch(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)", parameter):
                quality = float(match[1])
        for known in best:
            if kind.lower() in (known, "application/*", "*/*"):
                best[known] = max(best[known], quality)
    return best[MEDIA_TYPE] > best["application/json"]
