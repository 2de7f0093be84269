# SPDX-License-Identifier: Apache-2.0
"""The tables of the volume service. Deleted rows stay as tombstones and are purged by age."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

from cumulet.kernel.db import Json, Time
from cumulet.kernel.fences import fence_table
from cumulet.kernel.quota import quota_tables
from cumulet.kernel.saga import saga_table

METADATA = MetaData()

TYPES = Table(
    "volume_types",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("description", String(255)),
    Column("is_public", Boolean, nullable=False),
    Column("extra_specs", Json, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time),
)

TYPE_ACCESS = Table(
    "volume_type_access",  # who may use a type that is not public
    METADATA,
    Column("type_id", String(36), ForeignKey("volume_types.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", String(64), primary_key=True),
)

VOLUMES = Table(
    "volumes",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("name", String(255)),
    Column("description", String(255)),
    Column("status", String(32), nullable=False),
    Column("size", Integer, nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("availability_zone", String(255), nullable=False),
    Column("host", String(255)),  # host@backend#pool
    Column("type_id", String(36), ForeignKey("volume_types.id"), nullable=False),
    Column("multiattach", Boolean, nullable=False),
    Column("bootable", Boolean, nullable=False),
    Column("readonly", Boolean, nullable=False),
    Column("snapshot_id", String(36)),
    Column("source_volid", String(36)),
    Column("image_id", String(36)),
    Column("fault", Text),  # why it is in error
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time),
    Column("deleted_at", Time),
    Index("ix_volumes_project", "project_id", "created_at", "id"),
    Index("ix_volumes_host", "host"),
    Index("ix_volumes_status", "status"),
)

SNAPSHOTS = Table(
    "snapshots",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("volume_id", String(36), ForeignKey("volumes.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(255)),
    Column("description", String(255)),
    Column("status", String(32), nullable=False),
    Column("size", Integer, nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("type_id", String(36), nullable=False),
    Column("host", String(255)),
    Column("progress", String(8), nullable=False),
    Column("fault", Text),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time),
    Column("deleted_at", Time),
    Index("ix_snapshots_project", "project_id", "created_at", "id"),
)

WORDS = Table(
    "words",  # metadata of volumes (user, image) and snapshots (snapshot)
    METADATA,
    Column("owner_id", String(36), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("value", Text, nullable=False),
)

ATTACHMENTS = Table(
    "attachments",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("volume_id", String(36), ForeignKey("volumes.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("project_id", String(64), nullable=False),
    Column("instance_uuid", String(36), index=True),
    Column("status", String(32), nullable=False),
    Column("mode", String(8)),
    Column("host_name", String(255)),  # where it is connected
    Column("mountpoint", String(255)),
    Column("connector", Json),
    Column("connection_info", Json),
    Column("attached_at", Time),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time),
)

SERVICES = Table(
    "services",
    METADATA,
    Column("host", String(255), primary_key=True),  # host, or host@backend
    Column("binary", String(32), primary_key=True),
    Column("zone", String(255), nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("disabled_reason", String(255)),
    Column("total_gib", Float),
    Column("free_gib", Float),
    Column("protocol", String(32)),
    Column("created_at", Time, nullable=False),
    Column("seen_at", Time, nullable=False),
)

QUOTA_USAGE, QUOTA_LIMITS = quota_tables(METADATA)
SAGAS = saga_table(METADATA)
FENCES = fence_table(METADATA)
