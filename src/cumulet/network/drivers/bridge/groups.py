# SPDX-License-Identifier: Apache-2.0
"""The security groups that rules on this host name as their far side: one set of addresses each.

A port that joins or leaves such a group changes one set on each host, whoever
many ports' rules name it. What a set was made of is noted beside the rules, so
that the connections of an address that left can be judged again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cumulet.network.drivers.bridge import filters, naming, rules
from cumulet.network.drivers.bridge.naming import Names
from cumulet.network.drivers.bridge.ports import zones_of_group
from cumulet.network.drivers.bridge.site import Site, changing
from cumulet.network.drivers.model import GroupPlan


def ensure_group(site: Site, plan: GroupPlan) -> None:
    """Make the group's sets whole, then have connections with those who left it judged again."""
    names = Names(site.cloud)
    text = rules.group(names, plan)  # a wrong value is refused before anything is changed
    note = _notes(names) / naming.identifier(plan.id)
    with changing():
        before = _read_note(note)
        if before == plan and rules.is_held(plan.id, filters.held_groups(names)):
            return
        filters.change(names, text)
        gone = set(before.addresses) - set(plan.addresses) if before is not None else set()
        if gone:
            for zone in zones_of_group(names, plan.id):
                filters.forget_connections(zone, [naming.cidr(address) for address in sorted(gone)])
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh = note.with_name(f".{note.name}")
        fresh.write_bytes(msgspec.json.encode(plan))
        fresh.replace(note)


def drop_group(site: Site, group_id: str) -> None:
    names = Names(site.cloud)
    with changing():
        note = _notes(names) / naming.identifier(group_id)
        filters.change(names, rules.forget_group(names, group_id))
        note.unlink(missing_ok=True)


def observed(names: Names) -> list[str]:
    """Ids of the groups whose sets the kernel holds."""
    held = filters.held_groups(names)
    noted = sorted(path.name for path in _notes(names).glob("[!.]*"))
    return [key for key in noted if rules.is_held(key, held)]


def _read_note(note: Path) -> GroupPlan | None:
    try:
        return msgspec.json.decode(note.read_bytes(), type=GroupPlan)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _notes(names: Names) -> Path:
    return Path(names.directory) / "groups"
