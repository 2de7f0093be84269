# SPDX-License-Identifier: Apache-2.0
"""Which address belongs to which port. The table's key keeps an address from being given twice.

A free address is drawn at random from the subnet's pools: parallel requests
rarely want the same one, and one that was just given back rests a while.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from cumulet.kernel import ids
from cumulet.kernel.db import Duplicate, Row, Transaction
from cumulet.kernel.errors import Invalid
from cumulet.network import models as m
from cumulet.network.errors import address_taken, invalid, missing, no_address
from cumulet.network.logic import Work

MAX_FIXED_IPS = 5
AUTOMATIC = ("slaac", "dhcpv6-stateless")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Net = ipaddress.IPv4Network | ipaddress.IPv6Network
_WINDOW = 100


@dataclass(frozen=True)
class Wanted:
    """One address asked for: in this subnet, this very one, or both."""

    subnet_id: str | None = None
    address: str | None = None


def number_of(address: str) -> str:
    """The address as hex digits whose text order is the order of addresses."""
    parsed = ipaddress.ip_address(address)
    return f"{int(parsed):0{8 if parsed.version == 4 else 32}x}"


def is_automatic(subnet: Row) -> bool:
    """Whether guests make their own addresses in this subnet from the prefix and their MAC."""
    return subnet["ipv6_address_mode"] in AUTOMATIC


def eui64(cidr: str, mac: str) -> str:
    """The address that a host with this MAC makes itself in an IPv6 prefix (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    suffix = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.ip_network(cidr)[int.from_bytes(suffix, "big")])


def is_usable(address: str, cidr: str) -> bool:
    """Whether a host may have this address in the subnet."""
    parsed, network = ipaddress.ip_address(address), ipaddress.ip_network(cidr)
    if parsed.version != network.version or parsed not in network:
        return False
    if network.version == 4 and network.prefixlen < 31:
        return parsed not in (network.network_address, network.broadcast_address)
    return network.version == 4 or network.prefixlen >= 127 or parsed != network.network_address


async def find_free(tx: Transaction, subnet: Row, *, lowest: bool = False) -> str | None:
    """A free address of the subnet's pools, or None when all are taken."""
    ranges = [
        (int(ipaddress.ip_address(p["start"])), int(ipaddress.ip_address(p["end"]))) for p in subnet["allocation_pools"]
    ]
    size = sum(high - low + 1 for low, high in ranges)
    if size <= 0:
        return None
    width = 8 if subnet["ip_version"] == 4 else 32
    make: Any = ipaddress.IPv4Address if subnet["ip_version"] == 4 else ipaddress.IPv6Address
    a = m.ADDRESSES.c
    for low, high in _from(ranges, 0 if lowest else min(int(ids.choose(0, size)), size - 1)):
        at = low
        probe = select(a.number).where(a.subnet_id == subnet["id"], a.number == f"{at:0{width}x}")
        if not await tx.all(probe):
            return str(make(at))
        while at <= high:
            window = select(a.number).where(
                a.subnet_id == subnet["id"], a.number >= f"{at:0{width}x}", a.number <= f"{high:0{width}x}"
            )
            taken = await tx.all(window.order_by(a.number).limit(_WINDOW))
            for row in taken:
                if int(row["number"], 16) != at:
                    break
                at += 1
            else:
                if len(taken) == _WINDOW:
                    continue
            if at <= high:
                return str(make(at))
    return None


def _from(ranges: list[tuple[int, int]], offset: int) -> Iterator[tuple[int, int]]:
    """The ranges from the ``offset``-th address on, then round to it again."""
    head: list[tuple[int, int]] = []
    tail: list[tuple[int, int]] = []
    for low, high in ranges:
        size = high - low + 1
        if offset >= size:
            head.append((low, high))
        elif offset >= 0:
            if offset:
                head.append((low, low + offset - 1))
            tail.append((low + offset, high))
        else:
            tail.append((low, high))
        offset -= size
    yield from tail
    yield from head


async def take(work: Work, port_id: str, subnet: Row, address: str, place: int) -> None:
    """Give the port this address; raises IpAddressAlreadyAllocated."""
    row = {
        "subnet_id": subnet["id"],
        "number": number_of(address),
        "address": address,
        "network_id": subnet["network_id"],
        "port_id": port_id,
        "place": place,
    }
    try:
        await work.tx.insert(m.ADDRESSES, row)
    except Duplicate:
        raise address_taken(address, subnet["id"]) from None


