# SPDX-License-Identifier: Apache-2.0
"""Writes ``clouds.yaml``, by which every OpenStack client finds this cloud.

It holds passwords: the file has mode 0600 from its first byte and is replaced
whole. Imported by the assembly too, so it needs nothing but the standard library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from cumulet.kernel.files import write_whole

REGION: Final = "RegionOne"

_PROJECT_DOMAIN: Final = {"project_domain_id": "default"}
CLOUDS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "cumulet": ("demo", {"project_name": "demo", **_PROJECT_DOMAIN}),
    "cumulet-alt": ("alt_demo", {"project_name": "alt_demo", **_PROJECT_DOMAIN}),
    "cumulet-admin": ("admin", {"project_name": "admin", **_PROJECT_DOMAIN}),
    "cumulet-system": ("admin", {"system_scope": "all"}),
}
"""cloud → (user, what it is for)."""
ALIASES: Final = {
    "devstack": "cumulet",
    "devstack-alt": "cumulet-alt",
    "devstack-admin": "cumulet-admin",
    "devstack-system-admin": "cumulet-system",
}
"""Names by which test suites and tutorials ask for the same."""


def write_clouds(data: Path, auth_url: str, password: str, *, cacert: Path | None = None) -> Path:
    """Write ``data/clouds.yaml`` for the users admin, demo and alt_demo and return its path.

    ``auth_url`` is identity's URL; ``password`` that of all three; ``cacert`` a
    certificate (PEM) that clients shall trust.
    """
    entries = {name: _entry(auth_url, user, scope, password, cacert) for name, (user, scope) in CLOUDS.items()}
    entries |= {alias: entries[name] for alias, name in ALIASES.items()}
    lines = ["# Written by `cumulet up` at each start; changes are lost.", "clouds:"]
    for name, entry in entries.items():
        lines.append(f"  {name}:")
        for key, value in entry.items():
            if isinstance(value, dict):
                lines.append(f"    {key}:")
                lines += [f"      {inner}: {json.dumps(text)}" for inner, text in value.items()]
            else:
                lines.append(f"    {key}: {json.dumps(value)}")  # JSON's scalars are YAML's
    path = data / "clouds.yaml"
    write_whole(path, "\n".join(lines) + "\n")
    return path


def _entry(auth_url: str, user: str, scope: dict[str, str], password: str, cacert: Path | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "region_name": REGION,
        "identity_api_version": "3",
        "auth_type": "password",
        "auth": {
            "auth_url": auth_url,
            "username": user,
            "password": password,
            "user_domain_id": "default",
            **scope,
        },
    }
    if cacert is not None:
        entry["cacert"] = str(cacert)
    return entry
