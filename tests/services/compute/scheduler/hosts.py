# SPDX-License-Identifier: Apache-2.0
"""Snapshots of small and large clouds, made of the same summaries and reports that the feeds carry."""

from __future__ import annotations

from typing import Any

from cumulet.client.placement import Inventory, Summary
from cumulet.compute.scheduler.model import HostReport, Request
from cumulet.compute.scheduler.snapshot import Snapshot

NOW = 1_800_000_000.0


def node(number: int) -> str:
    return f"aaaaaaaa-0000-4000-8000-{number:012}"


def provider(
    number: int,
    *,
    vcpus: int = 8,
    memory: int = 8192,
    disk: int = 100,
    used: int = 0,
    traits: list[str] | None = None,
    aggregates: list[str] | None = None,
    generation: int = 1,
    **more: Any,
) -> Summary:
    """A host's root provider; ``used`` VCPU are claimed."""
    return Summary(
        uuid=node(number),
        name=f"h{number}",
        generation=generation,
        root_provider_uuid=node(number),
        inventories={
            "VCPU": Inventory(vcpus, max_unit=vcpus, used=used),
            "MEMORY_MB": Inventory(memory, max_unit=memory),
            "DISK_GB": Inventory(disk, max_unit=disk),
            **more,
        },
        traits=traits or [],
        aggregates=aggregates or [],
    )


def report(number: int, **facts: Any) -> HostReport:
    return HostReport(**{"host": f"h{number}", "node": node(number), "reported_at": NOW - 1, **facts})


def snapshot(*hosts: tuple[Summary, HostReport]) -> Snapshot:
    made = Snapshot()
    made.update_providers([one for one, _ in hosts], [])
    for _, told in hosts:
        made.report(told)
    return made


def cloud(count: int) -> Snapshot:
    """``count`` hosts; every tenth is full, every seventh is down, zones alternate."""
    made = Snapshot()
    made.replace_providers(
        provider(n, used=8 if n % 10 == 0 else n % 5, traits=["HW_CPU_X86_AVX"] if n % 2 else []) for n in range(count)
    )
    for n in range(count):
        made.report(report(n, up=n % 7 != 0, zone=f"z{n % 2}"))
    return made


def request(**wishes: Any) -> Request:
    return Request(
        **{
            "server_id": "cccccccc-0000-4000-8000-000000000001",
            "project_id": "p",
            "user_id": "u",
            "vcpus": 1,
            "memory_mib": 512,
            "disk_gib": 1,
            **wishes,
        }
    )


def chosen(made: Snapshot, asked: Request) -> list[str]:
    """The hosts that pass, best first."""
    from cumulet.compute.scheduler.select import select

    return [made.host(row) for row in select(asked, made, NOW).order.tolist()]
