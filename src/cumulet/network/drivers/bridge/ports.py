# SPDX-License-Identifier: Apache-2.0
"""One guest's port on one host: its tap, its filter, its place on the bridge.

Invariant: a tap is filtered before it is plugged and unplugged before its
filter goes; no frame of a guest is ever judged by nobody. What was applied is
noted beside the rules, so that a later plan knows which open connections it
forbids, and purge knows taps that were never named as ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from cumulet.kernel.host.model import HostError
from cumulet.network.drivers.bridge import filters, links, naming, rules
from cumulet.network.drivers.bridge.naming import Names
from cumulet.network.drivers.bridge.site import Site, changing, guest_uid
from cumulet.network.drivers.model import PortPlan


class Applied(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A port's plan as it was last made whole; kept beside the rules, gone with them at a reboot."""

    plan: PortPlan
    zone: int


def ensure_port(site: Site, plan: PortPlan) -> None:
    """Make the tap, filter it, and only then plug it."""
    names = Names(site.cloud)
    tap = naming.tap_name(plan.tap)
    naming.number(plan.mtu, 68, 65535, "an MTU")
    alias = names.alias("port", naming.identifier(plan.id))
    filters.port(names, plan, filters.State())  # a wrong value is refused before anything is changed
    with changing() as ip:
        bridge = links.find_link(ip, names.bridge(naming.identifier(plan.network_id)))
        if bridge is None:
            raise HostError(f"network {plan.network_id} of port {plan.id} is not on this host")
        zone = int((bridge.get_attr("IFLA_IFALIAS") or "").rpartition(":")[2])
        if (there := links.find_link(ip, tap)) is not None and not _is_free(ip, names, there, alias):
            raise HostError(f"the link {tap} belongs to somebody else")
        note = _notes(names) / plan.id
        before = _read_note(note)
        if before is None:  # first of all: whatever comes to pass, drop and purge know the tap
            _write_note(note, Applied(plan, zone))
        for old in (name for known, name in links.aliases(ip, alias).items() if known == alias and name != tap):
            links.drop_link(ip, old)
        link = links.ensure_tap(ip, tap, guest_uid(site))
        links.quiet_ipv6(tap)
        _filter_port(names, site, plan)
        if before is not None and before.plan != plan and _loses(before.plan, plan):
            filters.forget_connections(before.zone, [entry for _, entry in filters.identities(before.plan)])
        if before is not None and before != Applied(plan, zone):
            _write_note(note, Applied(plan, zone))
        links.settle_link(ip, link, mtu=plan.mtu, up=plan.admin_up, alias=alias, master=bridge["index"])


def _is_free(ip: Any, names: Names, link: Any, alias: str) -> bool:
    """Whether a link may become (or is) the port's tap: nobody else's by its alias nor by its bridge."""
    owner, master = link.get_attr("IFLA_IFALIAS"), link.get_attr("IFLA_MASTER")
    if owner not in (None, "", alias):
        return False
    if master is None:
        return True
    return names.link_pattern.fullmatch(ip.link("get", index=master)[0].get_attr("IFLA_IFNAME")) is not None


def _filter_port(names: Names, site: Site, plan: PortPlan) -> None:
    held, part = filters.state(names), naming.chain(plan.id)
    digest, text = filters.port(names, plan, held)
    if filters.applied(names, part) != digest or held.parts.get(plan.tap) != part:
        filters.change(names, filters.base(names, site.reachable), text)


def _loses(before: PortPlan, after: PortPlan) -> bool:
    """Whether connections that the port had may be forbidden to it now."""
    if not after.port_security:
        return False
    return not before.port_security or before.addresses != after.addresses or rules.narrower(before.rules, after.rules)


def _read_note(note: Path) -> Applied | None:
    try:
        return msgspec.json.decode(note.read_bytes(), type=Applied)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _write_note(note: Path, applied: Applied) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    fresh = note.with_name(f".{note.name}")
    fresh.write_bytes(msgspec.json.encode(applied))
    fresh.replace(note)


def drop_port(site: Site, port_id: str) -> None:
    """Unplug and remove the tap first, its filter after it, then what its connections left."""
    names = Names(site.cloud)
    with changing() as ip:
        alias = names.alias("port", naming.identifier(port_id))
        note = _notes(names) / port_id
        _drop_taps(ip, names, alias, note)
        held, part = filters.state(names), naming.chain(port_id)
        if part in held.parts.values() or part in held.numbers:
            filters.change(names, filters.forget_port(names, part, held))
        _forget(note)


def _drop_taps(ip: Any, names: Names, alias: str, note: Path) -> None:
    taps = {name for known, name in links.aliases(ip, alias).items() if known == alias}
    if (before := _read_note(note)) is not None:
        taps.add(naming.tap_name(before.plan.tap))
    for tap in taps:
        link = links.find_link(ip, tap)
        if link is not None and _is_free(ip, names, link, alias):
            links.drop_link(ip, tap)


def _forget(note: Path) -> None:
    """The last of a port: what its connections left in the kernel, and the note itself."""
    if (before := _read_note(note)) is not None:
        filters.forget_connections(before.zone, [entry for _, entry in filters.identities(before.plan)])
    note.unlink(missing_ok=True)


def drop_all(ip: Any, names: Names) -> None:
    """Remove every tap that a note tells of; the caller holds the lock and removes the filters."""
    for note in sorted(_notes(names).glob("[!.]*")):
        _drop_taps(ip, names, names.alias("port", note.name), note)
        _forget(note)


def zones_of_group(names: Names, group_id: str) -> set[int]:
    """The zones in which a port's rule names the group as its far side."""
    applied = [_read_note(note) for note in _notes(names).glob("[!.]*")]
    return {one.zone for one in applied if one is not None and any(rule.group == group_id for rule in one.plan.rules)}


def _notes(names: Names) -> Path:
    return Path(names.directory) / "ports"
