# SPDX-License-Identifier: Apache-2.0
"""Swap in MiB; an index of servers' addresses"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
    op.create_table(
        "server_addresses",
        sa.Column("server_id", sa.String(length=36), nullable=False),
        sa.Column("network_id", sa.String(length=36), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.PrimaryKeyConstraint("server_id", "network_id", "address"),
    )
    op.create_index("ix_server_addresses_guest", "server_addresses", ["network_id", "address"], unique=False)
    op.add_column("block_devices", sa.Column("swap_mib", sa.Integer(), nullable=True))
