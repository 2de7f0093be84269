# SPDX-License-Identifier: Apache-2.0
"""What the volume service counts, and what one volume or snapshot costs.

Groups and backups have published limits although none can be made yet.
"""

from __future__ import annotations

from cumulet.volume.config import VolumeConfig

PER_VOLUME = "per_volume_gigabytes"


def defaults(config: VolumeConfig) -> dict[str, int]:
    """The limits of a project that has none of its own (-1: unlimited)."""
    return {
        "volumes": config.quota_volumes,
        PER_VOLUME: config.quota_per_volume_gigabytes,
        "snapshots": config.quota_snapshots,
        "gigabytes": config.quota_gigabytes,
        "backups": 10,
        "backup_gigabytes": 1000,
        "groups": 10,
    }


def of_types(names: list[str]) -> dict[str, int]:
    """The limits that every volume type adds, by default unlimited."""
    return {f"{kind}_{name}": -1 for name in names for kind in ("volumes", "gigabytes", "snapshots")}


def volume_costs(size_gib: int, type_name: str) -> dict[str, int]:
    """What a volume takes; growing by ``size_gib`` takes its gigabytes only: see `growth_costs`."""
    return {"volumes": 1, f"volumes_{type_name}": 1, **growth_costs(size_gib, type_name)}


def growth_costs(size_gib: int, type_name: str) -> dict[str, int]:
    return {"gigabytes": size_gib, f"gigabytes_{type_name}": size_gib}


def snapshot_costs(size_gib: int, type_name: str) -> dict[str, int]:
    return {"snapshots": 1, f"snapshots_{type_name}": 1, **growth_costs(size_gib, type_name)}
