# SPDX-License-Identifier: Apache-2.0
"""RBAC policies"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
    op.create_table(
        "rbac_policies",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("object_type", sa.String(length=32), nullable=False),
        sa.Column("object_id", sa.String(length=36), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("object_id", "action", "target", name="uq_rbac_policies"),
    )
    op.create_index(op.f("ix_rbac_policies_object_id"), "rbac_policies", ["object_id"], unique=False)
    op.create_index(op.f("ix_rbac_policies_project_id"), "rbac_policies", ["project_id"], unique=False)
    op.create_index(op.f("ix_rbac_policies_target"), "rbac_policies", ["target"], unique=False)
    # what networks said of themselves, as policies; the ids are the networks' own, made different
    op.execute(
        "INSERT INTO rbac_policies (id, project_id, object_type, object_id, action, target) "
        "SELECT '5ba2ed00' || substr(id, 9), project_id, 'network', id, 'access_as_shared', '*' "
        "FROM networks WHERE shared"
    )
    op.execute(
        "INSERT INTO rbac_policies (id, project_id, object_type, object_id, action, target) "
        "SELECT 'e87e4a10' || substr(id, 9), project_id, 'network', id, 'access_as_external', '*' "
        "FROM networks WHERE external"
    )
