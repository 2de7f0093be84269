# SPDX-License-Identifier: Apache-2.0
"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
    op.create_table(
        "consumers",
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("consumer_type", sa.String(length=255), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("uuid"),
    )
    op.create_index(op.f("ix_consumers_project_id"), "consumers", ["project_id"], unique=False)
    op.create_table(
        "custom_resource_classes",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "custom_traits",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "deleted_providers",
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=True),
        sa.Column("deleted_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("uuid"),
    )
    op.create_index(op.f("ix_deleted_providers_changed"), "deleted_providers", ["changed"], unique=False)
    op.create_table(
        "feed_sequence",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "resource_providers",
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("parent_uuid", sa.String(length=36), nullable=True),
        sa.Column("root_uuid", sa.String(length=36), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.Column("updated_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["parent_uuid"],
            ["resource_providers.uuid"],
        ),
        sa.PrimaryKeyConstraint("uuid"),
        sa.UniqueConstraint("name"),
    )
    op.create_index(op.f("ix_resource_providers_changed"), "resource_providers", ["changed"], unique=False)
    op.create_index(op.f("ix_resource_providers_parent_uuid"), "resource_providers", ["parent_uuid"], unique=False)
    op.create_index(op.f("ix_resource_providers_root_uuid"), "resource_providers", ["root_uuid"], unique=False)
    op.create_table(
        "allocations",
        sa.Column("consumer_uuid", sa.String(length=36), nullable=False),
        sa.Column("provider_uuid", sa.String(length=36), nullable=False),
        sa.Column("resource_class", sa.String(length=255), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["consumer_uuid"],
            ["consumers.uuid"],
        ),
        sa.ForeignKeyConstraint(
            ["provider_uuid"],
            ["resource_providers.uuid"],
        ),
        sa.PrimaryKeyConstraint("consumer_uuid", "provider_uuid", "resource_class"),
    )
    op.create_index(op.f("ix_allocations_provider_uuid"), "allocations", ["provider_uuid"], unique=False)
    op.create_table(
        "inventories",
        sa.Column("provider_uuid", sa.String(length=36), nullable=False),
        sa.Column("resource_class", sa.String(length=255), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("reserved", sa.Integer(), nullable=False),
        sa.Column("min_unit", sa.Integer(), nullable=False),
        sa.Column("max_unit", sa.Integer(), nullable=False),
        sa.Column("step_size", sa.Integer(), nullable=False),
        sa.Column("allocation_ratio", sa.Float(precision=53), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(
            ["provider_uuid"],
            ["resource_providers.uuid"],
        ),
        sa.PrimaryKeyConstraint("provider_uuid", "resource_class"),
    )
    op.create_index(op.f("ix_inventories_resource_class"), "inventories", ["resource_class"], unique=False)
    op.create_table(
        "provider_aggregates",
        sa.Column("provider_uuid", sa.String(length=36), nullable=False),
        sa.Column("aggregate_uuid", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["provider_uuid"],
            ["resource_providers.uuid"],
        ),
        sa.PrimaryKeyConstraint("provider_uuid", "aggregate_uuid"),
    )
    op.create_index(
        op.f("ix_provider_aggregates_aggregate_uuid"), "provider_aggregates", ["aggregate_uuid"], unique=False
    )
    op.create_table(
        "provider_traits",
        sa.Column("provider_uuid", sa.String(length=36), nullable=False),
        sa.Column("trait", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(
            ["provider_uuid"],
            ["resource_providers.uuid"],
        ),
        sa.PrimaryKeyConstraint("provider_uuid", "trait"),
    )
    op.create_index(op.f("ix_provider_traits_trait"), "provider_traits", ["trait"], unique=False)
