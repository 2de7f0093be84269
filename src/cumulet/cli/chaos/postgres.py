# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL of our own for a storm or a test: a fresh cluster on a unix socket in a temporary directory."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Postgres:
    """A cluster that runs, or did a moment ago. Its methods block for a second or two."""

    home: str
    password: str = field(repr=False)
    """A relay on the loopback, where anybody may connect, leads to it."""

    @property
    def dsn(self) -> str:
        """Its database, for whoever may enter the directory."""
        return f"postgresql://cumulet:{self.password}@/postgres?host={self.home}"

    @classmethod
    def made(cls, folder: str) -> Postgres:
        """Make a cluster below ``folder`` and start it; raises RuntimeError where PostgreSQL is not installed."""
        if not _programs():
            raise RuntimeError("PostgreSQL is not installed; run tools/setup.sh machine")
        home = tempfile.mkdtemp(prefix="cumulet-pg-", dir=folder)
        made = cls(home, secrets.token_hex(16))
        try:
            secret = Path(home, "password")
            secret.touch(0o600)
            secret.write_text(made.password)
            if (user := _user()) is not None:
                for path in (home, secret):
                    os.chown(path, user.pw_uid, user.pw_gid)
            words = ("-U", "cumulet", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync")
            made._run("initdb", "-D", f"{home}/data", *words, "-E", "UTF8", "--locale=C")
            secret.unlink()
            made.start()
        except BaseException:
            made.remove()
            raise
        return made

    def start(self, more: str = "") -> None:
        """Start it, with more options, and wait until it answers."""
        kept = "-c fsync=off -c dynamic_shared_memory_type=mmap"  # killed, it leaves nothing outside its home
        options = f"-k {self.home} -c listen_addresses='' -c max_connections=300 {kept} {more}"
        self._run("pg_ctl", "-D", f"{self.home}/data", "-l", f"{self.home}/log", "-w", "-o", options, "start")

    def kill(self) -> None:
        """End it at once, as in a crash of the server."""
        self._run("pg_ctl", "-D", f"{self.home}/data", "-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop it and leave no file."""
        with suppress(subprocess.CalledProcessError, RuntimeError):
            self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        user = _user()
        drop: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        argv = [str(_programs()[-1] / program), *arguments]
        subprocess.run(argv, check=True, capture_output=True, timeout=60, cwd="/", **drop)


def _programs() -> list[Path]:
    """The folders of its programs, one per release, the newest last."""
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def _user() -> Any:
    """Whom it runs as: root may not."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None
