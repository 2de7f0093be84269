# SPDX-License-Identifier: Apache-2.0
"""Subnet pools: prefixes from which subnets are cut, so that no two of a pool overlap.

What is free is computed from the subnets that are there, in the transaction
that takes it; nothing is counted that could drift.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select, true

from cumulet.kernel.context import Context
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Conflict, Invalid, OverQuota
from cumulet.network import models as m
from cumulet.network.errors import bad, invalid
from cumulet.network.logic import Document, Network, Reader, Values, Work, standard_document, tags_of
from cumulet.network.logic.addresses import Net
from cumulet.network.logic.kinds import Authorize, Kind, change, not_found, read

_LENGTHS = {4: 32, 6: 128}
_SMALLEST = {4: 8, 6: 64}
"""Default ``min_prefixlen``."""
_UNIT = {4: 32, 6: 64}
"""A pool's quota is counted in prefixes of this length."""
_COLUMNS = ("ip_version", "prefixes", "default_prefixlen", "min_prefixlen", "max_prefixlen", "default_quota", "shared",
            "is_default")  # fmt: skip


async def documents(net: Network, reader: Reader, rows: list[Row]) -> list[Document]:
    tags = await tags_of(reader, rows)
    return [standard_document(row, tags) | {name: row[name] for name in _COLUMNS} | {"*": {}} for row in rows]


async def create(work: Work, values: Values) -> str:
    shape = _shape(values)
    if values["is_default"]:
        await _only_default(work, shape["ip_version"])
    await work.net.quota.take(work.tx, values["project_id"], {"subnetpool": 1})
    row = {**work.standard(values), **shape, "shared": values["shared"], "is_default": values["is_default"]}
    await work.tx.insert(m.SUBNETPOOLS, row)
    return str(row["id"])


async def update(work: Work, before: Document, values: Values) -> None:
    if "prefixes" in values:
        wanted = list(map(ipaddress.ip_network, values["prefixes"]))
        for prefix in map(ipaddress.ip_network, before["prefixes"]):
            if any(True for _ in subtracted([prefix], wanted)):
                raise _illegal_update("Existing prefixes must be a subset of the new prefixes")
    if values.get("is_default") and not before["is_default"]:
        await _only_default(work, before["ip_version"])
    plain = {name: values[name] for name in ("name", "description", "is_default") if name in values}
    await change(work, m.SUBNETPOOLS, before["id"], **plain, **_shape({**before, **values}))


async def delete(work: Work, before: Document) -> None:
    s = m.SUBNETS.c
    if await work.tx.all(select(s.id).where(s.subnetpool_id == before["id"]).limit(1)):
        raise Invalid(
            "Unable to delete subnet pool: Subnet pool has existing allocations.", kind="SubnetPoolDeleteError"
        )
    await work.tx.run(m.SUBNETPOOLS.delete().where(m.SUBNETPOOLS.c.id == before["id"]))
    await work.net.quota.give(work.tx, before["project_id"], {"subnetpool": 1})


