# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL of the tests' own: a fresh cluster on a unix socket in a temporary directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cumulet.cli.chaos.postgres import Postgres
from tests.scratch import short


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start a PostgreSQL server; yields the DSN of its database. Stopped and removed afterwards."""
    server = Postgres.made(short())
    try:
        yield server.dsn
    finally:
        server.remove()


@dataclass(frozen=True)
class Secure:
    """A server that is reached over the loopback, by TLS and a password only."""

    port: int
    certificate: Path
    key: Path
    password: str


@contextmanager
def secure_server(secure: Secure) -> Iterator[str]:
    """Start such a server; yields the DSN of its local socket, for an administrator."""
    server = Postgres.made(short())
    try:
        home = Path(server.home)
        local = f"{server.dsn}&port={secure.port}"
        (home / "data" / "pg_hba.conf").write_text("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
        owner = home.stat()
        for given, name in ((secure.certificate, "server.crt"), (secure.key, "server.key")):
            copy = home / name
            copy.write_bytes(given.read_bytes())
            copy.chmod(0o600)
            os.chown(copy, owner.st_uid, owner.st_gid)
        server.kill()
        server.start(
            f"-c listen_addresses=127.0.0.1 -c port={secure.port} "
            f"-c ssl=on -c ssl_cert_file={home}/server.crt -c ssl_key_file={home}/server.key"
        )
        server._run("psql", local, "-qc", f"ALTER USER cumulet PASSWORD '{secure.password}'")
        yield local
    finally:
        server.remove()
