# SPDX-License-Identifier: Apache-2.0
"""The tables of identity.

A domain is a project row with ``is_domain``; absent parents and domains are
empty text, so that uniqueness holds for them too. ``voided`` is the number of
the change that made all older tokens of the row void; ``feed`` holds the number
of the newest change, raised in the transaction of every change that alters what
a token says.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from cumulet.kernel.db import Json, Time

METADATA = MetaData()

USERS = Table(
    "users",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("domain_id", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("default_project_id", String(64), nullable=True),
    Column("password_hash", Text, nullable=True),
    Column("options", Json, nullable=False),
    Column("extra", Json, nullable=False),
    Column("voided", Integer, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("password_changed_at", Time, nullable=True),
    Column("password_expires_at", Time, nullable=True),
    Column("password_own", Boolean, nullable=True),
    Column("failures", Integer, nullable=True),
    Column("failed_at", Time, nullable=True),
    Column("last_active_at", Time, nullable=True),
    UniqueConstraint("domain_id", "name"),
)
"""``password_own``: the user chose the password itself; ``failures``: wrong passwords since the last right one."""

GROUPS = Table(
    "groups",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("domain_id", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=False),
    Column("extra", Json, nullable=False),
    UniqueConstraint("domain_id", "name"),
)

MEMBERSHIPS = Table(
    "memberships",
    METADATA,
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("group_id", String(64), ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True, index=True),
)

PROJECTS = Table(
    "projects",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("domain_id", String(64), nullable=False),
    Column("parent_id", String(64), nullable=False, index=True),
    Column("is_domain", Boolean, nullable=False),
    Column("name", String(64), nullable=False),
    Column("description", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("options", Json, nullable=False),
    Column("extra", Json, nullable=False),
    Column("voided", Integer, nullable=False),
    UniqueConstraint("domain_id", "name"),
)

TAGS = Table(
    "project_tags",
    METADATA,
    Column("project_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(255), primary_key=True),
)

ROLES = Table(
    "roles",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("domain_id", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=True),
    Column("options", Json, nullable=False),
    Column("extra", Json, nullable=False),
    UniqueConstraint("domain_id", "name"),
)

IMPLIED_ROLES = Table(
    "implied_roles",
    METADATA,
    Column("prior_id", String(64), ForeignKey("roles.id", ondelete="CASCADE"), primary_key=True),
    Column("implied_id", String(64), ForeignKey("roles.id", ondelete="CASCADE"), primary_key=True, index=True),
)

ASSIGNMENTS = Table(
    "assignments",
    METADATA,
    Column("actor_type", String(5), primary_key=True),
    Column("actor_id", String(64), primary_key=True),
    Column("target_type", String(7), primary_key=True),
    Column("target_id", String(64), primary_key=True),
    Column("role_id", String(64), ForeignKey("roles.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("inherited", Boolean, primary_key=True),
    Index("ix_assignments_target", "target_type", "target_id"),
)
"""actor_type is ``user`` or ``group``; target_type ``project``, ``domain`` or ``system`` (whose id is ``system``)."""

SERVICES = Table(
    "services",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("type", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("extra", Json, nullable=False),
)

REGIONS = Table(
    "regions",
    METADATA,
    Column("id", String(255), primary_key=True),
    Column("description", Text, nullable=False),
    Column("parent_region_id", String(255), nullable=True),
    Column("extra", Json, nullable=False),
)

ENDPOINTS = Table(
    "endpoints",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("service_id", String(64), ForeignKey("services.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("interface", String(8), nullable=False),
    Column("region_id", String(255), ForeignKey("regions.id"), nullable=True, index=True),
    Column("url", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("extra", Json, nullable=False),
)

APPLICATION_CREDENTIALS = Table(
    "application_credentials",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("project_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(255), nullable=False),
    Column("secret_hash", Text, nullable=False),
    Column("description", Text, nullable=True),
    Column("expires_at", Time, nullable=True),
    Column("unrestricted", Boolean, nullable=True),
    Column("role_ids", Json, nullable=False),
    Column("access_rule_ids", Json, nullable=True),
    UniqueConstraint("user_id", "name"),
)

ACCESS_RULES = Table(
    "access_rules",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("service", String(64), nullable=False),
    Column("path", String(255), nullable=False),
    Column("method", String(8), nullable=False),
    UniqueConstraint("user_id", "service", "path", "method"),
)

# ---- endpoints by project, policies, limits

ENDPOINT_GROUPS = Table(
    "endpoint_groups",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=True),
    Column("filters", Json, nullable=False),
)

PROJECT_ENDPOINTS = Table(
    "project_endpoints",
    METADATA,
    Column("project_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("endpoint_id", String(64), ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True, index=True),
)

PROJECT_ENDPOINT_GROUPS = Table(
    "project_endpoint_groups",
    METADATA,
    Column("project_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column(
        "endpoint_group_id", String(64), ForeignKey("endpoint_groups.id", ondelete="CASCADE"), primary_key=True,
        index=True,
    ),
)  # fmt: skip

POLICIES = Table(
    "policies",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("type", String(255), nullable=False),
    Column("blob", Text, nullable=False),
    Column("extra", Json, nullable=False),
)

POLICY_ASSOCIATIONS = Table(
    "policy_associations",
    METADATA,
    Column("endpoint_id", String(64), primary_key=True),
    Column("service_id", String(64), primary_key=True),
    Column("region_id", String(255), primary_key=True),
    Column("policy_id", String(64), ForeignKey("policies.id", ondelete="CASCADE"), nullable=False, index=True),
)
"""What has which policy: an endpoint, a service, or a service in a region; empty where not named."""

REGISTERED_LIMITS = Table(
    "registered_limits",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("service_id", String(64), nullable=False),
    Column("region_id", String(255), nullable=False),
    Column("resource_name", String(255), nullable=False),
    Column("default_limit", Integer, nullable=False),
    Column("description", Text, nullable=True),
    UniqueConstraint("service_id", "region_id", "resource_name"),
)
"""The region is empty text for all regions. A registered limit stays when its service or region goes."""

LIMITS = Table(
    "limits",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column(
        "registered_limit_id", String(64), ForeignKey("registered_limits.id", ondelete="CASCADE"), nullable=False,
        index=True,
    ),
    Column("project_id", String(64), nullable=False),
    Column("domain_id", String(64), nullable=False),
    Column("resource_limit", Integer, nullable=False),
    Column("description", Text, nullable=True),
    UniqueConstraint("project_id", "domain_id", "registered_limit_id"),
)  # fmt: skip
"""One of project and domain is empty text."""

DOMAIN_OPTIONS = Table(
    "domain_options",
    METADATA,
    Column("domain_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("section", String(255), primary_key=True),
    Column("option", String(255), primary_key=True),
    Column("value", Json, nullable=False),
)
"""The configuration of a domain; the value of a sensitive option is sealed."""

DIRECTORY_IDS = Table(
    "directory_ids",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("domain_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", String(5), nullable=False),
    Column("local_id", String(255), nullable=False),
    Column("gone", Boolean, nullable=False),
)
"""Who of a domain's directory is meant by a published id; ``kind`` is ``user`` or ``group``.

