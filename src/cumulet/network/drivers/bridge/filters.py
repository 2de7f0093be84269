# SPDX-License-Identifier: Apache-2.0
"""Packet filters of one cloud on one host, as nftables text: pure functions from plans to transactions.

How a packet is judged. In the *bridge* family each port of ours has a chain
``in-…`` that drops what its guest may not claim to be (MAC, address, ARP,
DHCP server, router) and writes the port's number into the packet's mark; a
chain ``out-…`` adds the number of the port it leaves by. The *inet* family
sees the same packet through br_netfilter and judges it with connection
tracking, one zone per network because ranges overlap: ``from-…`` holds the
egress rules of the sender, ``to-…`` the ingress rules of the receiver.

The mark: bit 31 bridged (not routed by the host), bits 16-30 the filtered port
it came from, bit 15 that it came from a link of ours that is not filtered
(DHCP, router, tunnel, port security off), bits 0-14 the filtered port it goes
to. A packet without a known sender is dropped.

Invariant: one change is one transaction, applied again it changes nothing, and
no rule here judges a packet that does not cross a bridge of this cloud.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

from cumulet.kernel.host.model import HostError
from cumulet.network.drivers.bridge import naming, rules
from cumulet.network.drivers.bridge.links import program
from cumulet.network.drivers.bridge.naming import METADATA, Names, Range
from cumulet.network.drivers.bridge.rules import ranges_of, set_of
from cumulet.network.drivers.model import PortPlan

_BRIDGED = 0x80000000
_FROM = 0x7FFF0000
_TRUSTED = 0x00008000
_TO = 0x00007FFF
_MOST_PORTS = 0x7FFF

# ICMPv6 types (IANA): what neighbour discovery and multicast listening need in each direction.
_DISCOVERY_OUT = "{ 130, 131, 132, 133, 135, 136, 143 }"
_DISCOVERY_IN = "{ 130, 131, 132, 134, 135, 136, 143 }"


class State(msgspec.Struct):
    """What the kernel holds of this cloud's tables."""

    parts: dict[str, str] = {}
    """tap -> the part of its chains' names"""
    numbers: dict[str, int] = {}
    """part -> the number in the mark"""

    def taps(self, part: str) -> list[str]:
        return [tap for tap, other in self.parts.items() if other == part]


def load(text: str) -> None:
    """Carry out a transaction: all of it or nothing."""
    program("nft", "-f", "-", text=text)


def _list(*what: str, terse: bool = False) -> list[dict[str, Any]]:
    """The objects that ``nft list`` prints; none when what is asked for is not there. ``terse``: sets without what
    is in them."""
    output = program("nft", "-j", *(["-t"] if terse else []), "list", *what, accept=(0, 1))
    return json.loads(output)["nftables"] if output.strip() else []


def _elements(names: Names, family: str, name: str) -> Iterator[tuple[Any, str]]:
    """(key, target chain) of a verdict map."""
    for entry in _list("map", family, names.table, name):
        for key, verdict in entry.get("map", {}).get("elem", []):
            yield key, verdict["jump"]["target"]


def translations(table: str, name: str) -> dict[str, str]:
    """Address → address of a map in this namespace; empty when it is not there."""
    family, _, inside = table.partition(" ")
    return {
        key: value
        for entry in _list("map", family, inside, name)
        for key, value in entry.get("map", {}).get("elem", [])
    }


def state(names: Names) -> State:
    """Read which ports the kernel filters now."""
    found = State()
    for tap, target in _elements(names, "bridge", "inward"):
        if target.startswith("in-"):
            found.parts[tap] = target[3:]
    for mark, target in _elements(names, "inet", "from_port"):
        found.numbers[target[5:]] = int(str(mark), 0) >> 16
    return found


def applied(names: Names, part: str) -> str | None:
    """The digest of the transaction that made the port's chains; None when they are not there."""
    for entry in _list("chain", "bridge", names.table, f"in-{part}"):
        if comment := entry.get("rule", {}).get("comment"):
            return str(comment)
    return None


# -- texts --------------------------------------------------------------------------------------------


def _chain(family: str, table: str, name: str, rules: Iterable[str], hook: str = "") -> list[str]:
    """Make a chain hold exactly these rules."""
    base = f" {{ {hook}; policy accept; }}" if hook else ""
    head = [f"add chain {family} {table} {name}{base}", f"flush chain {family} {table} {name}"]
    return head + [f"add rule {family} {table} {name} {rule}" for rule in rules]


