# SPDX-License-Identifier: Apache-2.0
"""The placement service as the others see it: what hosts offer, and claims of it.

Placement answers services only, so every call carries our own token, never the
user's. What must be repeatable is: `ensure_provider` and `drop` find their own
work done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from cumulet.client.session import ServiceSession
from cumulet.kernel import fences
from cumulet.kernel.errors import Conflict, NotFound, Unavailable

VERSION = "1.39"
CONCURRENT_UPDATE = "placement.concurrent_update"
"""The kind of the Conflict that says: read again, then decide."""
_TRIES = 10
_DEFAULTS = {"reserved": 0, "min_unit": 1, "max_unit": 0x7FFFFFFF, "step_size": 1, "allocation_ratio": 1.0}

Amounts = Mapping[str, int]
"""resource class → units."""


class Provider(msgspec.Struct, frozen=True):
    """One resource provider."""

    uuid: str
    name: str
    generation: int
    parent_provider_uuid: str | None = None
    root_provider_uuid: str | None = None


class Inventory(msgspec.Struct, frozen=True):
    """What a provider offers of one class, and how much of it is claimed."""

    total: int
    reserved: int = 0
    min_unit: int = 1
    max_unit: int = 0x7FFFFFFF
    step_size: int = 1
    allocation_ratio: float = 1.0
    used: int = 0


class Summary(msgspec.Struct, frozen=True):
    """A provider as the feed of changes tells it."""

    uuid: str
    name: str
    generation: int
    root_provider_uuid: str
    parent_provider_uuid: str | None = None
    inventories: dict[str, Inventory] = {}
    traits: list[str] = []
    aggregates: list[str] = []


class Changes(msgspec.Struct, frozen=True):
    """One answer of the feed. ``complete``: forget what you have, this begins with everything."""

    sequence: int
    complete: bool
    more: bool
    providers: list[Summary]
    deleted: list[str]


class Candidate(msgspec.Struct, frozen=True):
    """One way to satisfy a request."""

    allocations: dict[str, dict[str, int]]
    """provider → class → units."""
    roots: list[str]
    """The roots of all trees that it takes from."""


class Allocations(msgspec.Struct, frozen=True):
    """What a consumer holds; ``generation`` None: nothing, and the consumer is not known."""

    allocations: dict[str, dict[str, int]] = {}
    generation: int | None = None
    project_id: str | None = None
    user_id: str | None = None


class PlacementClient:
    """Calls of one service to placement."""

    def __init__(self, session: ServiceSession) -> None:
        self._session = session

    async def _call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        version: str | None = VERSION,
        timeout: float = 30.0,
        fence: int | None = None,
    ) -> Any:
        return await self._session.call(
            "placement", method, path, json, headers=fences.header(fence), version=version, as_service=True,
            timeout=timeout,
        )  # fmt: skip

    # ---- providers

    async def providers(self, **filters: str) -> list[Provider]:
        """The providers; ``filters`` are the published ones (name, uuid, in_tree, resources, required, member_of)."""
        query = f"?{urlencode(filters)}" if filters else ""
        told = await self._call("GET", f"/resource_providers{query}")
        return msgspec.convert(told["resource_providers"], list[Provider])

    async def provider(self, uuid: str) -> Provider:
        """One provider; raises NotFound."""
        return msgspec.convert(await self._call("GET", f"/resource_providers/{uuid}"), Provider)

    async def ensure_provider(
        self,
        uuid: str,
        name: str,
        inventories: Mapping[str, Mapping[str, Any]],
        traits: Iterable[str] = (),
        *,
        parent: str | None = None,
        kept: Collection[str] = (),
    ) -> None:
        """Make the provider offer exactly ``inventories``, with ``traits`` and the custom traits it has already.

        ``kept``: fields of an inventory that is there already which stay as they are: an operator chose them.
        Raises Conflict when the name belongs to another provider, or when an inventory that shall go is in use.
        """
        await self._ensure_exists(uuid, name, parent)
        await self._ensure_inventories(uuid, {key: {**_DEFAULTS, **value} for key, value in inventories.items()}, kept)
        await self._ensure_traits(uuid, set(traits))

    async def _ensure_exists(self, uuid: str, name: str, parent: str | None) -> None:
        try:
            known = await self.provider(uuid)
        except NotFound:
            body = {"uuid": uuid, "name": name, "parent_provider_uuid": parent}
            try:
                await self._call("POST", "/resource_providers", body)
            except Conflict:
                await self.provider(uuid)  # someone else made it meanwhile; NotFound: the name is another's
        else:
            if known.name != name:
                await self._call("PUT", f"/resource_providers/{uuid}", {"name": name})

    async def _ensure_inventories(
        self, uuid: str, offered: Mapping[str, dict[str, Any]], kept: Collection[str]
    ) -> None:
        path = f"/resource_providers/{uuid}/inventories"
        for name in offered:
            if name.startswith("CUSTOM_"):
                await self._call("PUT", f"/resource_classes/{name}")
        for _ in range(_TRIES):
            told = await self._call("GET", path)
            have: dict[str, dict[str, Any]] = told["inventories"]
            chosen = {name: {field: one[field] for field in kept} for name, one in have.items()}
            wanted = {name: {**one, **chosen.get(name, {})} for name, one in offered.items()}
            if have == wanted:
                return
            generation = told["resource_provider_generation"]
            if await self._written(path, {"resource_provider_generation": generation, "inventories": wanted}):
                return
        raise Unavailable(f"The inventories of {uuid} are changed by others all the time.")

    async def _ensure_traits(self, uuid: str, wanted: set[str]) -> None:
        path = f"/resource_providers/{uuid}/traits"
        for _ in range(_TRIES):
            told = await self._call("GET", path)
            have = set(told["traits"])
            exact = wanted | {name for name in have if name.startswith("CUSTOM_")}
            if have == exact:
                return
            for name in exact - have:
                if name.startswith("CUSTOM_"):
                    await self._call("PUT", f"/traits/{name}")
            generation = told["resource_provider_generation"]
            if await self._written(path, {"resource_provider_generation": generation, "traits": sorted(exact)}):
                return
        raise Unavailable(f"The traits of {uuid} are changed by others all the time.")

    async def _written(self, path: str, body: dict[str, Any]) -> bool:
        """Whether the PUT won; False when someone changed the provider meanwhile (a claim does)."""
        try:
            await self._call("PUT", path, body)
        except Conflict as conflict:
            if conflict.kind != CONCURRENT_UPDATE:
                raise
            return False
        return True

    async def delete_provider(self, uuid: str) -> None:
        """Remove a provider; gone already is success. Raises Conflict while it is in use."""
        try:
            await self._call("DELETE", f"/resource_providers/{uuid}")
        except NotFound:
            pass

    async def set_aggregates(self, uuid: str, aggregates: Collection[str]) -> None:
        """Make the provider a member of exactly these aggregates."""
        path = f"/resource_providers/{uuid}/aggregates"
        for _ in range(_TRIES):
            told = await self._call("GET", path)
            if set(told["aggregates"]) == set(aggregates):
                return
            generation = told["resource_provider_generation"]
            body = {"resource_provider_generation": generation, "aggregates": sorted(set(aggregates))}
            if await self._written(path, body):
                return
        raise Unavailable(f"The aggregates of {uuid} are changed by others all the time.")

    # ---- searching and claiming

    async def candidates(
        self,
        resources: Amounts,
        *,
        required: Iterable[str] = (),
        forbidden: Iterable[str] = (),
        member_of: Iterable[str] = (),
        in_tree: str | None = None,
        limit: int | None = None,
    ) -> list[Candidate]:
        """The ways to take ``resources`` from one tree. ``member_of`` values are written as published."""
        query = [("resources", ",".join(f"{name}:{amount}" for name, amount in resources.items()))]
        traits = [*required, *(f"!{name}" for name in forbidden)]
        if traits:
            query.append(("required", ",".join(traits)))
        query += [("member_of", value) for value in member_of]
        if in_tree is not None:
            query.append(("in_tree", in_tree))
        if limit is not None:
            query.append(("limit", str(limit)))
        told = await self._call("GET", f"/allocation_candidates?{urlencode(query)}")
        summaries = told["provider_summaries"]
        found = []
        for wish in told["allocation_requests"]:
            allocations = {uuid: one["resources"] for uuid, one in wish["allocations"].items()}
            roots = dict.fromkeys(summaries[uuid]["root_provider_uuid"] for uuid in allocations)
            found.append(Candidate(allocations, list(roots)))
        return found

    async def allocations(self, consumer: str) -> Allocations:
        """What a consumer holds; nothing is an empty answer, no error."""
        told = await self._call("GET", f"/allocations/{consumer}")
        return Allocations(
            allocations={uuid: one["resources"] for uuid, one in told["allocations"].items()},
            generation=told.get("consumer_generation"),
            project_id=told.get("project_id"),
            user_id=told.get("user_id"),
        )

    async def claim(
        self,
        consumer: str,
        allocations: Mapping[str, Amounts],
        *,
        project_id: str,
        user_id: str,
        generation: int | None = None,
        consumer_type: str = "INSTANCE",
        fence: int | None = None,
    ) -> None:
        """Let the consumer hold exactly this (provider → class → units).

        ``generation`` is that of the consumer as it was read (None: it holds
        nothing). Raises Conflict: of kind `CONCURRENT_UPDATE` when that is no
        longer so, of any other when it does not fit, or comes too late: ``fence``
        orders it among the claims of this consumer (`cumulet.kernel.fences`).
        """
        body = {
            "allocations": {uuid: {"resources": dict(amounts)} for uuid, amounts in allocations.items()},
            "project_id": project_id,
            "user_id": user_id,
            "consumer_generation": generation,
            "consumer_type": consumer_type,
        }
        await self._call("PUT", f"/allocations/{consumer}", body, fence=fence)

    async def drop(self, consumer: str, *, fence: int | None = None) -> None:
        """Give back all that a consumer holds; nothing is success. No claim with a lower ``fence`` comes after it."""
        try:
            await self._call("DELETE", f"/allocations/{consumer}", fence=fence)
        except NotFound:
            pass

    async def usages(self, project_id: str, user_id: str | None = None) -> dict[str, int]:
        """How much of each class a project (or one user in it) holds."""
        query = {"project_id": project_id, "consumer_type": "all"}
        if user_id is not None:
            query["user_id"] = user_id
        told = (await self._call("GET", f"/usages?{urlencode(query)}"))["usages"].get("all", {})
        return {name: used for name, used in told.items() if name != "consumer_count"}

    # ---- our own feed

    async def changes(self, after: int = 0, *, wait: int = 0, limit: int = 500) -> Changes:
        """What changed after number ``after``, waiting up to ``wait`` seconds (at most 20) for the first.

        Raises NotFound where placement has no such feed (it is not ours).
        """
        path = f"/changes?after={after}&wait={wait}&limit={limit}"
        return msgspec.convert(await self._call("GET", path, timeout=wait + 30.0), Changes)