async def take_any(
    work: Work, port_id: str, network_id: str, subnets: list[Row], place: int, *, lowest: bool = False
) -> str:
    """Give the port a free address of the first subnet that has one; raises IpAddressGenerationFailure."""
    for subnet in subnets:
        address = await find_free(work.tx, subnet, lowest=lowest)
        if address is not None:
            await take(work, port_id, subnet, address, place)
            return address
    raise no_address(network_id)


async def subnets_of(tx: Transaction, network_id: str) -> list[Row]:
    s = m.SUBNETS
    return await tx.all(select(s).where(s.c.network_id == network_id).order_by(s.c.created_at, s.c.id))


async def assign(
    work: Work, port_id: str, network_id: str, mac: str, wanted: list[Wanted] | None, *, router: bool = False
) -> None:
    """Give a port its addresses: those ``wanted``, or (None) one of each IP version that the network has."""
    subnets = await subnets_of(work.tx, network_id)
    if wanted is None:
        await _assign_default(work, port_id, network_id, mac, subnets)
        return
    if len(wanted) > MAX_FIXED_IPS:
        raise invalid("Exceeded maximum amount of fixed ips per port")
    if wanted and not subnets:
        raise invalid("IP allocation requires subnets for network")
    for place, one in enumerate(wanted):
        await _assign_one(work, port_id, network_id, mac, subnets, one, place, router=router)
    if wanted and not router:
        named = {one.subnet_id for one in wanted}
        chosen = [s for s in subnets if is_automatic(s) and s["id"] not in named]
        for place, subnet in enumerate(chosen, len(wanted)):
            await take(work, port_id, subnet, eui64(subnet["cidr"], mac), place)


async def _assign_default(work: Work, port_id: str, network_id: str, mac: str, subnets: list[Row]) -> None:
    place = 0
    for version in (4, 6):
        offered = [s for s in subnets if s["ip_version"] == version and not is_automatic(s)]
        if offered:
            await take_any(work, port_id, network_id, offered, place)
            place += 1
    for subnet in subnets:
        if is_automatic(subnet):
            await take(work, port_id, subnet, eui64(subnet["cidr"], mac), place)
            place += 1


async def _assign_one(
    work: Work, port_id: str, network_id: str, mac: str, subnets: list[Row], one: Wanted, place: int, *, router: bool
) -> None:
    if one.subnet_id is not None:
        subnet = next((s for s in subnets if s["id"] == one.subnet_id), None)
        if subnet is None:
            await _refuse_foreign(work, network_id, one.subnet_id)
            return
        if one.address is None:
            if is_automatic(subnet) and not router:
                await take(work, port_id, subnet, eui64(subnet["cidr"], mac), place)
            else:
                await take_any(work, port_id, network_id, [subnet], place)
            return
        if not is_usable(one.address, subnet["cidr"]):
            raise invalid_for_subnet(one.address)
    elif one.address is not None:
        subnet = next((s for s in subnets if is_usable(one.address, s["cidr"])), None)
        if subnet is None:
            raise invalid_for_network(one.address)
    else:
        raise invalid("IP allocation requires subnet_id or ip_address")
    if is_automatic(subnet) and not router and one.address != eui64(subnet["cidr"], mac):
        raise invalid(
            f"IPv6 address {one.address} cannot be directly assigned to a port on subnet {subnet['id']} as the "
            "subnet is configured for automatic addresses",
            kind="AllocationOnAutoAddressSubnet",
        )
    await take(work, port_id, subnet, one.address, place)


async def _refuse_foreign(work: Work, network_id: str, subnet_id: str) -> None:
    s = m.SUBNETS
    if not await work.tx.all(select(s.c.id).where(s.c.id == subnet_id)):
        raise missing("SubnetNotFound", f"Subnet {subnet_id} could not be found.")
    raise invalid(
        f"Failed to create port on network {network_id}, because fixed_ips included invalid subnet {subnet_id}"
    )


def invalid_for_subnet(address: str) -> Invalid:
    return Invalid(f"IP address {address} is not a valid IP for the specified subnet.", kind="InvalidIpForSubnet")


def invalid_for_network(address: str) -> Invalid:
    return Invalid(
        f"IP address {address} is not a valid IP for any of the subnets on the specified network.",
        kind="InvalidIpForNetwork",
    )
