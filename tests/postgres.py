# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL of the tests' own: a fresh cluster on a unix socket in a temporary directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cumulet.cli.chaos.postgres import Postgres


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start a PostgreSQL server; yields the DSN of its database. Stopped and removed afterwards."""
    server = Postgres.made()
    try:
        yield server.dsn
    finally:
        server.remove()
