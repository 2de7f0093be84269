# SPDX-License-Identifier: Apache-2.0
"""What clouds that are gone left on this machine: links, namespaces, tables, routes; and the commands that remove it.

Only reads. What a running cloud made, or one in a data directory that is known, is never named: the names that the
network driver gives say whose a thing is.
"""

from __future__ import annotations

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


def known_clouds(*directories: Path) -> set[str]:
    """The ids of the clouds in these data directories, and of those that run on this machine."""
    found = {_id_in(directory) for directory in directories}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if not any(word.endswith(("cumulet", "cumulet.cli")) for word in words):
                continue
            at = Path(process / "cwd").resolve()
        except OSError:
            continue
        for before, word in pairwise(words):
            if before == "--data":
                found.add(_id_in(at / word))
            elif word.startswith("--data="):
                found.add(_id_in(at / word.removeprefix("--data=")))
    return found - {""}


def _id_in(directory: Path) -> str:
    try:
        return (directory / "cloud-id").read_text().strip()
    except OSError:
        return ""


def _rows(told: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = orjson.loads(told or b"[]")
    return rows


def _told(*argv: str) -> bytes:
    try:
        done = subprocess.run(argv, capture_output=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""
