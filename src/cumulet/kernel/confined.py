# SPDX-License-Identifier: Apache-2.0
"""Runs a program on files from outside: in namespaces of its own wherever the machine has them, and within limits.

Invariant: a machine without such namespaces (some containers) says so once in
the log; the limits hold everywhere.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cumulet.kernel import sandbox
from cumulet.kernel.pools import OUTPUT_LIMIT, Completed, ProgramFailed, run_program

_log = logging.getLogger(__name__)
_PATH = "/usr/bin:/bin:/usr/local/bin"
_works: bool | None = None
"""Whether this machine lets us; None: nobody asked yet."""


async def is_possible() -> bool:
    """Whether programs get namespaces of their own here; looked up once.

    Only the machine's own refusal counts as an answer: that there was no time or no room to ask raises ProgramFailed
    or TimeoutError, and whoever comes next asks again.
    """
    global _works
    if _works is None:
        words = sandbox.wrapped(["true"], read=[], write=[])
        done = await run_program(words, timeout=60.0, env={"PATH": _PATH}, check=False)
        told = done.stderr.decode(errors="replace").strip()[-500:]
        if done.returncode not in (0, sandbox.REFUSED):
            raise ProgramFailed(f"the sandbox ended with status {done.returncode}: {told}")
        _works = done.returncode == 0
        if not _works:
            _log.warning("programs that read images get no namespaces of their own on this machine: %s", told)
    return _works


async def run_confined(
    argv: Sequence[str],
    *,
    read: Path,
    write: Path | None = None,
    timeout: float,
    limits: Mapping[str, int],
    output_limit: int = OUTPUT_LIMIT,
) -> Completed:
    """Run ``argv``, which sees the file ``read`` and may write the file ``write`` (made if it is not there).

    No environment, no network, no other file of anybody's. Raises what `run_program` raises, also when it can't be
    found out whether there are namespaces.
    """
    words = list(argv)
    if write is not None:
        os.close(os.open(write, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640))
    if await is_possible():
        words = sandbox.wrapped(words, read=[str(read)], write=[str(write)] if write is not None else [])
    environment = {"PATH": _PATH, "LC_ALL": "C"}
    return await run_program(words, timeout=timeout, env=environment, limits=limits, output_limit=output_limit)
