# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL of the tests' own: a fresh cluster on a unix socket in a temporary directory."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start a PostgreSQL server; yields the DSN of its database. Stopped and removed afterwards."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert programs, "PostgreSQL is not installed; run tools/setup.sh machine"
    home = Path(tempfile.mkdtemp(prefix="cumulet-pg-", dir="/tmp"))
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    if user is not None:
        os.chown(home, user.pw_uid, user.pw_gid)

    def run(program: str, *arguments: str) -> None:
        argv = [str(programs[-1] / program), *arguments]
        drop = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        subprocess.run(argv, check=True, capture_output=True, timeout=60, cwd="/", **drop)  # type: ignore[call-overload]

    try:
        run("initdb", "-D", f"{home}/data", "-U", "cumulet", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        options = f"-k {home} -c listen_addresses='' -c fsync=off -c max_connections=300"
        run("pg_ctl", "-D", f"{home}/data", "-l", f"{home}/log", "-w", "-o", options, "start")
        try:
            yield f"postgresql://cumulet@/postgres?host={home}"
        finally:
            run("pg_ctl", "-D", f"{home}/data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