def _skeleton(names: Names) -> str:
    """Tables, maps and the chains that elements lead to; adding them again changes nothing."""
    t = names.table
    return "\n".join(
        [
            f"add table bridge {t}",
            f"add map bridge {t} inward {{ type ifname : verdict; }}",
            f"add map bridge {t} outward {{ type ifname : verdict; }}",
            f"add chain bridge {t} trusted",
            f"add chain bridge {t} bridged",
            f"add table inet {t}",
            f"add map inet {t} zone {{ typeof iifname : ct zone; }}",
            f"add set inet {t} public {{ type ifname; }}",
            f"add map inet {t} from_port {{ type mark : verdict; }}",
            f"add map inet {t} to_port {{ type mark : verdict; }}",
            "",
        ]
    )


def change(names: Names, *texts: str) -> None:
    """Carry out texts of this module as one transaction, also when somebody has flushed all rules."""
    load(_skeleton(names) + "".join(texts))


def base(names: Names, reachable: Collection[int]) -> str:
    """The chains that hang on hooks and those they share. ``reachable`` are the TCP ports of this host
    that the public network may open."""
    t, ours = names.table, f'iifname "{names.bridges}"'
    open_ports = ", ".join(str(naming.number(port, 1, 65535, "a port")) for port in sorted(reachable))
    lines = [
        *_chain("bridge", t, "trusted", [f"meta mark set {_TRUSTED:#x} accept"]),
        *_chain("bridge", t, "bridged", [f"meta mark set meta mark | {_BRIDGED:#x}"]),
        *_chain("bridge", t, "prerouting", ["iifname vmap @inward"], "type filter hook prerouting priority -300"),
        *_chain("bridge", t, "forward", ["oifname vmap @outward"], "type filter hook forward priority -200"),
        *_chain("inet", t, "zone_in", ["ct zone set iifname map @zone"], "type filter hook prerouting priority -300"),
        *_chain("inet", t, "zone_out", ["ct zone set oifname map @zone"], "type filter hook output priority -300"),
        *_chain(
            "inet",
            t,
            "crossing",
            [
                f"meta mark & {_BRIDGED:#x} == 0 drop",  # routed by the host: never, in no direction
                f"meta mark & {_FROM | _TRUSTED:#x} == 0 drop",
                "ct state established,related accept",
                f"meta mark & {_FROM:#x} vmap @from_port",
                f"meta mark & {_TO:#x} vmap @to_port",
                "accept",
            ],
        ),
        *_chain(
            "inet",
            t,
            "forward",
            [f"{ours} jump crossing", f'oifname "{names.bridges}" drop'],
            "type filter hook forward priority 0",
        ),
        *_chain(
            "inet",
            t,
            "arriving",
            [
                "iifname != @public drop",
                "ct state established,related accept",
                "fib daddr . iif type != { local, multicast } drop",  # the host's other addresses are not here
                f"meta mark & {_FROM:#x} vmap @from_port",
                "icmp type echo-request accept",
                "icmpv6 type { 1, 2, 3, 4, 128, 135, 136 } accept",
                *([f"tcp dport {{ {open_ports} }} accept"] if open_ports else []),
                "drop",
            ],
        ),
        *_chain("inet", t, "input", [f"{ours} jump arriving"], "type filter hook input priority 0"),
    ]
    return "\n".join(lines) + "\n"


def network(names: Names, bridge: str, zone: int, *, public: bool) -> str:
    """The bridge's conntrack zone, and whether the host itself may be spoken to over it."""
    t = names.table
    lines = [f'add element inet {t} zone {{ "{bridge}" : {zone} }}', f'add element inet {t} public {{ "{bridge}" }}']
    if _zone(names, bridge) not in (None, zone):
        lines.insert(0, f'delete element inet {t} zone {{ "{bridge}" }}')
    if not public:  # it was added just before, because deleting what is absent is an error
        lines.append(f'delete element inet {t} public {{ "{bridge}" }}')
    return "\n".join(lines) + "\n"


def forget_network(names: Names, bridge: str) -> str:
    zone = _zone(names, bridge) or 1
    return network(names, bridge, zone, public=False) + f'delete element inet {names.table} zone {{ "{bridge}" }}\n'


def _zone(names: Names, bridge: str) -> int | None:
    for entry in _list("map", "inet", names.table, "zone"):
        for key, zone in entry.get("map", {}).get("elem", []):
            if key == bridge:
                return int(zone)
    return None


