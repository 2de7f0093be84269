# SPDX-License-Identifier: Apache-2.0
"""The tables of the image service. Deleted images stay as tombstones: an id is never used twice."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

from cumulet.kernel.db import Json, Time

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
    Column("data_key", String(80)),  # where the store holds the bytes
    Column("staged_key", String(80)),  # where the staging area holds them
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
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
)
