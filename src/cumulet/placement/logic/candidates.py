# SPDX-License-Identifier: Apache-2.0
"""Allocation candidates: loads the trees that can matter for a search, and searches them.

The database narrows (only trees where every wished class could fit somewhere),
`search.find` decides. Answers are advice: the claim alone is exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from sqlalchemy import Table, select

from cumulet.kernel import ids
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid
from cumulet.placement.logic import Placement
from cumulet.placement.logic.names import missing_classes, missing_traits
from cumulet.placement.logic.providers import fits
from cumulet.placement.models import INVENTORIES, PROVIDER_AGGREGATES, PROVIDER_TRAITS, PROVIDERS
from cumulet.placement.names import SHARING
from cumulet.placement.search import Candidate, Group, Provider, Wide, find, summarised

_CHUNK = 500


async def list_candidates(
    placement: Placement, groups: list[Group], wide: Wide, limit: int | None
) -> tuple[list[Candidate], list[Provider]]:
    """The candidates (at most ``limit``) and the providers to describe; raises Invalid for unknown names."""
    database = placement.database
    if missing := await missing_classes(database, {name for group in groups for name in group.resources}):
        raise Invalid(f"Invalid resource class in resources parameter: No such resource class {missing[0]}.")
    traits = set().union(*(group.forbidden.union(*group.required) for group in groups))
    if missing := await missing_traits(database, traits | wide.root_required | wide.root_forbidden):
        raise Invalid(f"No such trait(s): {', '.join(missing)}.")
    if not await _resolve_trees(placement, groups):
        return [], []
    anchors = await _anchors(placement)
    roots = await _roots(placement, groups, anchors)
    if not roots:
        return [], []
    providers = await _load(placement, roots, anchors)
    randomize = placement.config.randomize_allocation_candidates
    wide.most = placement.config.max_allocation_candidates
    if limit is not None and not randomize:
        wide.most = limit if wide.most < 0 else min(limit, wide.most)
    candidates = find(groups, wide, providers, anchors)
    if randomize:
        candidates.sort(key=lambda _: ids.choose(0, 1))
        candidates = candidates[:limit]
    return candidates, summarised(candidates, wide, providers)


async def _resolve_trees(placement: Placement, groups: list[Group]) -> bool:
    """Replace each ``in_tree`` by the root of that tree; False when there is no such provider."""
    for group in groups:
        if group.in_tree is not None:
            statement = select(PROVIDERS.c.root_uuid).where(PROVIDERS.c.uuid == group.in_tree)
            row = await placement.database.first(statement)
            if row is None:
                return False
            group.in_tree = row["root_uuid"]
    return True


async def _anchors(placement: Placement) -> dict[str, set[str]]:
    """Sharing provider → the roots of the trees that it serves (its own among them)."""
    sharing = select(PROVIDER_TRAITS.c.provider_uuid).where(PROVIDER_TRAITS.c.trait == SHARING)
    own, other = PROVIDER_AGGREGATES.alias("own"), PROVIDER_AGGREGATES.alias("other")
    rows = await placement.database.all(
        select(own.c.provider_uuid, PROVIDERS.c.root_uuid)
        .join(other, other.c.aggregate_uuid == own.c.aggregate_uuid)
        .join(PROVIDERS, PROVIDERS.c.uuid == other.c.provider_uuid)
        .where(own.c.provider_uuid.in_(sharing))
        .distinct(),
        point=True,
    )
    anchors: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        anchors[row["provider_uuid"]].add(row["root_uuid"])
    return dict(anchors)


async def _roots(placement: Placement, groups: list[Group], anchors: dict[str, set[str]]) -> set[str]:
    """The roots under which every class of every group could be found by itself."""
    roots: set[str] | None = None
    for group in groups:
        for name, amount in group.resources.items():
            statement = (
                select(INVENTORIES.c.provider_uuid, PROVIDERS.c.root_uuid)
                .join(PROVIDERS, PROVIDERS.c.uuid == INVENTORIES.c.provider_uuid)
                .where(fits(name, amount))
            )
            if group.in_tree is not None:
                statement = statement.where(PROVIDERS.c.root_uuid == group.in_tree)
            here: set[str] = set()
            for row in await placement.database.all(statement, point=group.in_tree is not None):
                here |= {row["root_uuid"], *anchors.get(row["provider_uuid"], ())}
            roots = here if roots is None else roots & here
            if not roots:
                return set()
    return roots or set()


async def _load(placement: Placement, roots: Collection[str], anchors: dict[str, set[str]]) -> dict[str, Provider]:
    """All providers of the trees, and the trees of those that share with them, ordered by name."""
    wanted = set(roots)
    serving = [uuid for uuid, served in anchors.items() if served & wanted]
    if serving:
        statement = select(PROVIDERS.c.root_uuid).where(PROVIDERS.c.uuid.in_(serving))
        wanted |= {row["root_uuid"] for row in await placement.database.all(statement)}
    rows = await _chunked(placement, PROVIDERS, "root_uuid", wanted)
    rows.sort(key=lambda row: (row["name"], row["uuid"]))
    uuids = [row["uuid"] for row in rows]
    inventories: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in await _chunked(placement, INVENTORIES, "provider_uuid", uuids):
        inventories[row["provider_uuid"]][row["resource_class"]] = row
    traits: dict[str, set[str]] = defaultdict(set)
    for row in await _chunked(placement, PROVIDER_TRAITS, "provider_uuid", uuids):
        traits[row["provider_uuid"]].add(row["trait"])
    aggregates: dict[str, set[str]] = defaultdict(set)
    for row in await _chunked(placement, PROVIDER_AGGREGATES, "provider_uuid", uuids):
        aggregates[row["provider_uuid"]].add(row["aggregate_uuid"])
    return {
        row["uuid"]: Provider(
            uuid=row["uuid"],
            root=row["root_uuid"],
            parent=row["parent_uuid"],
            inventories=inventories[row["uuid"]],
            traits=frozenset(traits[row["uuid"]]),
            aggregates=frozenset(aggregates[row["uuid"]]),
        )
        for row in rows
    }


async def _chunked(placement: Placement, table: Table, column: str, values: Collection[str]) -> list[Row]:
    """The rows with one of ``values``; a handful is read on the loop."""
    ordered, rows = sorted(values), []
    for start in range(0, len(ordered), _CHUNK):
        some = ordered[start : start + _CHUNK]
        rows += await placement.database.all(select(table).where(table.c[column].in_(some)), point=len(ordered) <= 3)
    return rows
