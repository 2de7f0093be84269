# SPDX-License-Identifier: Apache-2.0
"""RBAC policies: which other projects may use a network as their own shared one, or as a way out.

A network's ``shared`` and ``external`` columns say what holds for everybody; a
policy for everybody (``*``) and its column are changed together. Who may see a
network of somebody else's is answered by the policies alone (`seen_by`).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.kernel import context, ids
from cumulet.kernel.db import Duplicate, Row
from cumulet.network import models as m
from cumulet.network.errors import in_use, invalid, missing
from cumulet.network.logic import Document, Network, Reader, Values, Work
from cumulet.network.logic.kinds import Kind, change, first

SHARED, EXTERNAL = "access_as_shared", "access_as_external"
EVERYBODY = "*"
COLUMNS = {SHARED: "shared", EXTERNAL: "external"}


def seen_by(project_id: str | None, *actions: str) -> Any:
    """A query of the ids of the networks to which a project has one of these ways (none: any way)."""
    r = m.RBAC.c
    ways = select(r.object_id).where(r.object_type == "network", r.target.in_([EVERYBODY, project_id or ""]))
    return ways.where(r.action.in_(actions)) if actions else ways


async def as_seen(reader: Reader, rows: list[Row]) -> list[Row]:
    """Rows of networks as the caller sees them: one that is shared with its project is shared."""
    caller = context.current()
    if caller is None or not caller.project_id or not rows:
        return rows
    r = m.RBAC.c
    mine = select(r.object_id).where(
        r.object_id.in_([row["id"] for row in rows]), r.action == SHARED, r.target == caller.project_id
    )
    shared = {row["object_id"] for row in await reader.all(mine)}
    return [{**row, "shared": row["shared"] or row["id"] in shared} for row in rows]


# ---- kept with a network's own attributes


async def open_to_all(work: Work, network_id: str, project_id: str, action: str) -> None:
    """Everybody has this way to the network: its attribute says so."""
    r = m.RBAC.c
    there = select(r.id).where(r.object_id == network_id, r.action == action, r.target == EVERYBODY)
    if await work.tx.all(there):
        return
    row = {"id": ids.new_uuid(), "project_id": project_id, "object_type": "network", "object_id": network_id}
    await work.tx.insert(m.RBAC, {**row, "action": action, "target": EVERYBODY})
    await work.net.quota.give(work.tx, project_id, {"rbac_policy": -1})  # it counts, but is never refused


async def close(work: Work, network_id: str, action: str | None = None, target: str | None = None) -> None:
    """Take back the ways to a network: of one action and target, or all."""
    r = m.RBAC
    where = [r.c.object_id == network_id]
    where += [r.c.action == action] if action else []
    where += [r.c.target == target] if target else []
    for row in await work.tx.all(select(r).where(*where)):
        await work.tx.run(r.delete().where(r.c.id == row["id"]))
        await work.net.quota.give(work.tx, row["project_id"], {"rbac_policy": 1})


# ---- the resource


async def documents(net: Network, reader: Reader, rows: list[Row]) -> list[Document]:
    return [
        {
            "id": row["id"],
            "tenant_id": row["project_id"],
            "project_id": row["project_id"],
            "object_type": row["object_type"],
            "object_id": row["object_id"],
            "action": row["action"],
            "target_tenant": row["target"],
            "*": {},
        }
        for row in rows
    ]


async def create(work: Work, values: Values) -> str:
    from cumulet.network.logic.networks import network_of

    action, target = values["action"], values["target_tenant"]
    if action not in COLUMNS:
        raise invalid(
            f"Invalid action '{action}' for object type 'network'. Valid actions: {', '.join(sorted(COLUMNS))}"
        )
    network = await network_of(work, values["object_id"])
    if not work.caller.is_admin and (action == EXTERNAL or network["project_id"] != work.caller.project_id):
        raise invalid("Only admins can manipulate policies on networks they do not own")
    await work.net.quota.take(work.tx, values["project_id"], {"rbac_policy": 1})
    row = {"id": ids.new_uuid(), "project_id": values["project_id"], "object_type": "network"}
    try:
        await work.tx.insert(m.RBAC, {**row, "object_id": network["id"], "action": action, "target": target})
    except Duplicate:
        raise in_use("DuplicateRbacPolicy", "An RBAC policy already exists with those values.") from None
    await _settle(work, network["id"], action)
    return str(row["id"])


async def update(work: Work, before: Document, values: Values) -> None:
    target = values.get("target_tenant", before["target_tenant"])
    if target == before["target_tenant"]:
        return
    try:
        await change(work, m.RBAC, before["id"], target=target)
    except Duplicate:
        raise in_use("DuplicateRbacPolicy", "An RBAC policy already exists with those values.") from None
    await _refuse_orphans(work, before)
    await _settle(work, before["object_id"], before["action"])


async def delete(work: Work, before: Document) -> None:
    await work.tx.run(m.RBAC.delete().where(m.RBAC.c.id == before["id"]))
    await _refuse_orphans(work, before)
    await work.net.quota.give(work.tx, before["project_id"], {"rbac_policy": 1})
    await _settle(work, before["object_id"], before["action"])


async def _settle(work: Work, network_id: str, action: str) -> None:
    """The network's column says what the policies say now."""
    r, n = m.RBAC.c, m.NETWORKS
    ways = await work.tx.all(select(r.target).where(r.object_id == network_id, r.action == action))
    targets = {row["target"] for row in ways}
    holds = bool(targets) if action == EXTERNAL else EVERYBODY in targets
    await change(work, n, network_id, **{COLUMNS[action]: holds})
    await work.bump(n, network_id)


async def _refuse_orphans(work: Work, before: Document) -> None:
    """Refuse when somebody uses the network who has no way to it any more (the policy is changed already)."""
    network = await first(work.tx, m.NETWORKS, before["object_id"], _no_policy)
    r, p, f, o = m.RBAC.c, m.PORTS.c, m.FLOATINGIPS.c, m.ROUTERS.c
    key, action = network["id"], before["action"]
    ways = await work.tx.all(select(r.target).where(r.object_id == key, r.action == action))
    kept = {row["target"] for row in ways} | {network["project_id"]}
    if EVERYBODY in kept:
        return
    if action == SHARED:
        users = [select(p.project_id).where(p.network_id == key, p.ours.is_(False))]
    else:
        users = [
            select(o.project_id).where(o.gateway_network_id == key),
            select(f.project_id).where(f.floating_network_id == key),
        ]
        if len(kept) == 1:  # no way out for anybody: not even for its owner
            kept = set()
    using = {row["project_id"] for one in users for row in await work.tx.all(one.distinct())} - {""}
    if lost := sorted(using - kept):
        raise in_use(
            "RbacPolicyInUse",
            f"RBAC policy on object {key} cannot be removed because other objects depend on it.\nDetails: "
            f"projects that use the network: {', '.join(lost)}",
        )


def _no_policy(key: str) -> Any:
    return missing("RbacPolicyNotFound", f"RBAC policy of type unknown with ID {key} not found")


RBAC_POLICY = Kind(
    "rbac_policy",
    "rbac_policies",
    m.RBAC,
    _no_policy,
    documents,
    create,
    update,
    delete,
    revised=False,
)
