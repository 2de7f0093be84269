# SPDX-License-Identifier: Apache-2.0
"""The tables of the compute service.

A server's row is complete: what a GET shows is in it or beside it, so no read
calls another service. Deleted servers stay as tombstones (``deleted_at``) until
they are purged by age; their instance actions stay with them.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text, false, func, select, true

from cumulet.kernel.db import Json, Time, Transaction
from cumulet.kernel.outbox import outbox_table
from cumulet.kernel.quota import quota_tables
from cumulet.kernel.saga import saga_table

METADATA = MetaData()

SERVERS = Table(
    "servers",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("project_id", String(64), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("hostname", String(255), nullable=False),
    Column("description", String(255)),
    Column("vm_state", String(32), nullable=False),
    Column("task_state", String(48)),
    Column("power_state", Integer, nullable=False, server_default="0"),
    Column("progress", Integer, nullable=False, server_default="0"),
    Column("host", String(255), index=True),
    Column("node", String(255)),
    Column("availability_zone", String(255)),
    Column("pinned_availability_zone", String(255)),
    Column("flavor", Json, nullable=False),
    Column("image_id", String(36)),
    Column("image_properties", Json, nullable=False, server_default="{}"),
    Column("key_name", String(255)),
    Column("key_data", Json),
    Column("user_data", Text),
    Column("config_drive", Boolean, nullable=False, server_default=false()),
    Column("personality", Json, nullable=False, server_default="[]"),
    Column("metadata", Json, nullable=False, server_default="{}"),
    Column("tags", Json, nullable=False, server_default="[]"),
    Column("locked", Boolean, nullable=False, server_default=false()),
    Column("locked_by", String(8)),
    Column("locked_reason", String(255)),
    Column("disk_config", String(8), nullable=False, server_default="MANUAL"),
    Column("reservation_id", String(32)),
    Column("launch_index", Integer, nullable=False, server_default="0"),
    Column("scheduler_hints", Json, nullable=False, server_default="{}"),
    Column("server_group_id", String(36), index=True),
    Column("trusted_certs", Json),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("built", Json),
    Column("fault", Json),
    Column("why", Json),
    Column("slots", Json, nullable=False, server_default="[]"),
    Column("security_groups", Json, nullable=False, server_default="[]"),
    Column("network_cache", Json, nullable=False, server_default="[]"),
    Column("access_ip_v4", String(39)),
    Column("access_ip_v6", String(39)),
    Column("admin_pass_sealed", Text),
    Column("guest_password", Text),
    Column("root_device_name", String(255)),
    Column("saga_id", String(36)),
    Column("request_id", String(64)),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Column("launched_at", Time),
    Column("terminated_at", Time),
    Column("deleted_at", Time),
    Index("ix_servers_list", "project_id", "deleted_at", "created_at"),
    Index("ix_servers_all", "deleted_at", "created_at"),
    Index("ix_servers_changes", "updated_at"),
)
"""``flavor`` is the flavor as it was; ``slots`` the wanted NICs (`sagas.params.NetworkSlot`); ``network_cache`` what
the network service last said (``built``: what the host
of an attempt reported at its end): [{network_id, network_label, port_id, mac, addresses: [{addr, version, type,
subnet_id}], security_groups: [{id, name}], tag, mtu …}]."""

BLOCK_DEVICES = Table(
    "block_devices",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("server_id", String(36), nullable=False, index=True),
    Column("position", Integer, nullable=False, server_default="0"),
    Column("boot_index", Integer),
    Column("source_type", String(16), nullable=False),
    Column("destination_type", String(16), nullable=False),
    Column("volume_id", String(36), index=True),
    Column("image_id", String(36)),
    Column("snapshot_id", String(36)),
    Column("size_gib", Integer),
    Column("swap_mib", Integer),
    Column("volume_type", String(255)),
    Column("delete_on_termination", Boolean, nullable=False, server_default=false()),
    Column("device_name", String(255)),
    Column("device_type", String(255)),
    Column("disk_bus", String(255)),
    Column("guest_format", String(255)),
    Column("attachment_id", String(36)),
    Column("tag", String(60)),
    Column("created_by_us", Boolean, nullable=False, server_default=false()),
    Column("created_at", Time, nullable=False),
)
"""Every disk of a server, the local root disk among them. ``created_by_us``: the volume is made for this server.
``swap_mib`` is the size of swap, which is published in MiB (and counts in whole GiB)."""

FLAVORS = Table(
    "flavors",
    METADATA,
    Column("id", String(255), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("description", Text),
    Column("vcpus", Integer, nullable=False),
    Column("ram", Integer, nullable=False),
    Column("disk", Integer, nullable=False),
    Column("ephemeral", Integer, nullable=False, server_default="0"),
    Column("swap", Integer, nullable=False, server_default="0"),
    Column("rxtx_factor", Float, nullable=False, server_default="1"),
    Column("is_public", Boolean, nullable=False, server_default=true()),
    Column("disabled", Boolean, nullable=False, server_default=false()),
    Column("extra_specs", Json, nullable=False, server_default="{}"),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time),
)
"""``ram`` and ``swap`` are in MiB, ``disk`` and ``ephemeral`` in GiB, as published."""

FLAVOR_ACCESS = Table(
    "flavor_access",
    METADATA,
    Column("flavor_id", String(255), primary_key=True),
    Column("project_id", String(64), primary_key=True),
)

KEYPAIRS = Table(
    "keypairs",
    METADATA,
    Column("user_id", String(64), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("type", String(8), nullable=False, server_default="ssh"),
    Column("fingerprint", String(255), nullable=False),
    Column("public_key", Text, nullable=False),
    Column("created_at", Time, nullable=False),
)

HOSTS = Table(
    "hosts",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("host", String(255), nullable=False),
    Column("binary", String(64), nullable=False),
    Column("zone", String(255), nullable=False, server_default="nova"),
    Column("status", String(16), nullable=False, server_default="enabled"),
    Column("disabled_reason", String(255)),
    Column("forced_down", Boolean, nullable=False, server_default=false()),
    Column("last_seen", Time, nullable=False),
    Column("node", String(36)),
    Column("resources", Json, nullable=False, server_default="{}"),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time),
    Index("ix_hosts_host_binary", "host", "binary", unique=True),
)
"""The services of this system on their hosts. ``node`` is the resource provider of a ``nova-compute``."""

AGGREGATES = Table(
    "aggregates",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("hosts", Json, nullable=False, server_default="[]"),
    Column("metadata", Json, nullable=False, server_default="{}"),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time),
)

ADDRESSES = Table(
    "server_addresses",
    METADATA,
    Column("server_id", String(36), primary_key=True),
    Column("network_id", String(36), primary_key=True),
    Column("address", String(45), primary_key=True),
    Index("ix_server_addresses_guest", "network_id", "address"),
)
"""The fixed addresses of ``network_cache``, written with it: by these the metadata API knows who asks."""

SERVER_GROUPS = Table(
    "server_groups",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("project_id", String(64), nullable=False, index=True),
    Column("user_id", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("policy", String(32), nullable=False),
    Column("rules", Json, nullable=False, server_default="{}"),
    Column("created_at", Time, nullable=False),
)
"""The members of a group are the servers that name it."""

ACTIONS = Table(
    "server_actions",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("server_id", String(36), nullable=False),
    Column("action", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("user_id", String(64), nullable=False),
    Column("project_id", String(64), nullable=False),
    Column("message", Text),
    Column("saga_id", String(36)),
    Column("started_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Index("ix_server_actions", "server_id", "request_id"),
)
"""What was asked of a server. How it went is read from the saga that did it; one without was done at once."""

QUOTA_USAGE, QUOTA_LIMITS = quota_tables(METADATA)
SAGAS = saga_table(METADATA)
OUTBOX = outbox_table(METADATA)


async def next_number(tx: Transaction, table: Table) -> int:
    """The next small number of a table that publishes numbers besides its ids."""
    row = await tx.first(select(func.max(table.c.number).label("top")))
    return ((row or {}).get("top") or 0) + 1
