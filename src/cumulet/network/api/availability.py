# SPDX-License-Identifier: Apache-2.0
"""How many addresses a network has and how many of them are in use."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import parse_qsl

from sqlalchemy import func, select

from cumulet.kernel.db import Row
from cumulet.kernel.http import Request, Route
from cumulet.network import models as m
from cumulet.network.errors import http_bad
from cumulet.network.logic import by_key
from cumulet.network.logic.networks import NETWORK

_PATH = "/v2.0/network-ip-availabilities"
_MOST = 2**64 - 1
"""The largest number that a JSON reader may be trusted with."""
_FILTERS = {"network_id": "id", "network_name": "name", "tenant_id": "project_id", "project_id": "project_id"}


async def index(request: Request) -> dict[str, Any]:
    request.policy.enforce("get_network_ip_availability", request.context)
    n, where = m.NETWORKS, []
    version = None
    for name, value in parse_qsl(request.query_text, keep_blank_values=True):
        if name == "ip_version" and value in ("4", "6"):
            version = int(value)
        elif name in _FILTERS:
            where.append(n.c[_FILTERS[name]] == value)
        elif name not in ("fields", "limit", "marker", "page_reverse"):
            raise http_bad(f"['{name}'] is invalid attribute for filtering")
    rows = await request.service.database.all(select(n).where(*where).order_by(n.c.id))
    return {"network_ip_availabilities": await _documents(request, rows, version)}


async def show(request: Request) -> dict[str, Any]:
    request.policy.enforce("get_network_ip_availability", request.context)
    n, key = m.NETWORKS, request.params["network_id"]
    rows = await request.service.database.all(select(n).where(n.c.id == key))
    if not rows:
        raise NETWORK.missing(key)
    return {"network_ip_availability": (await _documents(request, rows, None))[0]}


async def _documents(request: Request, rows: list[Row], version: int | None) -> list[dict[str, Any]]:
    s, a = m.SUBNETS, m.ADDRESSES.c
    ids = [row["id"] for row in rows]
    database = request.service.database
    statement = select(s).where(s.c.network_id.in_(ids)).order_by(s.c.id)
    subnets = by_key(await database.all(statement), "network_id")
    counts = select(a.subnet_id, func.count().label("used")).where(a.network_id.in_(ids)).group_by(a.subnet_id)
    used = {row["subnet_id"]: row["used"] for row in await database.all(counts)}
    found = []
    for row in rows:
        parts = [
            {
                "subnet_id": one["id"],
                "subnet_name": one["name"],
                "cidr": one["cidr"],
                "ip_version": one["ip_version"],
                "total_ips": _size(one["allocation_pools"]),
                "used_ips": used.get(one["id"], 0),
            }
            for one in subnets.get(row["id"], [])
            if version in (None, one["ip_version"])
        ]
        if version is not None and not parts:
            continue
        found.append(
            {
                "network_id": row["id"],
                "network_name": row["name"],
                "tenant_id": row["project_id"],
                "project_id": row["project_id"],
                "total_ips": min(sum(one["total_ips"] for one in parts), _MOST),
                "used_ips": sum(one["used_ips"] for one in parts),
                "subnet_ip_availability": parts,
            }
        )
    return found


def _size(pools: list[dict[str, str]]) -> int:
    size = sum(int(ipaddress.ip_address(one["end"])) - int(ipaddress.ip_address(one["start"])) + 1 for one in pools)
    return min(size, _MOST)


ROUTES = [
    Route(f"GET {_PATH}", index, policy="get_network_ip_availability", late=True),
    Route(f"GET {_PATH}/{{network_id}}", show, policy="get_network_ip_availability", late=True),
]
