# SPDX-License-Identifier: Apache-2.0
"""whom identity providers know"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
    op.create_table(
        "federated_users",
        sa.Column("idp_id", sa.String(length=64), nullable=False),
        sa.Column("protocol_id", sa.String(length=64), nullable=False),
        sa.Column("unique_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["idp_id", "protocol_id"], ["federation_protocols.idp_id", "federation_protocols.id"], ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("idp_id", "protocol_id", "unique_id"),
    )
    op.create_index(op.f("ix_federated_users_user_id"), "federated_users", ["user_id"], unique=False)
