# SPDX-License-Identifier: Apache-2.0
"""DHCP options of ports"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
    op.add_column("ports", sa.Column("extra_dhcp_opts", sa.Text(), server_default="[]", nullable=False))
