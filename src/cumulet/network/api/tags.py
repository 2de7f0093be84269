# SPDX-License-Identifier: Apache-2.0
"""Tags of any resource that has them; a changed set is a new revision of the resource."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from cumulet.kernel.http import Body, Request, Route
from cumulet.network import models as m
from cumulet.network.api.resource import Resource, enforce
from cumulet.network.errors import bad, invalid, missing
from cumulet.network.logic import Work, kinds
from cumulet.network.schemas import TAGS_BODY
from cumulet.network.schemas.values import oneline

MAX_TAGS = 50
_BODY = Body(None, raw=TAGS_BODY)


class Tags:
    """The tag operations of one resource."""

    def __init__(self, resource: Resource) -> None:
        self._resource, self._kind = resource, resource.kind

    def routes(self) -> list[Route]:
        all_, one, name = f"{self._resource.path}/{{id}}/tags", "/{tag}", self._kind.name
        return [
            Route(f"GET {all_}", self.index, policy=f"get_{name}:tags", late=True),
            Route(f"PUT {all_}", self.replace, policy=f"update_{name}:tags", late=True, body=_BODY),
            Route(f"POST {all_}", self.add_several, policy=f"create_{name}:tags", late=True, body=_BODY, ok=201),
            Route(f"DELETE {all_}", self.remove_all, policy=f"delete_{name}:tags", late=True, ok=204),
            Route(f"GET {all_}{one}", self.show, policy=f"get_{name}:tags", late=True, ok=204),
            Route(f"PUT {all_}{one}", self.add, policy=f"update_{name}:tags", late=True, ok=201),
            Route(f"DELETE {all_}{one}", self.remove, policy=f"delete_{name}:tags", late=True, ok=204),
        ]

    async def index(self, request: Request) -> dict[str, Any]:
        return {"tags": await self._read(request)}

    async def show(self, request: Request) -> None:
        self._must_have(await self._read(request), request.params["tag"])

    async def replace(self, request: Request) -> dict[str, Any]:
        wanted = _checked(request.body["tags"])
        return {"tags": await self._change(request, "update", lambda have: wanted)}

    async def add_several(self, request: Request) -> dict[str, Any]:
        wanted = _checked(request.body["tags"])
        return {"tags": await self._change(request, "create", lambda have: {*have, *wanted})}

    async def add(self, request: Request) -> None:
        (tag,) = _checked([request.params["tag"]])
        await self._change(request, "update", lambda have: {*have, tag})

    async def remove(self, request: Request) -> None:
        tag = request.params["tag"]

        def without(have: set[str]) -> set[str]:
            self._must_have(have, tag)
            return have - {tag}

        await self._change(request, "delete", without)

    async def remove_all(self, request: Request) -> None:
        await self._change(request, "delete", lambda have: set())

    def _must_have(self, have: Any, tag: str) -> None:
        if tag not in have:
            raise missing("TagNotFound", f"Tag {tag} could not be found.")

    async def _read(self, request: Request) -> list[str]:
        document = await kinds.read(request.service, request.context, self._kind, request.params["id"])
        enforce(request.policy, request.context, self._kind.name, "get", document, {"tags": []},
                frozenset({"tags"}), before=document)  # fmt: skip
        tags: list[str] = document["tags"]
        return tags

    async def _change(self, request: Request, action: str, make: Any) -> list[str]:
        key, t = request.params["id"], m.TAGS

        async def body(work: Work) -> list[str]:
            before = await kinds.read(request.service, request.context, self._kind, key, work.tx)
            rule = f"{action}_{self._kind.name}:tags"
            whole = {**before, **before["*"]}
            if not request.policy.allows(rule, request.context, whole):
                enforce(request.policy, request.context, self._kind.name, "get", before, {}, frozenset(), before=before)
                request.policy.enforce(rule, request.context, whole)
            have, wanted = set(before["tags"]), make(set(before["tags"]))
            if len(wanted) > MAX_TAGS:
                raise bad(self._kind.plural, f"The number of tags exceed the per-resource limit of {MAX_TAGS}")
            if have != wanted:
                await work.tx.run(t.delete().where(t.c.resource_id == key, t.c.tag.in_(have - wanted)))
                await kinds.set_tags(work, key, sorted(wanted - have))
                await work.bump(self._kind.table, key)
            rows = await work.tx.all(select(t.c.tag).where(t.c.resource_id == key).order_by(t.c.tag))
            return [row["tag"] for row in rows]

        tags: list[str] = await request.service.change(request.context, body)
        return tags


def _checked(tags: list[str]) -> set[str]:
    try:
        return {oneline(tag) for tag in tags}
    except ValueError as error:
        raise invalid(str(error)) from None
