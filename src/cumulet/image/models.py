# SPDX-License-Identifier: Apache-2.0
"""The tables of the image service. Deleted images stay as tombstones: an id is never used twice."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

from cumulet.kernel.db import Json, Time
from cumulet.kernel.fences import fence_table
from cumulet.kernel.saga import saga_table

METADATA = MetaData()

images = Table(
    "images",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=True),
    Column("status", String(30), nullable=False),
    Column("visibility", String(9), nullable=False),
    Column("owner", String(255)),
    Column("protected", Boolean, nullable=False),
    Column("os_hidden", Boolean, nullable=False),
    Column("container_format", String(20)),
    Column("disk_format", String(20)),
    Column("min_disk", Integer, nullable=False),
    Column("min_ram", Integer, nullable=False),
    Column("size", BigInteger),
    Column("virtual_size", BigInteger),
    Column("checksum", String(32)),
    Column("os_hash_algo", String(64)),
    Column("os_hash_value", String(128)),
    Column("staged_key", String(80)),  # where the staging area holds bytes that wait for their import
    Column("task_id", String(36)),  # the import or copy in work: one at a time
    Column("importing", Text),  # stores that it has still to fill, and stores that it could not fill, by commas
    Column("failed", Text),
    Column("upload_id", String(36)),  # the upload in work, and when its process last said so
    Column("upload_seen_at", Time),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("deleted_at", Time),
    Index("ix_images_list", "visibility", "created_at", "id"),
    Index("ix_images_owner", "owner", "created_at", "id"),
    Index("ix_images_name", "name"),
    Index("ix_images_status", "status"),
)

locations = Table(
    "image_locations",
    METADATA,
    Column("image_id", String(36), ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("store", String(64), nullable=False),
    Column("key", Text, nullable=False),  # the store's own name of the bytes
    Column("details", Json, nullable=False),  # metadata that a client attached
)

properties = Table(
    "image_properties",
    METADATA,
    Column("image_id", String(36), ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("value", Text, nullable=False),
)

tags = Table(
    "image_tags",
    METADATA,
    Column("image_id", String(36), ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(255), primary_key=True),
    Index("ix_image_tags_tag", "tag"),
)

members = Table(
    "image_members",
    METADATA,
    Column("image_id", String(36), ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("member_id", String(255), primary_key=True),
    Column("status", String(20), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Index("ix_image_members_member", "member_id"),
)

tasks = Table(
    "tasks",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("type", String(30), nullable=False),
    Column("status", String(30), nullable=False),
    Column("owner", String(255), nullable=False),
    Column("image_id", String(36), nullable=False, index=True),
    Column("request_id", String(255), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("input", Json, nullable=False),
    Column("message", Text, nullable=False),
    Column("result", Json),
    Column("expires_at", Time),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
)

cache = Table(
    "image_cache",
    METADATA,
    Column("node", String(255), primary_key=True),  # the machine whose cache it is
    Column("image_id", String(36), primary_key=True),
    Column("key", String(80)),  # where the cache holds the bytes; nothing yet for one that is only queued
    Column("size", BigInteger, nullable=False),
    Column("hits", Integer, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("accessed_at", Time, nullable=False),
)

sagas = saga_table(METADATA)
fences = fence_table(METADATA)

# ---- metadata definitions

namespaces = Table(
    "metadef_namespaces",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("namespace", String(80), nullable=False, unique=True),
    Column("display_name", String(80)),
    Column("description", Text),
    Column("visibility", String(25), nullable=False),
    Column("protected", Boolean, nullable=False),
    Column("owner", String(255)),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
)

definitions = Table(
    "metadef_definitions",
    METADATA,
    Column("namespace_id", String(36), ForeignKey("metadef_namespaces.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", String(8), primary_key=True),  # object, property or tag
    Column("name", String(80), primary_key=True),
    Column("body", Json, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
)

resource_types = Table(
    "metadef_resource_types",
    METADATA,
    Column("name", String(80), primary_key=True),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
)

associations = Table(
    "metadef_associations",
    METADATA,
    Column("namespace_id", String(36), ForeignKey("metadef_namespaces.id", ondelete="CASCADE"), primary_key=True),
    Column("resource_type", String(80), ForeignKey("metadef_resource_types.name"), primary_key=True),
    Column("prefix", String(80)),
    Column("properties_target", String(80)),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
)