A row of users or of groups with such an id is what was last seen of it there.
``gone``: the directory does not know it any more.
"""

# ---- federation

IDENTITY_PROVIDERS = Table(
    "identity_providers",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("domain_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("enabled", Boolean, nullable=False),
    Column("description", Text, nullable=True),
    Column("authorization_ttl", Integer, nullable=True),
)

REMOTE_IDS = Table(
    "remote_ids",
    METADATA,
    Column("remote_id", String(255), primary_key=True),
    Column("idp_id", String(64), ForeignKey("identity_providers.id", ondelete="CASCADE"), nullable=False, index=True),
)
"""How providers name themselves; no two may share a name."""

PROTOCOLS = Table(
    "federation_protocols",
    METADATA,
    Column("idp_id", String(64), ForeignKey("identity_providers.id", ondelete="CASCADE"), primary_key=True),
    Column("id", String(64), primary_key=True),
    Column("mapping_id", String(64), nullable=False),
    Column("remote_id_attribute", String(64), nullable=True),
)

FEDERATED_USERS = Table(
    "federated_users",
    METADATA,
    Column("idp_id", String(64), primary_key=True),
    Column("protocol_id", String(64), primary_key=True),
    Column("unique_id", String(255), primary_key=True),
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    ForeignKeyConstraint(
        ["idp_id", "protocol_id"],
        ["federation_protocols.idp_id", "federation_protocols.id"],
        ondelete="CASCADE",
    ),
)
"""Whom a provider calls ``unique_id`` when it tells of him by a protocol."""

MAPPINGS = Table(
    "mappings",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("rules", Json, nullable=False),
    Column("schema_version", String(5), nullable=False),
)

SERVICE_PROVIDERS = Table(
    "service_providers",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("description", Text, nullable=True),
    Column("auth_url", String(256), nullable=False),
    Column("sp_url", String(256), nullable=False),
    Column("relay_state_prefix", String(256), nullable=False),
)

FEED = Table(
    "feed",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", Integer, nullable=False),
)

CHANGES = Table(
    "changes",
    METADATA,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("audit_id", String(32), nullable=True, index=True),
    Column("audit_chain_id", String(32), nullable=True, index=True),
    Column("user_id", String(64), nullable=True),
    Column("project_id", String(64), nullable=True),
    Column("domain_id", String(64), nullable=True),
    Column("role_id", String(64), nullable=True),
    Column("issued_before", Time, nullable=False),
    Column("made_at", Time, nullable=False, index=True),
)
"""One row per change; ``issued_before`` is 0 where no token became void but what it says changed."""

OLD_PASSWORDS = Table(
    "old_passwords",
    METADATA,
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("made_at", Time, primary_key=True),
    Column("password_hash", Text, nullable=False),
)
"""What a user may not choose again; none is kept unless the operator asks for unique passwords."""

CREDENTIALS = Table(
    "credentials",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("user_id", String(255), nullable=False, index=True),
    Column("project_id", String(255), nullable=True, index=True),
    Column("type", String(255), nullable=False),
    Column("sealed", Text, nullable=False),
    Column("extra", Json, nullable=False),
)
"""``sealed`` is the credential itself, encrypted."""

TRUSTS = Table(
    "trusts",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("trustor_user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("trustee_user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("project_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), nullable=True, index=True),
    Column("impersonation", Boolean, nullable=False),
    Column("role_ids", Json, nullable=False),
    Column("expires_at", Time, nullable=True),
    Column("remaining_uses", Integer, nullable=True),
    Column("redelegated_trust_id", String(64), ForeignKey("trusts.id", ondelete="CASCADE"), nullable=True, index=True),
    Column("redelegation_count", Integer, nullable=False),
    Column("extra", Json, nullable=False),
)

CONSUMERS = Table(
    "oauth1_consumers",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("description", Text, nullable=True),
    Column("sealed", Text, nullable=False),
    Column("extra", Json, nullable=False),
)

REQUEST_TOKENS = Table(
    "oauth1_request_tokens",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column(
        "consumer_id", String(64), ForeignKey("oauth1_consumers.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("project_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), nullable=True, index=True),
    Column("sealed", Text, nullable=False),
    Column("verifier", String(64), nullable=True),
    Column("role_ids", Json, nullable=True),
    Column("expires_at", Time, nullable=True),
)

ACCESS_TOKENS = Table(
    "oauth1_access_tokens",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column(
        "consumer_id", String(64), ForeignKey("oauth1_consumers.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    Column("project_id", String(64), ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("user_id", String(64), ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("sealed", Text, nullable=False),
    Column("role_ids", Json, nullable=False),
    Column("expires_at", Time, nullable=True),
)
"""OAuth1: a user lets a consumer act with some of its roles on a project; ``sealed`` are the shared secrets."""

TOKEN_KEYS = Table(
    "token_keys",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("sealed", Text, nullable=False),
    Column("made_at", Time, nullable=False),
)
"""The keys that rotations made, newest with the highest number; before the first one there is the file of secrets."""