def trust(names: Names, link: str) -> str:
    """A link of ours that carries no guest: its packets have no sender to judge."""
    t = names.table
    return (
        f'add element bridge {t} inward {{ "{link}" : jump trusted }}\n'
        f'add element bridge {t} outward {{ "{link}" : jump bridged }}\n'
    )


def distrust(names: Names, link: str) -> str:
    t = names.table
    return (
        trust(names, link)
        + f'delete element bridge {t} inward {{ "{link}" }}\ndelete element bridge {t} outward {{ "{link}" }}\n'
    )


def free_number(used: Collection[int]) -> int:
    for candidate in range(1, _MOST_PORTS + 1):
        if candidate not in used:
            return candidate
    raise HostError("this host has no room for another filtered port")


def held_groups(names: Names) -> set[str]:
    """The sets of groups that the kernel holds, by name."""
    entries = [entry.get("set", {}) for entry in _list("sets", "inet", terse=True)]
    return {entry["name"] for entry in entries if entry.get("table") == names.table and entry["name"][:1] == "g"}


def port(names: Names, plan: PortPlan, held: State) -> tuple[str, str]:
    """(digest, transaction) that make the plan's filter whole, whatever ``held`` says is there now."""
    t, part, tap = names.table, naming.chain(plan.id), naming.tap_name(plan.tap)
    number = held.numbers.get(part) or free_number(set(held.numbers.values()))
    inward = list(_guest_frames(plan, number)) if plan.port_security else [f"meta mark set {_TRUSTED:#x} accept"]
    mark = _BRIDGED | (number if plan.port_security else 0)
    judged = [*_chain("bridge", t, f"out-{part}", [f"meta mark set meta mark | {mark:#x}"])]
    if plan.port_security:
        judged += [
            line for key in sorted({one.group for one in plan.rules if one.group}) for line in rules.sets(names, key)
        ]
        judged += _chain("inet", t, f"from-{part}", _egress(plan))
        judged += _chain("inet", t, f"to-{part}", _ingress(plan))
        judged += _numbered(t, part, number)
    elif part in held.numbers:
        judged += _unnumbered(t, part, number)
    lines = [*_chain("bridge", t, f"in-{part}", inward[:-1]), *judged]
    digest = hashlib.sha256("\n".join([*lines, inward[-1], tap]).encode()).hexdigest()[:16]
    lines.append(f'add rule bridge {t} in-{part} {inward[-1]} comment "{digest}"')
    stale = [old for old in held.taps(part) if old != tap]
    if held.parts.get(tap, part) != part:
        stale.append(tap)
    lines += [line for old in stale for line in _unplugged(t, old)]
    lines.append(f'add element bridge {t} inward {{ "{tap}" : jump in-{part} }}')
    lines.append(f'add element bridge {t} outward {{ "{tap}" : jump out-{part} }}')
    return digest, "\n".join(lines) + "\n"


def forget_port(names: Names, part: str, held: State) -> str:
    """The transaction that removes what ``held`` says is there of a port."""
    t = names.table
    lines = [line for tap in held.taps(part) for line in _unplugged(t, tap)]
    if lines:
        lines += [f"delete chain bridge {t} in-{part}", f"delete chain bridge {t} out-{part}"]
    if part in held.numbers:
        lines += _unnumbered(t, part, held.numbers[part])
    return "\n".join(lines) + "\n"


def _numbered(t: str, part: str, number: int) -> list[str]:
    return [
        f"add element inet {t} from_port {{ {number << 16:#x} : jump from-{part} }}",
        f"add element inet {t} to_port {{ {number:#x} : jump to-{part} }}",
    ]


def _unnumbered(t: str, part: str, number: int) -> list[str]:
    return [
        f"delete element inet {t} from_port {{ {number << 16:#x} }}",
        f"delete element inet {t} to_port {{ {number:#x} }}",
        f"delete chain inet {t} from-{part}",
        f"delete chain inet {t} to-{part}",
    ]


def _unplugged(t: str, tap: str) -> list[str]:
    tap = naming.tap_name(tap)
    return [f'delete element bridge {t} inward {{ "{tap}" }}', f'delete element bridge {t} outward {{ "{tap}" }}']


def identities(plan: PortPlan) -> list[tuple[str, Range]]:
    """(MAC, range) pairs that the guest may send from: its own and the allowed ones."""
    own = naming.mac_address(plan.mac)
    return [
        *((own, naming.cidr(address)) for address in plan.addresses),
        *((naming.mac_address(mac), naming.cidr(text)) for text, mac in plan.allowed_pairs),
    ]


