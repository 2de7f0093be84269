# SPDX-License-Identifier: Apache-2.0
"""What clouds that are gone left on this machine: links, namespaces, tables, routes; and the commands that remove it.

Only reads. What a running cloud made, or one in a data directory that is known, is never named: the names that the
network driver gives say whose a thing is. When one running process does not tell which cloud it is, nothing is named.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

_LINK = re.compile(r"c([0-9a-f]{5})[bvdr][0-9a-f]{8}")
_ALIAS = re.compile(r"cumulet:c([0-9a-f]{5}):.*")
_NAMESPACE = re.compile(r"c([0-9a-f]{5})-q(?:dhcp|router)-[0-9A-Za-z_-]+")
_TABLE = re.compile(r"cumulet-([0-9a-f]{5})")
_FIRST_METRIC = 4_000_000_000
_SECONDS = 10
_PROC = Path("/proc")
_VARIABLE = "CUMULET_DATA"
_RUNS = ("up", "run", "join")
"""The commands whose processes are a cloud, or a part of one."""


class Untold(RuntimeError):
    """What is left over can't be told from what is in use; the text says why."""


@dataclass
class Leftovers:
    """What one cloud has on this machine: for each thing the command that removes it."""

    cloud: str
    """The five hex digits in the names of all that it made."""
    commands: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """What the machine's tools told, as JSON."""

    links: bytes
    namespaces: bytes
    tables: bytes
    routes: bytes


def see() -> Seen:
    """Ask the machine; what can't be asked is as if it were empty."""
    return Seen(
        _told("ip", "-j", "link", "show"),
        _told("ip", "-j", "netns", "list"),
        _told("nft", "-j", "list", "tables"),
        _told("ip", "-j", "route", "show", "table", "all", "type", "blackhole"),
    )


def leftovers(seen: Seen, known: Iterable[str]) -> list[Leftovers]:
    """What belongs to none of the ``known`` clouds (their ids), in the order in which it can be removed."""
    from cumulet.network.drivers.bridge.naming import Names

    alive = {Names(cloud).prefix[1:] for cloud in known}
    found: dict[str, Leftovers] = {}

    def note(cloud: str, command: str) -> None:
        if cloud not in alive:
            found.setdefault(cloud, Leftovers(cloud)).commands.append(command)

    for row in _rows(seen.namespaces):
        if match := _NAMESPACE.fullmatch(row.get("name", "")):
            note(match[1], f"ip netns delete {shlex.quote(row['name'])}")
    for row in _rows(seen.links):
        name = row.get("ifname", "")
        if match := _LINK.fullmatch(name) or _ALIAS.fullmatch(row.get("ifalias", "")):
            note(match[1], f"ip link delete {shlex.quote(name)}")
    tables = orjson.loads(seen.tables or b"{}").get("nftables", [])
    for row in (one["table"] for one in tables if "table" in one):
        if match := _TABLE.fullmatch(row["name"]):
            note(match[1], f"nft delete table {row['family']} {row['name']}")
    for row in _rows(seen.routes):
        metric = row.get("metric", 0)
        if row.get("type") == "blackhole" and _FIRST_METRIC <= metric <= _FIRST_METRIC + 0xFFFFF:
            note(f"{metric - _FIRST_METRIC:05x}", f"ip route delete blackhole {row['dst']} metric {metric}")
    return sorted(found.values(), key=lambda one: one.cloud)


def known_clouds(*directories: Path, system: Path, under_home: str, proc: Path = _PROC) -> set[str]:
    """The ids of the clouds in these data directories, and of those that run on this machine.

    ``system``, and ``under_home`` of its home: where a process has its data that nobody told where. Raises Untold when
    one process that runs a cloud doesn't tell which: then anything on this machine may be in use.
    """
    if not Path("/proc/1").exists():
        raise Untold("the processes of others can't be seen here; try as root")
    found = {_id_in(directory) for directory in (*directories, system)}
    passed = _line_of(os.getpid())
    for process in proc.glob("[0-9]*"):
        if int(process.name) not in passed:
            found |= _clouds_of(process, system, under_home)
    return found - {""}


def _clouds_of(process: Path, system: Path, under_home: str) -> set[str]:
    """The ids that a process of ours names; raises Untold when it runs a cloud and names none."""
    try:
        words = (process / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return set()  # it ended
    except OSError as error:
        raise Untold(f"process {process.name} can't be looked at ({error.strerror}); try as root") from None
    ours = [after for word, after in pairwise([*words, ""]) if word.endswith(("cumulet", "cumulet.cli"))]
    if not ours:
        return set()
    runs = [command for command in ours if command in _RUNS]
    who = f"process {process.name} (cumulet {' '.join(runs)})"
    try:
        found = {_id_in(directory) for directory in _directories(process, words, system, under_home)} - {""}
    except (FileNotFoundError, ProcessLookupError):
        return set()
    except (OSError, KeyError, Untold) as error:
        if not runs:
            return set()
        raise Untold(f"where {who} has its data can't be read ({error}); try as root") from None
    if runs and not found:
        raise Untold(f"{who} runs a cloud, and where that has its data is not known")
    return found


def _directories(process: Path, words: list[str], system: Path, under_home: str) -> list[Path]:
    """Where a process of ours may have its data: what its command line says, else its environment, else the defaults.

    Raises OSError.
    """
    named = [word for before, word in pairwise(words) if before == "--data"]
    named += [word.partition("=")[2] for word in words if word.startswith(("--data=", f"{_VARIABLE}="))]
    if not named:
        pairs = (process / "environ").read_bytes().decode(errors="surrogateescape").split("\0")
        environ = {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
        if not environ.get(_VARIABLE):
            home = environ.get("HOME") or pwd.getpwuid(process.stat().st_uid).pw_dir
            return [system, Path(home) / under_home]
        named = [environ[_VARIABLE]]
    if all(os.path.isabs(word) for word in named):
        return [Path(word) for word in named]
    at = (process / "cwd").readlink()
    return [at / word for word in named]


def _line_of(pid: int) -> set[int]:
    """A process and those that wait for it: a shell, sudo."""
    line: set[int] = set()
    while pid > 1 and pid not in line:
        line.add(pid)
        try:
            pid = int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return line


def _id_in(directory: Path) -> str:
    """The id of the cloud in a directory, empty where there is none; raises Untold when that can't be seen."""
    try:
        return (directory / "cloud-id").read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise Untold(f"which cloud lives in {directory} can't be read ({error.strerror}); try as root") from None


def _rows(told: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = orjson.loads(told or b"[]")
    return rows


def _told(*argv: str) -> bytes:
    try:
        done = subprocess.run(argv, capture_output=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""
