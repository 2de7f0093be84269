# SPDX-License-Identifier: Apache-2.0
"""The metadata definitions that a new cloud has: names and types as published, titles derived from the names.

The file `metadefs.json` holds facts only (names, types, values, prefixes); what a
person reads is made here from the names, by one rule.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson

_SHORT = frozenset({
    "api", "cdrom", "cim", "cpu", "cpus", "db", "dbms", "hw", "id", "io", "iops", "ipxe", "mac", "mb", "nic", "numa",
    "os", "pci", "php", "pmu", "rng", "scsi", "sev", "ssl", "tpm", "uefi", "uuid", "vif", "vm", "vtpm", "xml",
})  # fmt: skip
_AS_WRITTEN = {"vmware": "VMware", "xenapi": "XenAPI", "vnic": "vNIC", "vcpu": "vCPU", "mysql": "MySQL"}


def title_of(name: str) -> str:
    """``hw_cpu_cores`` → ``HW CPU Cores``; ``OS::Compute::GuestMemoryBacking`` → ``Compute Guest Memory Backing``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name.removeprefix("OS::"))
    spaced = spaced.replace("V Mware", "VMware")
    words = [word for word in re.split(r"[\s_:.\-]+", spaced) if word]
    return " ".join(_word(word) for word in words)[:80]


def _word(word: str) -> str:
    low = word.lower()
    if low in _AS_WRITTEN:
        return _AS_WRITTEN[low]
    if low in _SHORT:
        return word.upper()
    return word if word[0].isupper() else word.capitalize()


def published() -> list[dict[str, Any]]:
    """Namespaces as `logic.metadefs.load_published` takes them."""
    found = []
    for one in orjson.loads((Path(__file__).parent / "metadefs.json").read_bytes()):
        inside = [("property", name, _titled(name, facts)) for name, facts in one["properties"].items()]
        inside += [
            ("object", name, {"properties": {key: _titled(key, facts) for key, facts in held.items()}})
            for name, held in one["objects"].items()
        ]
        found.append({
            "namespace": one["namespace"], "display_name": title_of(one["namespace"]),
            "protected": one["protected"], "types": one["types"], "inside": inside,
        })  # fmt: skip
    return found


def _titled(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    return {"title": title_of(name), **facts}
