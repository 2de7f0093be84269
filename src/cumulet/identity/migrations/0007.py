# SPDX-License-Identifier: Apache-2.0
"""registered limits outlive their service

SQLite can't drop a constraint, and dropping the table would take the limits below it along: both are kept aside, made
anew and filled again, by the same statements on both databases.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

REGISTERED = "id, service_id, region_id, resource_name, default_limit, description"
LIMITS = "id, registered_limit_id, project_id, domain_id, resource_limit, description"


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
    op.execute("CREATE TABLE kept_registered_limits AS SELECT * FROM registered_limits")
    op.execute("CREATE TABLE kept_limits AS SELECT * FROM limits")
    op.drop_table("limits")
    op.drop_table("registered_limits")
    op.create_table(
        "registered_limits",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("region_id", sa.String(length=255), nullable=False),
        sa.Column("resource_name", sa.String(length=255), nullable=False),
        sa.Column("default_limit", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("service_id", "region_id", "resource_name"),
    )
    op.create_table(
        "limits",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("registered_limit_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("domain_id", sa.String(length=64), nullable=False),
        sa.Column("resource_limit", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["registered_limit_id"], ["registered_limits.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project_id", "domain_id", "registered_limit_id"),
    )
    op.create_index(op.f("ix_limits_registered_limit_id"), "limits", ["registered_limit_id"], unique=False)
    op.execute(f"INSERT INTO registered_limits ({REGISTERED}) SELECT {REGISTERED} FROM kept_registered_limits")  # noqa: S608
    op.execute(f"INSERT INTO limits ({LIMITS}) SELECT {LIMITS} FROM kept_limits")  # noqa: S608
    op.drop_table("kept_registered_limits")
    op.drop_table("kept_limits")
