# SPDX-License-Identifier: Apache-2.0
"""Security group rules as nftables matches, and the groups that rules name as sets of addresses.

Pure functions from plans to text. A group has one set for each IP version; a
rule that names a group names its set, so it does not change with its members.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from cumulet.kernel.host.model import HostError
from cumulet.network.drivers.bridge import naming
from cumulet.network.drivers.bridge.naming import Names, Range
from cumulet.network.drivers.model import GroupPlan, RulePlan

_ICMP, _ICMPV6 = 1, 58
_WITH_PORTS = {6, 17, 33, 132, 136}
"""TCP, UDP, DCCP, SCTP, UDP-Lite: the protocols whose first words are ports."""


# -- rules ------------------------------------------------------------------------------------------


def matches(rules: Iterable[RulePlan], direction: str) -> list[str]:
    """The nftables matches of the rules of one direction, without repetitions."""
    texts = (_match(rule) for rule in rules if rule.direction == direction)
    return list(dict.fromkeys(text for text in texts if text is not None))


def _match(rule: RulePlan) -> str | None:
    """One rule as a match; None when its remote is nobody."""
    version = {"IPv4": 4, "IPv6": 6}.get(rule.ethertype)
    if version is None:
        raise HostError(f"not an ethertype: {rule.ethertype[:20]!r}")
    parts = [f"meta nfproto ipv{version}"]
    side = f"{'ip' if version == 4 else 'ip6'} {'saddr' if rule.direction == 'ingress' else 'daddr'}"
    if rule.group is not None:
        parts.append(f"{side} @{_group_sets(rule.group)[version]}")
    elif rule.remotes is not None:
        remotes = [entry for text in rule.remotes if (entry := naming.cidr(text)).version == version]
        if not remotes:
            return None
        parts.append(f"{side} {set_of(ranges_of(('', entry) for entry in remotes))}")
    if rule.protocol is not None:
        protocol = naming.number(rule.protocol, 0, 255, "a protocol")
        if version == 6 and protocol == _ICMP:
            protocol = _ICMPV6  # the API takes "icmp" for both
        low, high = rule.port_min, rule.port_max
        parts.append(f"meta l4proto {protocol}")
        if protocol in (_ICMP, _ICMPV6):
            word = "icmp" if protocol == _ICMP else "icmpv6"
            if low is not None:
                parts.append(f"{word} type {naming.number(low, 0, 255, 'an ICMP type')}")
                if high is not None:
                    parts.append(f"{word} code {naming.number(high, 0, 255, 'an ICMP code')}")
        elif protocol in _WITH_PORTS and (low is not None or high is not None):
            first = naming.number(low if low is not None else 0, 0, 65535, "a port")
            last = naming.number(high if high is not None else 65535, first, 65535, "a port")
            parts.append(f"th dport {first}-{last}" if last > first else f"th dport {first}")
    return " ".join(parts)


def narrower(old: Iterable[RulePlan], new: Iterable[RulePlan]) -> bool:
    """Whether something that ``old`` lets pass might not pass by ``new`` (so that open connections must be judged
    again); additions alone never disturb a connection. A group is the same far side whoever is in it."""

    def table(rules: Iterable[RulePlan]) -> dict[tuple[object, ...], list[Range | str] | None]:
        found: dict[tuple[object, ...], list[Range | str] | None] = {}
        for rule in rules:
            key = (rule.direction, rule.ethertype, rule.protocol, rule.port_min, rule.port_max)
            if (rule.remotes is None and rule.group is None) or found.get(key, []) is None:
                found[key] = None
            else:
                far: list[Range | str] = [rule.group] if rule.group else [*map(naming.cidr, rule.remotes or [])]
                found[key] = [*(found.get(key) or []), *far]
        return found

    after = table(new)
    for key, remotes in table(old).items():
        if remotes == []:
            continue
        if key not in after:
            return True
        allowed = after[key]
        if allowed is None:
            continue
        if remotes is None or any(not any(_within(entry, other) for other in allowed) for entry in remotes):
            return True
    return False


def _within(entry: Range | str, other: Range | str) -> bool:
    if isinstance(entry, str) or isinstance(other, str):
        return entry == other
    return entry.version == other.version and entry.subnet_of(other)  # type: ignore[arg-type]


# -- groups -----------------------------------------------------------------------------------------


def group(names: Names, plan: GroupPlan) -> str:
    """Make the sets of a group, one for each version, hold its addresses."""
    entries = [naming.cidr(text) for text in plan.addresses]
    lines = sets(names, plan.id)
    for version, name in _group_sets(plan.id).items():
        held = ranges_of(("", entry) for entry in entries if entry.version == version)
        lines.append(f"flush set inet {names.table} {name}")
        if held:
            lines.append(f"add element inet {names.table} {name} {set_of(held)}")
    return "\n".join(lines) + "\n"


def forget_group(names: Names, group_id: str) -> str:
    lines = sets(names, group_id)  # deleting what is absent is an error
    lines += [f"delete set inet {names.table} {name}" for name in _group_sets(group_id).values()]
    return "\n".join(lines) + "\n"


def is_held(group_id: str, held: set[str]) -> bool:
    return held.issuperset(_group_sets(group_id).values())


def _group_sets(group_id: str) -> dict[int, str]:
    """IP version → name of the group's set."""
    part = naming.chain(naming.identifier(group_id))
    return {4: f"g4-{part}", 6: f"g6-{part}"}


def sets(names: Names, group_id: str) -> list[str]:
    """The group's sets are there; with what is in them if they were."""
    return [
        f"add set inet {names.table} {name} {{ type ipv{version}_addr; flags interval; }}"
        for version, name in _group_sets(group_id).items()
    ]


def set_of(entries: Iterable[object]) -> str:
    return "{ " + ", ".join(dict.fromkeys(str(entry) for entry in entries)) + " }"


def ranges_of(pairs: Iterable[tuple[str, Range]]) -> list[Range]:
    return list(ipaddress.collapse_addresses(entry for _, entry in pairs))  # type: ignore[type-var]
