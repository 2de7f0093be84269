#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the functional tests that come with the `openstack` client against a fresh simulated cloud.

    make clientfunctional ARGS='identity image'         groups: identity image compute network volume common
    make clientfunctional ARGS='--match test_domain'    tests whose id matches a pattern
    make clientfunctional ARGS='--pinned'               what is known to pass; fails when one of it no longer does
    make clientfunctional ARGS='identity --pin'         writes what passed into the pinned list

Each test starts `openstack` many times. That start (imports, plug-ins) would be nearly all of
the time, so one process has it behind it and forks for each command; the client is unmodified.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import suites
from onecloud import ROOT, Cloud
from suites import made

SUITE = suites.Suite(
    "openstackclient", "openstackclient/tests/functional", "openstackclient.",
    {
        name: rf"openstackclient\.tests\.functional\.{name}\."
        for name in ("identity", "image", "compute", "network", "volume", "common")
    },
    ROOT / "tests" / "clientfunctional" / "passing.txt",
    "make clientfunctional ARGS='GROUP… --pin'",
)  # fmt: skip
FORKED = """#!{python} -IS
import os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
message = "\\0".join(sys.argv).encode()
socket.send_fds(server, [message], [0, 1, 2])
server.shutdown(socket.SHUT_WR)
sys.exit(int(server.recv(16) or b"70"))
"""
"""What stands for `openstack` on the tests' path: hands its words and its three streams to the server."""


def play(run: Path, tests: dict[str, str], asked: argparse.Namespace) -> tuple[dict[str, Any], float]:
    settings = (ROOT / "tests" / "tempest" / "cloud.toml").read_text()
    with Cloud(run / "cloud", settings) as cloud, Forks(run):
        where = made(run / ".config" / "openstack")
        (where / "clouds.yaml").symlink_to(cloud.data / "clouds.yaml")
        started = time.monotonic()
        return suites.execute(run, tests, asked.concurrency), time.monotonic() - started


class Forks:
    """The process that forks for each `openstack` while the context lasts."""

    def __init__(self, run: Path) -> None:
        self._run, self._bin = run, made(run / "bin")

    def __enter__(self) -> Forks:
        python = suites.ENVIRONMENT / "bin" / "python"
        folder = Path(tempfile.mkdtemp(prefix="cml-client-"))  # a socket's path must be short
        self._folder = folder
        argv = [str(python), str(ROOT / "tools" / "clientforks.py"), str(folder / "s")]
        with open(self._run / "forks.log", "wb") as log:
            self._process = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=log, cwd=self._run, env=suites.environ(self._run)
            )
        if self._process.stdout is None or not self._process.stdout.readline():
            sys.exit(f"The client's server does not start; see {self._run / 'forks.log'} (--keep)")
        program = self._bin / "openstack"
        program.write_text(FORKED.format(python=python.resolve(), path=str(folder / "s")))
        program.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(suites.main(SUITE, __doc__, play))
