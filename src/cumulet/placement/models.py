# SPDX-License-Identifier: Apache-2.0
"""The tables of placement.

Invariants: `inventories.used` is the sum of the allocations of its provider
and class, changed only where allocations are written; a provider whose
summary changed has ``changed`` empty until the feed gives it a number.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Integer, MetaData, String, Table

from cumulet.kernel.db import Time
from cumulet.kernel.fences import fence_table

METADATA = MetaData()

PROVIDERS = Table(
    "resource_providers",
    METADATA,
    Column("uuid", String(36), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("generation", Integer, nullable=False),
    Column("parent_uuid", String(36), ForeignKey("resource_providers.uuid"), index=True),
    Column("root_uuid", String(36), nullable=False, index=True),
    Column("changed", BigInteger, index=True),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
)

INVENTORIES = Table(
    "inventories",
    METADATA,
    Column("provider_uuid", String(36), ForeignKey("resource_providers.uuid"), primary_key=True),
    Column("resource_class", String(255), primary_key=True, index=True),
    Column("total", Integer, nullable=False),
    Column("reserved", Integer, nullable=False),
    Column("min_unit", Integer, nullable=False),
    Column("max_unit", Integer, nullable=False),
    Column("step_size", Integer, nullable=False),
    Column("allocation_ratio", Float(53), nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("updated_at", Time, nullable=False),
)

PROVIDER_TRAITS = Table(
    "provider_traits",
    METADATA,
    Column("provider_uuid", String(36), ForeignKey("resource_providers.uuid"), primary_key=True),
    Column("trait", String(255), primary_key=True, index=True),
)

PROVIDER_AGGREGATES = Table(
    "provider_aggregates",
    METADATA,
    Column("provider_uuid", String(36), ForeignKey("resource_providers.uuid"), primary_key=True),
    Column("aggregate_uuid", String(36), primary_key=True, index=True),
)

CUSTOM_TRAITS = Table(
    "custom_traits",
    METADATA,
    Column("name", String(255), primary_key=True),
    Column("created_at", Time, nullable=False),
)

CUSTOM_CLASSES = Table(
    "custom_resource_classes",
    METADATA,
    Column("name", String(255), primary_key=True),
    Column("created_at", Time, nullable=False),
)

CONSUMERS = Table(
    "consumers",
    METADATA,
    Column("uuid", String(36), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("project_id", String(255), nullable=False, index=True),
    Column("user_id", String(255), nullable=False),
    Column("consumer_type", String(255)),
    Column("created_at", Time, nullable=False),
)

ALLOCATIONS = Table(
    "allocations",
    METADATA,
    Column("consumer_uuid", String(36), ForeignKey("consumers.uuid"), primary_key=True),
    Column("provider_uuid", String(36), ForeignKey("resource_providers.uuid"), primary_key=True, index=True),
    Column("resource_class", String(255), primary_key=True),
    Column("used", Integer, nullable=False),
    Column("created_at", Time, nullable=False),
)

TOMBSTONES = Table(
    "deleted_providers",
    METADATA,
    Column("uuid", String(36), primary_key=True),
    Column("changed", BigInteger, index=True),
    Column("deleted_at", Time, nullable=False),
)

SEQUENCE = Table(
    "feed_sequence",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

FENCES = fence_table(METADATA)
