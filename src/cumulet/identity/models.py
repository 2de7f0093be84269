# SPDX-License-Identifier: Apache-2.0
"""The tables of identity.

A domain is a project row with ``is_domain``; absent parents and domains are
empty text, so that uniqueness holds for them too. ``voided`` is the number of
the change that made all older tokens of the row void; ``feed`` holds the number
of the newest change, raised in the transaction of every change that alters what
a token says.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

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
    UniqueConstraint("domain_id", "name"),
)

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
    Column("user_id", String(64), nullable=True),
    Column("project_id", String(64), nullable=True),
    Column("domain_id", String(64), nullable=True),
    Column("role_id", String(64), nullable=True),
    Column("issued_before", Time, nullable=False),
    Column("made_at", Time, nullable=False, index=True),
)
"""One row per change; ``issued_before`` is 0 where no token became void but what it says changed."""
