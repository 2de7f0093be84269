# SPDX-License-Identifier: Apache-2.0
"""`GET …/cumulet/owned`: what a service holds and for whom, as a table of kinds.

The invariant checker joins these answers; it reads no database. Invariant:
what is told is the committed state (or, for hosts, what is really there), whole,
in pages; nothing in it is a secret.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, Table, select

from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Body, Param, Query, Request, Route
from cumulet.kernel.saga import Saga

READ = "cumulet:owned"
"""The policy rule of every service's answer."""
CHECK = "role:admin"
"""Its default: what belongs to whom is told to the checker and to operators, not to hosts."""
PAGE = 500

Reader = Callable[[Any, str, int], Awaitable[list[Row]]]
"""(service, after this id, at most so many) → rows with an ``id``, in its order."""


@dataclass(frozen=True)
class Kind:
    """One kind of thing that a service holds."""

    name: str
    read: Reader
    paged: bool = True
    """False: it is told at once (what hosts report, what is counted)."""
    recount: Callable[[Any, str, str], Awaitable[None]] | None = None
    """(service, project, resource): writes what is counted over what was kept."""


def rows(name: str, database: Callable[[Any], Database], statement: Select[Any], key: Any) -> Kind:
    """The rows of a statement whose column ``key`` is unique and labelled ``id``."""

    async def read(service: Any, after: str, limit: int) -> list[Row]:
        return await database(service).all(statement.where(key > after).order_by(key).limit(limit))

    return Kind(name, read)


def whole(name: str, read: Callable[[Any], Awaitable[Iterable[Row]]]) -> Kind:
    """What is told in one piece."""

    async def read_all(service: Any, after: str, limit: int) -> list[Row]:
        return list(await read(service))

    return Kind(name, read_all, paged=False)


def sagas(database: Callable[[Any], Database], table: Table, known: Iterable[Saga]) -> Kind:
    """The sagas that are not over, each with the time (seconds since the epoch) at which its step is late.

    A step going forward has its own ``within``; going back it has the tries of an undo, here a generous hour.
    """
    within = {(one.name, one.version): [step.within for step in one.steps] for one in known}
    columns = ("id", "name", "version", "subject", "state", "cursor", "floor", "step_since", "created_at", "attempt")
    statement = select(*(table.c[column] for column in columns)).where(table.c.state.in_(["ready", "stuck"]))

    async def read(service: Any, after: str, limit: int) -> list[Row]:
        found = await database(service).all(statement.where(table.c.id > after).order_by(table.c.id).limit(limit))
        for row in found:
            steps = within.get((row["name"], row["version"]), [])
            ahead = steps[row["cursor"]] if row["floor"] is None and row["cursor"] < len(steps) else 3600.0
            row["late_at"] = row["step_since"] + ahead + 60.0
        return found

    return Kind("saga", read)


def usage(
    database: Callable[[Any], Database],
    table: Table,
    count: Callable[[Database | Transaction], Awaitable[Mapping[tuple[str, str], int]]],
) -> Kind:
    """The usage rows of a service's quota beside a count of what exists: (project, resource) → number."""

    async def read(service: Any, after: str, limit: int) -> list[Row]:
        counted = dict(await count(database(service)))
        kept = {(row["project_id"], row["resource"]): row["used"] for row in await database(service).all(select(table))}
        return [
            {"id": "/".join(key), "project_id": key[0], "resource": key[1], "used": kept.get(key, 0),
             "counted": counted.get(key, 0)}
            for key in sorted({*kept, *counted})
        ]  # fmt: skip

    async def recount(service: Any, project_id: str, resource: str) -> None:
        async def body(tx: Transaction) -> None:
            counted = (await count(tx)).get((project_id, resource), 0)
            row = (table.c.project_id == project_id) & (table.c.resource == resource)
            if not await tx.run(table.update().where(row).values(used=counted)) and counted:
                await tx.insert(table, {"project_id": project_id, "resource": resource, "used": counted})

        await database(service).run(body)

    return Kind("usage", read, paged=False, recount=recount)


def routes(prefix: str, kinds: Iterable[Kind]) -> list[Route]:
    """The route ``GET <prefix>/cumulet/owned``: without ``kind`` it names the kinds, with it a page of the things.

    A service with quotas also has ``POST <prefix>/cumulet/recount``: one project's use of one resource is counted anew.
    """
    table = {kind.name: kind for kind in kinds}

    async def owned(request: Request) -> dict[str, Any]:
        wanted = request.query.get("kind")
        if wanted is None:
            return {"kinds": list(table)}
        if wanted not in table:
            raise Invalid(f"There is no kind {wanted!r}; there are: {', '.join(table)}.")
        kind, limit = table[wanted], request.query.get("limit", PAGE)
        found = await kind.read(request.service, request.query.get("after", ""), limit)
        more = kind.paged and len(found) == limit
        return {"owned": found, "next": found[-1]["id"] if more else None}

    query = Query(
        Param("kind", {"type": "string", "maxLength": 40}),
        Param("after", {"type": "string", "maxLength": 255}),
        Param("limit", {"type": "integer", "minimum": 1, "maximum": 5000}),
        strict_since=None,
    )
    found = [Route(f"GET {prefix}/cumulet/owned", owned, policy=READ, query=query)]
    return found + [_recount(prefix, kind.recount) for kind in table.values() if kind.recount is not None]


def _recount(prefix: str, recount: Callable[[Any, str, str], Awaitable[None]]) -> Route:
    async def handler(request: Request) -> None:
        await recount(request.service, request.body["project_id"], request.body["resource"])

    name = {"type": "string", "minLength": 1, "maxLength": 64}
    body = {
        "type": "object", "properties": {"project_id": name, "resource": name}, "additionalProperties": False,
        "required": ["project_id", "resource"],
    }  # fmt: skip
    return Route(f"POST {prefix}/cumulet/recount", handler, policy=READ, body=Body(None, raw=body), ok=204)