def _shape(values: Values) -> Values:
    """Version, prefixes and lengths of a pool as they will be; raises for what can't be."""
    prefixes: list[Net] = list(map(ipaddress.ip_network, values["prefixes"]))
    if not prefixes:
        raise Invalid("Empty subnet pool prefix list.", kind="EmptySubnetPoolPrefixList")
    version = prefixes[0].version
    if any(one.version != version for one in prefixes):
        raise Invalid("Cannot mix IPv4 and IPv6 prefixes in a subnet pool.", kind="PrefixVersionMismatch")
    if values.get("ip_version", version) != version:
        raise Invalid("Cannot mix IPv4 and IPv6 prefixes in a subnet pool.", kind="PrefixVersionMismatch")
    smallest, longest = values.get("min_prefixlen"), values.get("max_prefixlen")
    smallest = _SMALLEST[version] if smallest is None else smallest
    longest = _LENGTHS[version] if longest is None else longest
    default = values.get("default_prefixlen")
    default = smallest if default is None else default
    for low, high, one, other in (
        (smallest, longest, ("min_prefixlen", smallest), ("max_prefixlen", longest)),
        (longest, _LENGTHS[version], ("max_prefixlen", longest), ("ip_version_max", _LENGTHS[version])),
        (smallest, default, ("default_prefixlen", default), ("min_prefixlen", smallest)),
        (default, longest, ("default_prefixlen", default), ("max_prefixlen", longest)),
    ):
        if low > high:
            raise Invalid(
                f"Illegal prefix bounds: {one[0]}={one[1]}, {other[0]}={other[1]}.",
                kind="IllegalSubnetPoolPrefixBounds",
            )
    return {
        "ip_version": version,
        "prefixes": _compact(prefixes),
        "min_prefixlen": smallest,
        "max_prefixlen": longest,
        "default_prefixlen": default,
        "default_quota": values.get("default_quota"),
    }


def _compact(prefixes: Iterable[Net]) -> list[str]:
    return [str(one) for one in ipaddress.collapse_addresses(prefixes)]  # type: ignore[type-var]


async def _only_default(work: Work, version: int) -> None:
    if await default_of(work, version) is not None:
        raise invalid(
            "A default subnetpool for this IP family has already been set. Only one default may exist per IP family"
        )


async def default_of(work: Work, version: int) -> Row | None:
    """The pool of subnets that name none but ask for the default one."""
    p = m.SUBNETPOOLS
    rows = await work.tx.all(select(p).where(p.c.is_default == true(), p.c.ip_version == version))
    return rows[0] if rows else None


def _illegal_update(why: str) -> Invalid:
    return Invalid(f"Illegal update to prefixes: {why}.", kind="IllegalSubnetPoolPrefixUpdate")


# ---- prefixes


def subtracted(prefixes: Iterable[Net], taken: Iterable[Net]) -> list[Net]:
    """What is left of ``prefixes`` without ``taken``, as the fewest prefixes."""
    left: list[Net] = list(prefixes)
    for one in taken:
        rest: list[Net] = []
        for prefix in left:
            if not prefix.overlaps(one):
                rest.append(prefix)
            elif prefix.prefixlen < one.prefixlen:
                rest += prefix.address_exclude(one)  # type: ignore[arg-type]
        left = rest
    return left


async def change_prefixes(
    net: Network, caller: Context, key: str, prefixes: list[str], authorize: Authorize, *, add: bool
) -> Document:
    """Add prefixes to a pool, or take them out where no subnet needs them."""

    async def body(work: Work) -> Document:
        before = await read(net, caller, SUBNETPOOL, key, work.tx)
        authorize(before, {"prefixes": prefixes})
        have, named = (list(map(ipaddress.ip_network, one)) for one in (before["prefixes"], prefixes))
        if add:
            shape = _shape({**before, "prefixes": [*before["prefixes"], *prefixes]})
        else:
            taken = [row["cidr"] for row in await _subnets_of(work, key)]
            if any(ipaddress.ip_network(cidr).overlaps(one) for cidr in taken for one in named):
                raise _illegal_update("One or more the prefixes to be removed is in use by a subnet")
            shape = {"prefixes": _compact(subtracted(have, named))}
        await change(work, m.SUBNETPOOLS, key, **shape)
        await work.bump(m.SUBNETPOOLS, key)
        return await read(net, caller, SUBNETPOOL, key, work.tx)

    document: Document = await net.change(caller, body)
    return document


# ---- subnets out of pools


async def pool_for(work: Work, values: Values) -> Row | None:
    """The pool from which a new subnet is to be cut; None when it names its range itself."""
    wanted = values.get("subnetpool_id")
    if values.get("use_default_subnetpool"):
        if wanted is not None:
            raise bad("subnets", "subnetpool_id and use_default_subnetpool cannot both be specified")
        version = values["ip_version"]
        pool = await default_of(work, version)
        if pool is None:
            raise bad("subnets", f"No default subnetpool found for IPv{version}")
        return pool
    if wanted is None:
        return None
    await read(work.net, work.caller, SUBNETPOOL, wanted, work.tx)
    p = m.SUBNETPOOLS
    return (await work.tx.all(select(p).where(p.c.id == wanted)))[0]


