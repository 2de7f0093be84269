# SPDX-License-Identifier: Apache-2.0
"""The tables of insight: flow events in the order in which they came; processes, hosts and join tokens of the cloud."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text

from cumulet.kernel.db import Json, Time

METADATA = MetaData()

EVENTS = Table(
    "flow_events",
    METADATA,
    # a stream that was interrupted goes on after the last number it saw
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("subject", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("component", String(64), nullable=False),
    Column("host", String(255), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("duration_ms", Float, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("detail", Json, nullable=False),
    Column("skipped", Text),
    Column("error", Text),
    Column("received_at", Time, nullable=False),
    Index("flow_events_by_subject", "subject", "id"),
    Index("flow_events_by_age", "received_at"),
)

PROCESSES = Table(
    "processes",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("roles", Json, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("address", String(255), nullable=False),
    Column("version", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("problems", Json, nullable=False),
    Column("started_at", Time, nullable=False),
    Column("every", Float, nullable=False),
    Column("seen_at", Time, nullable=False, index=True),
)

JOIN_TOKENS = Table(
    "join_tokens",
    METADATA,
    Column("hash", String(64), primary_key=True),
    Column("host", String(255)),
    Column("created_at", Time, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("expires_at", Time, nullable=False),
    # of what the claiming host alone knows
    Column("claim", String(64)),
    Column("claimed_by", String(255)),
    Column("claimed_at", Time),
)

HOSTS = Table(
    "hosts",
    METADATA,
    Column("name", String(255), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("claim", String(64), nullable=False),
    Column("node", String(36)),
    Column("created_at", Time, nullable=False),
    Column("changed_at", Time, nullable=False),
    # when a join that is not finished is undone
    Column("until", Time),
)
