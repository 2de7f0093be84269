# SPDX-License-Identifier: Apache-2.0
"""The only place that knows SQLite from PostgreSQL.

Tables and statements are SQLAlchemy Core; hot statements are compiled once per
dialect and run on the driver directly. A transaction is an `async def body(tx)`
that touches nothing but `tx` and its arguments, and may be run again.
"""

from cumulet.kernel.db.columns import Json, Time
from cumulet.kernel.db.database import Database, Duplicate, Row, Transaction, outside_transaction

__all__ = ["Database", "Duplicate", "Json", "Row", "Time", "Transaction", "outside_transaction"]
