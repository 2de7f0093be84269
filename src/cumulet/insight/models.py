# SPDX-License-Identifier: Apache-2.0
"""The tables of insight: flow events as they came, in the order in which they came; and the processes of the cloud."""

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
