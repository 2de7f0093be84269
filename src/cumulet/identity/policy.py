# SPDX-License-Identifier: Apache-2.0
"""Who may do what in identity: the published rule names with their newest defaults and scopes.

Targets are nested under ``target`` (``target.user.domain_id`` …); names without
``target.`` are the parameters of the path.
"""

from __future__ import annotations

from cumulet.kernel.policy import Rule

ANY_SCOPE = ("system", "domain", "project")
CLOUD = ("system", "project")

ADMIN = "rule:admin_required"
SYSTEM_READER = "(role:reader and system_scope:all)"
READ = f"{ADMIN} or {SYSTEM_READER}"


def _grant(role: str) -> str:
    """Actor and target both in the caller's own domain, for a caller with ``role`` there."""
    pairs = (
        ("user", "project.domain_id"),
        ("user", "domain.id"),
        ("group", "project.domain_id"),
        ("group", "domain.id"),
    )
    return " or ".join(
        f"(role:{role} and domain_id:%(target.{actor}.domain_id)s and domain_id:%(target.{where})s)"
        for actor, where in pairs
    )


_ROLE_WITHIN = "(domain_id:%(target.role.domain_id)s or None:%(target.role.domain_id)s)"
_CHANGE_GRANT = (
    f"{ADMIN} or ({_grant('admin')}) and {_ROLE_WITHIN} or ({_grant('manager')}) and rule:domain_managed_target_role"
)
_PROJECT_READER = (
    f"{READ} or (role:reader and domain_id:%(target.project.domain_id)s and not None:%(target.project.domain_id)s)"
    " or project_id:%(target.project.id)s"
)
_PROJECT_MANAGER = (
    f"{ADMIN} or (role:manager and domain_id:%(target.project.domain_id)s and not None:%(target.project.domain_id)s)"
)
_USER_MANAGER = f"{ADMIN} or (role:manager and token.domain.id:%(target.user.domain_id)s)"
_GROUP_READER = f"{READ} or (role:reader and domain_id:%(target.group.domain_id)s)"
_GROUP_MANAGER = f"{ADMIN} or (role:manager and domain_id:%(target.group.domain_id)s)"
_MEMBERS_MANAGER = (
    f"{ADMIN} or (role:manager and domain_id:%(target.group.domain_id)s and domain_id:%(target.user.domain_id)s)"
)
_ASSIGNMENTS = f"{READ} or (role:reader and domain_id:%(target.domain_id)s and not None:%(target.domain_id)s)"
_OWN_RULES = "(role:{role} and system_scope:all) or user_id:%(target.user.id)s"


def _read(*names: str) -> list[Rule]:
    """What the operators may see, by their published names."""
    return [Rule(f"identity:{name}", READ, CLOUD) for name in names]


def _write(*names: str) -> list[Rule]:
    """What only the operators who administer the cloud may do."""
    return [Rule(f"identity:{name}", ADMIN, CLOUD) for name in names]


_KEY_OWNER = "user_id:%(target.credential.user_id)s"
_TRUSTOR, _TRUSTEE = "user_id:%(target.trust.trustor_user_id)s", "user_id:%(target.trust.trustee_user_id)s"