def _guest_frames(plan: PortPlan, number: int) -> Iterator[str]:
    """Bridge rules for frames from a guest: accept what it may claim to be, drop all else."""
    own = naming.mac_address(plan.mac)
    pairs = identities(plan)
    macs = dict.fromkeys([own, *(mac for mac, _ in pairs)])
    four = [(mac, entry) for mac, entry in pairs if entry.version == 4]
    six = [(mac, entry) for mac, entry in [*pairs, *((mac, naming.cidr(naming.link_local(mac))) for mac in macs)]]
    six = [(mac, entry) for mac, entry in six if entry.version == 6]
    yield f"ether saddr != {set_of(macs)} drop"
    # A frame with a VLAN tag has another type here; inside it nothing would be judged.
    yield "ether type != { ip, arp, ip6 } drop"
    yield f"meta mark set {number << 16:#x}"
    unspecified = [(mac, "0.0.0.0") for mac in macs]  # noqa: S104 - ARP probes (RFC 5227) come from nowhere
    claims = set_of(f"{m} . {e}" for m, e in [*four, *unspecified])
    yield f"ether type arp arp saddr ether . arp saddr ip {claims} accept"
    yield "ether type arp drop"
    # A DHCP client may ask for itself only: a DHCPDECLINE in another's name would take his address away.
    yield f"ip saddr {set_of(['0.0.0.0', *ranges_of(four)])} udp sport 68 udp dport 67 @th,288,48 {set_of(map(_hex, macs))} accept"  # noqa: E501,S104
    yield "udp sport 67 udp dport 68 drop"
    yield "udp sport 547 udp dport 546 drop"
    if four:
        yield f"ether saddr . ip saddr {set_of(f'{m} . {e}' for m, e in four)} accept"
    yield "ether type ip drop"
    yield "icmpv6 type { 134, 137 } drop"
    targets = set_of(_span(entry) for _, entry in six)
    yield f"icmpv6 type 136 @th,64,128 != {targets} drop"
    # Duplicate address detection and the first listener reports come from the unspecified address.
    yield "ip6 saddr :: icmpv6 type { 131, 132, 133, 135, 143 } accept"
    yield f"ether saddr . ip6 saddr {set_of(f'{m} . {e}' for m, e in six)} accept"
    yield "drop"


def _hex(mac: str) -> str:
    return "0x" + mac.replace(":", "")


def _span(entry: Range) -> str:
    first, last = int(entry.network_address), int(entry.broadcast_address)
    return f"{first:#034x}" if first == last else f"{first:#034x}-{last:#034x}"


def _egress(plan: PortPlan) -> list[str]:
    return [
        "udp sport 68 udp dport 67 return",
        "udp sport 546 udp dport 547 return",
        f"ip daddr {METADATA} tcp dport 80 return",
        f"icmpv6 type {_DISCOVERY_OUT} return",
        "ct state invalid drop",
        *(f"{text} return" for text in rules.matches(plan.rules, "egress")),
        "drop",
    ]


def _ingress(plan: PortPlan) -> list[str]:
    return [
        f"meta mark & {_FROM:#x} == 0 udp sport 67 udp dport 68 return",
        f"meta mark & {_FROM:#x} == 0 udp sport 547 udp dport 546 return",
        f"icmpv6 type {_DISCOVERY_IN} return",
        "ct state invalid drop",
        *(f"{text} return" for text in rules.matches(plan.rules, "ingress")),
        "drop",
    ]


def forget_connections(zone: int, entries: Collection[Range]) -> None:
    """Have the open connections of these addresses in a network's zone judged again from their next packet on."""
    for entry in entries:
        family = "ipv4" if entry.version == 4 else "ipv6"
        for side in ("--orig-src", "--orig-dst"):
            program("conntrack", "-D", "-f", family, "--zone", str(zone), side, str(entry), accept=(0, 1))


def unfriendly_chains() -> list[str]:
    """Chains of others that drop forwarded packets by default; br_netfilter shows them ours too."""
    return [
        f"the chain {chain['family']} {chain['table']} {chain['name']}"
        for entry in _list("chains")
        if (chain := entry.get("chain", {})).get("hook") == "forward"
        and chain.get("policy") == "drop"
        and chain["family"] in ("ip", "ip6", "inet")
    ]


def clear(names: Names) -> None:
    """Remove this cloud's tables, whole."""
    text = ""
    for family in ("bridge", "inet"):
        text += f"add table {family} {names.table}\ndelete table {family} {names.table}\n"
    load(text)
