# SPDX-License-Identifier: Apache-2.0
"""Column types that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import Float, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

Time = Float(53)
"""A moment in seconds since the epoch, UTC, with fractions."""


class Json(TypeDecorator[Any]):
    """A JSON document kept as text: the same bytes on both databases, never queried into."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else orjson.dumps(value).decode()

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else orjson.loads(value)