RULES = [
    Rule("admin_required", "role:admin or is_admin:1", ANY_SCOPE),
    Rule("service_role", "role:service", ANY_SCOPE),
    Rule("service_or_admin", "rule:admin_required or rule:service_role", ANY_SCOPE),
    Rule("owner", "user_id:%(user_id)s", ANY_SCOPE),
    Rule("admin_or_owner", "rule:admin_required or rule:owner", ANY_SCOPE),
    Rule("token_subject", "user_id:%(target.token.user_id)s", ANY_SCOPE),
    Rule(
        "domain_managed_target_role",
        "'manager':%(target.role.name)s or 'member':%(target.role.name)s or 'reader':%(target.role.name)s",
        ANY_SCOPE,
    ),
    # tokens and what the caller itself may reach
    Rule("identity:check_token", f"{READ} or rule:token_subject", ANY_SCOPE),
    Rule("identity:validate_token", f"{READ} or rule:service_role or rule:token_subject", ANY_SCOPE),
    Rule("identity:revoke_token", f"{ADMIN} or rule:token_subject", ANY_SCOPE),
    Rule("identity:list_revoke_events", "rule:service_or_admin", CLOUD),
    Rule("cumulet:rotate_token_keys", ADMIN, CLOUD),  # our own
    Rule("identity:revocation_list", "rule:service_or_admin", CLOUD),
    Rule("identity:revoke_tokens_for_user", "rule:admin_or_owner", ANY_SCOPE),
    Rule("identity:get_auth_catalog", "", ANY_SCOPE),
    Rule("identity:get_auth_projects", "", ANY_SCOPE),
    Rule("identity:get_auth_domains", "", ANY_SCOPE),
    Rule("identity:get_auth_system", "", ANY_SCOPE),
    # users and groups
    Rule(
        "identity:get_user",
        f"{READ} or (role:reader and token.domain.id:%(target.user.domain_id)s) or user_id:%(target.user.id)s",
        ANY_SCOPE,
    ),
    Rule("identity:list_users", f"{READ} or (role:reader and domain_id:%(target.domain_id)s)", ANY_SCOPE),
    Rule("identity:create_user", _USER_MANAGER, ANY_SCOPE),
    Rule("identity:update_user", _USER_MANAGER, ANY_SCOPE),
    Rule("identity:delete_user", _USER_MANAGER, ANY_SCOPE),
    Rule(
        "identity:list_user_projects",
        f"{READ} or (role:reader and domain_id:%(target.user.domain_id)s) or user_id:%(target.user.id)s",
        ANY_SCOPE,
    ),
    Rule(
        "identity:list_groups_for_user",
        f"{READ} or (role:reader and domain_id:%(target.user.domain_id)s) or user_id:%(user_id)s",
        ANY_SCOPE,
    ),
    Rule("identity:get_group", _GROUP_READER, ANY_SCOPE),
    Rule("identity:list_groups", _GROUP_READER, ANY_SCOPE),
    Rule("identity:create_group", _GROUP_MANAGER, ANY_SCOPE),
    Rule("identity:update_group", _GROUP_MANAGER, ANY_SCOPE),
    Rule("identity:delete_group", _GROUP_MANAGER, ANY_SCOPE),
    Rule("identity:list_users_in_group", _GROUP_READER, ANY_SCOPE),
    Rule(
        "identity:check_user_in_group",
        f"{READ} or (role:reader and domain_id:%(target.group.domain_id)s and domain_id:%(target.user.domain_id)s)",
        ANY_SCOPE,
    ),
    Rule("identity:add_user_to_group", _MEMBERS_MANAGER, ANY_SCOPE),
    Rule("identity:remove_user_from_group", _MEMBERS_MANAGER, ANY_SCOPE),
    # projects and domains
    Rule("identity:get_project", _PROJECT_READER, ANY_SCOPE),
    Rule("identity:list_projects", f"{READ} or (role:reader and domain_id:%(target.domain_id)s)", ANY_SCOPE),
    Rule("identity:create_project", _PROJECT_MANAGER, ANY_SCOPE),
    Rule("identity:update_project", _PROJECT_MANAGER, ANY_SCOPE),
    Rule("identity:delete_project", _PROJECT_MANAGER, ANY_SCOPE),
    Rule("identity:list_project_tags", _PROJECT_READER, ANY_SCOPE),
    Rule("identity:get_project_tag", _PROJECT_READER, ANY_SCOPE),
    Rule("identity:update_project_tags", _PROJECT_MANAGER, ANY_SCOPE),
    Rule("identity:create_project_tag", _PROJECT_MANAGER, ANY_SCOPE),
    Rule("identity:delete_project_tags", _PROJECT_MANAGER, ANY_SCOPE),
    Rule("identity:delete_project_tag", _PROJECT_MANAGER, ANY_SCOPE),
    Rule(
        "identity:get_domain",
        f"{READ} or token.domain.id:%(target.domain.id)s or token.project.domain.id:%(target.domain.id)s",
        ANY_SCOPE,
    ),
    Rule("identity:list_domains", f"{READ} or (role:reader and domain_id:%(target.domain.id)s)", ANY_SCOPE),
    Rule("identity:create_domain", ADMIN, CLOUD),
    Rule("identity:update_domain", ADMIN, CLOUD),
    Rule("identity:delete_domain", ADMIN, CLOUD),
    # roles
    Rule("identity:get_role", f"({READ}) or (role:manager and rule:domain_managed_target_role)", ANY_SCOPE),
    Rule("identity:list_roles", f"({READ}) or (role:manager and not domain_id:None)", ANY_SCOPE),
    Rule("identity:create_role", ADMIN, CLOUD),
    Rule("identity:update_role", ADMIN, CLOUD),
    Rule("identity:delete_role", ADMIN, CLOUD),
    Rule("identity:get_domain_role", READ, CLOUD),
    Rule("identity:list_domain_roles", READ, CLOUD),
    Rule("identity:create_domain_role", ADMIN, CLOUD),
    Rule("identity:update_domain_role", ADMIN, CLOUD),
    Rule("identity:delete_domain_role", ADMIN, CLOUD),
    Rule("identity:get_implied_role", READ, CLOUD),
    Rule("identity:list_implied_roles", READ, CLOUD),
    Rule("identity:create_implied_role", ADMIN, CLOUD),
    Rule("identity:delete_implied_role", ADMIN, CLOUD),
    Rule("identity:list_role_inference_rules", READ, CLOUD),
    Rule("identity:check_implied_role", READ, CLOUD),
    # who has which role where
    Rule(
        "identity:check_grant",
        f"{READ} or ({_grant('reader')}) and {_ROLE_WITHIN}",
        ANY_SCOPE,
    ),
    Rule("identity:list_grants", f"{READ} or {_grant('reader')}", ANY_SCOPE),
    Rule("identity:create_grant", _CHANGE_GRANT, ANY_SCOPE),
    Rule("identity:revoke_grant", _CHANGE_GRANT, ANY_SCOPE),
    Rule("identity:list_system_grants_for_user", READ, CLOUD),
    Rule("identity:check_system_grant_for_user", READ, CLOUD),
    Rule("identity:create_system_grant_for_user", ADMIN, CLOUD),
    Rule("identity:revoke_system_grant_for_user", ADMIN, CLOUD),
    Rule("identity:list_system_grants_for_group", READ, CLOUD),
    Rule("identity:check_system_grant_for_group", READ, CLOUD),
    Rule("identity:create_system_grant_for_group", ADMIN, CLOUD),
    Rule("identity:revoke_system_grant_for_group", ADMIN, CLOUD),
    Rule("identity:list_role_assignments", _ASSIGNMENTS, ANY_SCOPE),
    Rule("identity:list_role_assignments_for_tree", _ASSIGNMENTS, ANY_SCOPE),
    # the catalogue
    Rule("identity:get_service", READ, CLOUD),
    Rule("identity:list_services", READ, CLOUD),
    Rule("identity:create_service", ADMIN, CLOUD),
    Rule("identity:update_service", ADMIN, CLOUD),
    Rule("identity:delete_service", ADMIN, CLOUD),
    Rule("identity:get_endpoint", READ, CLOUD),
    Rule("identity:list_endpoints", READ, CLOUD),
    Rule("identity:create_endpoint", ADMIN, CLOUD),
    Rule("identity:update_endpoint", ADMIN, CLOUD),
    Rule("identity:delete_endpoint", ADMIN, CLOUD),
    Rule("identity:get_region", "", ANY_SCOPE),
    Rule("identity:list_regions", "", ANY_SCOPE),
    Rule("identity:create_region", ADMIN, CLOUD),
    Rule("identity:update_region", ADMIN, CLOUD),
    Rule("identity:delete_region", ADMIN, CLOUD),
    # endpoints by project
    *_read("list_endpoint_groups", "get_endpoint_group", "list_projects_associated_with_endpoint_group"),
    *_read("list_endpoints_associated_with_endpoint_group", "get_endpoint_group_in_project"),
    *_read("list_endpoint_groups_for_project", "list_projects_for_endpoint", "check_endpoint_in_project"),
    *_read("list_endpoints_for_project"),
    *_write("create_endpoint_group", "update_endpoint_group", "delete_endpoint_group"),
    *_write("add_endpoint_group_to_project", "remove_endpoint_group_from_project"),
    *_write("add_endpoint_to_project", "remove_endpoint_from_project"),
    # policies and what they are for
    *_read("get_policy", "list_policies", "get_policy_for_endpoint", "list_endpoints_for_policy"),
    *_read("check_policy_association_for_endpoint", "check_policy_association_for_service"),
    *_read("check_policy_association_for_region_and_service"),
    *_write("create_policy", "update_policy", "delete_policy"),
    *_write("create_policy_association_for_endpoint", "delete_policy_association_for_endpoint"),
    *_write("create_policy_association_for_service", "delete_policy_association_for_service"),
    *_write("create_policy_association_for_region_and_service", "delete_policy_association_for_region_and_service"),
    # limits
    Rule("identity:get_limit_model", "", ANY_SCOPE),
    Rule(
        "identity:get_limit",
        f"{READ} or domain_id:%(target.limit.domain.id)s or domain_id:%(target.limit.project.domain_id)s"
        " or (project_id:%(target.limit.project_id)s and not None:%(target.limit.project_id)s)",
        ANY_SCOPE,
    ),
    Rule("identity:list_limits", "", ANY_SCOPE),
    Rule("identity:get_registered_limit", "", ANY_SCOPE),
    Rule("identity:list_registered_limits", "", ANY_SCOPE),
    *_write("create_limits", "update_limit", "delete_limit"),
    *_write("create_registered_limits", "update_registered_limit", "delete_registered_limit"),
    # the configuration of a domain
    *_read("get_domain_config", "get_domain_config_default"),
    Rule("identity:get_security_compliance_domain_config", "", ANY_SCOPE),
    *_write("create_domain_config", "update_domain_config", "delete_domain_config"),
    # federation
    *_read("list_identity_providers", "get_identity_provider", "get_protocol", "list_protocols"),
    *_read("get_mapping", "list_mappings", "list_service_providers", "get_service_provider"),
    *_write("create_identity_provider", "update_identity_provider", "delete_identity_provider"),
    *_write("create_protocol", "update_protocol", "delete_protocol"),
    *_write("create_mapping", "update_mapping", "delete_mapping"),
    *_write("create_service_provider", "update_service_provider", "delete_service_provider"),
    # application credentials
    Rule("identity:get_application_credential", f"{READ} or rule:owner", CLOUD),
    Rule("identity:list_application_credentials", f"{READ} or rule:owner", CLOUD),
    Rule("identity:create_application_credential", "user_id:%(user_id)s", ("project",)),
    Rule("identity:delete_application_credential", "rule:admin_or_owner", CLOUD),
    Rule("identity:get_access_rule", _OWN_RULES.format(role="reader"), CLOUD),
    Rule("identity:list_access_rules", _OWN_RULES.format(role="reader"), CLOUD),
    Rule("identity:delete_access_rule", _OWN_RULES.format(role="admin"), CLOUD),
    # credentials, trusts, OAuth1
    Rule("identity:get_credential", f"{READ} or {_KEY_OWNER}", ANY_SCOPE),
    Rule("identity:list_credentials", f"{READ} or {_KEY_OWNER}", ANY_SCOPE),
    Rule("identity:create_credential", f"{ADMIN} or {_KEY_OWNER}", ANY_SCOPE),
    Rule("identity:update_credential", f"{ADMIN} or {_KEY_OWNER}", ANY_SCOPE),
    Rule("identity:delete_credential", f"{ADMIN} or {_KEY_OWNER}", ANY_SCOPE),
    Rule("identity:ec2_get_credential", f"{READ} or {_KEY_OWNER}", CLOUD),
    Rule("identity:ec2_list_credentials", f"{READ} or rule:owner", CLOUD),
    Rule("identity:ec2_create_credential", f"{ADMIN} or (role:member and {_KEY_OWNER})", CLOUD),
    Rule("identity:ec2_delete_credential", f"{ADMIN} or (role:member and {_KEY_OWNER})", CLOUD),
    Rule("identity:ec2tokens_validate", "rule:service_or_admin", ANY_SCOPE),
    Rule("identity:s3tokens_validate", "rule:service_or_admin", ANY_SCOPE),
    Rule("identity:create_trust", _TRUSTOR, ("project",)),
    Rule("identity:list_trusts", READ, CLOUD),
    Rule("identity:list_trusts_for_trustor", f"{READ} or {_TRUSTOR}", CLOUD),
    Rule("identity:list_trusts_for_trustee", f"{READ} or {_TRUSTEE}", CLOUD),
    Rule("identity:list_roles_for_trust", f"{READ} or {_TRUSTOR} or {_TRUSTEE}", CLOUD),
    Rule("identity:get_role_for_trust", f"{READ} or {_TRUSTOR} or {_TRUSTEE}", CLOUD),
    Rule("identity:delete_trust", f"{ADMIN} or {_TRUSTOR}", CLOUD),
    Rule("identity:get_trust", f"{READ} or {_TRUSTOR} or {_TRUSTEE}", CLOUD),
    Rule("identity:get_consumer", READ, CLOUD),
    Rule("identity:list_consumers", READ, CLOUD),
    Rule("identity:create_consumer", ADMIN, CLOUD),
    Rule("identity:update_consumer", ADMIN, CLOUD),
    Rule("identity:delete_consumer", ADMIN, CLOUD),
    Rule("identity:authorize_request_token", ADMIN, ("project",)),
    Rule("identity:get_access_token", ADMIN, ("project",)),
    Rule("identity:list_access_tokens", ADMIN, ("project",)),
    Rule("identity:delete_access_token", ADMIN, ("project",)),
    Rule("identity:list_access_token_roles", ADMIN, ("project",)),
    Rule("identity:get_access_token_role", ADMIN, ("project",)),
]