async def take(work: Work, pool: Row, project_id: str, cidr: str | None, length: int | None) -> str:
    """A free range of the pool: the named one, or any of this length (or of the pool's default)."""
    version = pool["ip_version"]
    wanted = None if cidr is None else ipaddress.ip_network(cidr)
    if wanted is not None and wanted.version != version:
        raise bad("subnets", f"Cannot allocate IPv{wanted.version} subnet from IPv{version} subnet pool")
    length = wanted.prefixlen if wanted is not None else pool["default_prefixlen"] if length is None else length
    for bound, word, wrong in (
        (pool["max_prefixlen"], "maximum", length > pool["max_prefixlen"]),
        (pool["min_prefixlen"], "minimum", length < pool["min_prefixlen"]),
    ):
        if wrong:
            raise Invalid(
                f"Unable to allocate subnet with prefix length {length}, {word} allowed prefix is {bound}.",
                kind=f"{word[:3].title()}PrefixSubnetAllocationError",
            )
    held = await _subnets_of(work, pool["id"])
    _check_quota(pool, [row["cidr"] for row in held if row["project_id"] == project_id], length)
    free = subtracted(map(ipaddress.ip_network, pool["prefixes"]), (ipaddress.ip_network(row["cidr"]) for row in held))
    if wanted is not None:
        if any(wanted.subnet_of(one) for one in free):  # type: ignore[arg-type]
            return str(wanted)
        raise _no_room("Cannot allocate requested subnet from the available set of prefixes")
    for one in sorted(free, key=lambda prefix: (-prefix.prefixlen, int(prefix.network_address))):
        if length >= one.prefixlen:  # the smallest that will do, so that large ones stay whole
            return str(next(iter(one.subnets(new_prefix=length))))
    raise _no_room(f"Insufficient prefix space to allocate subnet size /{length}")


def _check_quota(pool: Row, own: Sequence[str], length: int) -> None:
    unit, quota = _UNIT[pool["ip_version"]], pool["default_quota"]
    if quota and sum(2.0 ** (unit - one) for one in [length, *(int(cidr.partition("/")[2]) for cidr in own)]) > quota:
        raise OverQuota("Per-project subnet pool prefix quota exceeded.", kind="SubnetPoolQuotaExceeded")


def _no_room(why: str) -> Conflict:
    return Conflict(f"Failed to allocate subnet: {why}.", kind="SubnetAllocationError")


async def _subnets_of(work: Work, pool_id: str) -> list[Row]:
    s = m.SUBNETS.c
    return await work.tx.all(select(s.cidr, s.project_id).where(s.subnetpool_id == pool_id))


async def check_affinity(work: Work, network_id: str, version: int, pool: Row | None) -> None:
    """All subnets of a network of one IP version come out of one pool, or none does."""
    s = m.SUBNETS.c
    rows = await work.tx.all(select(s.subnetpool_id).where(s.network_id == network_id, s.ip_version == version))
    if any(row["subnetpool_id"] != (pool["id"] if pool else None) for row in rows):
        raise Invalid(
            "Subnets hosted on the same network must be allocated from the same subnet pool.",
            kind="NetworkSubnetPoolAffinityError",
        )


def _also_visible(caller: Context) -> Any:
    return m.SUBNETPOOLS.c.shared == true()


SUBNETPOOL = Kind(
    "subnetpool",
    "subnetpools",
    m.SUBNETPOOLS,
    not_found("SubnetPoolNotFound", "Subnet pool"),
    documents,
    create,
    update,
    delete,
    also_visible=_also_visible,
)
