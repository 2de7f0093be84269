# SPDX-License-Identifier: Apache-2.0
"""The search for allocation candidates: a pure function of trees of providers and groups of wishes.

An answer takes the resources of each group from one tree and the sharing
providers that serve it. A named group comes from a single provider; the unnamed
one may be spread over the tree, one provider per class, which together have the
required traits while none has a forbidden one.
Source: Placement API reference, "Allocation candidates", and its user guide on provider trees.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

Amounts = dict[tuple[str, str], int]
"""(provider, class) → units."""


@dataclass(frozen=True)
class Provider:
    """One provider with all that a search asks of it."""

    uuid: str
    root: str
    parent: str | None
    inventories: Mapping[str, Mapping[str, Any]]
    traits: frozenset[str]
    aggregates: frozenset[str]

    def fits(self, name: str, amount: int) -> bool:
        row = self.inventories.get(name)
        return (
            row is not None
            and row["used"] + amount <= (row["total"] - row["reserved"]) * row["allocation_ratio"]
            and row["min_unit"] <= amount <= row["max_unit"]
            and amount % row["step_size"] == 0
        )


@dataclass
class Group:
    """One group of wishes; the one with the empty suffix may be spread over a tree."""

    suffix: str = ""
    resources: dict[str, int] = field(default_factory=dict)
    required: list[set[str]] = field(default_factory=list)
    """Of each set one trait is required."""
    forbidden: set[str] = field(default_factory=set)
    member_of: list[set[str]] = field(default_factory=list)
    """Of each set membership in one aggregate is required."""
    forbidden_aggregates: set[str] = field(default_factory=set)
    in_tree: str | None = None
    """The root of the only tree to look in (callers resolve other members of it first)."""

    def has_traits(self, traits: Iterable[str]) -> bool:
        have = set(traits)
        return all(any_of & have for any_of in self.required)

    def is_member(self, provider: Provider) -> bool:
        return all(any_of & provider.aggregates for any_of in self.member_of)


@dataclass
class Wide:
    """What holds for the whole search."""

    isolate: bool = False
    """Named groups must come from different providers."""
    root_required: set[str] = field(default_factory=set)
    root_forbidden: set[str] = field(default_factory=set)
    same_subtree: list[set[str]] = field(default_factory=list)
    nested: bool = True
    """False before version 1.29: never two providers of one tree."""
    most: int = -1
    """Stop after this many candidates (-1: never)."""


@dataclass(frozen=True)
class Candidate:
    """One way to satisfy all groups."""

    allocations: dict[str, dict[str, int]]
    mappings: dict[str, list[str]]


@dataclass(frozen=True)
class _Part:
    """One way to satisfy one group within the tree of one anchor."""

    suffix: str
    amounts: Amounts
    providers: frozenset[str]


def find(
    groups: list[Group], wide: Wide, providers: Mapping[str, Provider], anchors: Mapping[str, set[str]]
) -> list[Candidate]:
    """All candidates among ``providers`` (in their order), each once.

    ``anchors``: sharing provider → the roots of all trees that have a member in one of its aggregates.
    """
    trees: dict[str, list[Provider]] = defaultdict(list)
    for provider in providers.values():
        trees[provider.root].append(provider)
    sharing: dict[str, list[Provider]] = defaultdict(list)
    for uuid, roots in anchors.items():
        for root in roots:
            if uuid in providers and providers[uuid].root != root:
                sharing[root].append(providers[uuid])
    found: list[Candidate] = []
    known: set[Any] = set()
    for anchor, tree in trees.items():
        if not _is_anchor(providers.get(anchor), wide):
            continue
        parts = [list(_parts(group, providers[anchor], tree, sharing[anchor])) for group in groups]
        for chosen, amounts in _combine(parts, providers):
            if not _allowed(chosen, wide, providers):
                continue
            candidate = _candidate(chosen, amounts)
            if not wide.nested and not _one_per_tree(candidate, providers):
                continue
            key = repr((sorted(amounts.items()), sorted(candidate.mappings.items())))
            if key not in known:
                known.add(key)
                found.append(candidate)
                if 0 <= wide.most <= len(found):
                    return found
    return found


def summarised(candidates: Iterable[Candidate], wide: Wide, providers: Mapping[str, Provider]) -> list[Provider]:
    """The providers that an answer describes: all of the involved trees (before 1.29 the involved ones only)."""
    involved = {uuid for candidate in candidates for uuid in candidate.allocations}
    if not wide.nested:
        return [provider for uuid, provider in providers.items() if uuid in involved]
    roots = {providers[uuid].root for uuid in involved}
    return [provider for provider in providers.values() if provider.root in roots]


def _is_anchor(root: Provider | None, wide: Wide) -> bool:
    if root is None:
        return False
    return wide.root_required <= root.traits and not wide.root_forbidden & root.traits


def _parts(group: Group, anchor: Provider, tree: list[Provider], sharing: list[Provider]) -> Iterator[_Part]:
    """The ways to satisfy one group in one tree."""
    if group.suffix:
        for provider in [*tree, *sharing]:
            if _satisfies(provider, group):
                amounts = {(provider.uuid, name): amount for name, amount in group.resources.items()}
                yield _Part(group.suffix, amounts, frozenset({provider.uuid}))
        return
    options = []
    for name, amount in group.resources.items():
        options.append([p for p in [*tree, *sharing] if p.fits(name, amount) and _may_help(p, group, anchor)])
        if not options[-1]:
            return
    names = list(group.resources)
    for chosen in product(*options):
        traits = set().union(*(provider.traits for provider in chosen))
        if group.has_traits(traits) and not group.forbidden & traits:
            pairs = zip(chosen, names, strict=True)
            amounts = {(provider.uuid, name): group.resources[name] for provider, name in pairs}
            yield _Part("", amounts, frozenset(provider.uuid for provider in chosen))


def _satisfies(provider: Provider, group: Group) -> bool:
    """Whether one provider alone can serve a named group."""
    return (
        (group.in_tree is None or provider.root == group.in_tree)
        and all(provider.fits(name, amount) for name, amount in group.resources.items())
        and group.has_traits(provider.traits)
        and not group.forbidden & provider.traits
        and group.is_member(provider)
        and not group.forbidden_aggregates & provider.aggregates
    )


def _may_help(provider: Provider, group: Group, anchor: Provider) -> bool:
    """Whether a provider may serve a class of the unnamed group; an aggregate of the root spans its whole tree."""
    shared = provider.root != anchor.uuid
    if group.in_tree is not None and (shared or anchor.uuid != group.in_tree):
        return False
    if group.forbidden_aggregates & (provider.aggregates | anchor.aggregates):
        return False
    return group.is_member(provider) or (not shared and group.is_member(anchor))


def _combine(
    parts: list[list[_Part]], providers: Mapping[str, Provider], index: int = 0, amounts: Amounts | None = None
) -> Iterator[tuple[list[_Part], Amounts]]:
    """Every choice of one part per group whose sum fits; hopeless beginnings are not gone on with."""
    amounts = amounts or {}
    if index == len(parts):
        yield [], amounts
        return
    for part in parts[index]:
        total = dict(amounts)
        for key, amount in part.amounts.items():
            total[key] = total.get(key, 0) + amount
        if all(_holds(providers[uuid], name, total[uuid, name]) for uuid, name in part.amounts):
            for rest, final in _combine(parts, providers, index + 1, total):
                yield [part, *rest], final


def _holds(provider: Provider, name: str, amount: int) -> bool:
    row = provider.inventories[name]
    capacity = int((row["total"] - row["reserved"]) * row["allocation_ratio"])
    return bool(row["used"] + amount <= capacity and amount <= row["max_unit"])


def _allowed(chosen: list[_Part], wide: Wide, providers: Mapping[str, Provider]) -> bool:
    if wide.isolate:
        named = [part.providers for part in chosen if part.suffix]
        if len(frozenset().union(*named)) < len(named):
            return False
    for suffixes in wide.same_subtree:
        members = frozenset().union(*(part.providers for part in chosen if part.suffix in suffixes))
        common = frozenset.intersection(*(_line(uuid, providers) for uuid in members))
        if not common & members:
            return False
    return True


def _line(uuid: str, providers: Mapping[str, Provider]) -> frozenset[str]:
    """The provider and its ancestors."""
    line = {uuid}
    parent = providers[uuid].parent
    while parent is not None and parent in providers:
        line.add(parent)
        parent = providers[parent].parent
    return frozenset(line)


def _one_per_tree(candidate: Candidate, providers: Mapping[str, Provider]) -> bool:
    return len({providers[uuid].root for uuid in candidate.allocations}) == len(candidate.allocations)


def _candidate(chosen: list[_Part], amounts: Amounts) -> Candidate:
    allocations: dict[str, dict[str, int]] = defaultdict(dict)
    for (uuid, name), amount in amounts.items():
        allocations[uuid][name] = amount
    return Candidate(dict(allocations), {part.suffix: sorted(part.providers) for part in chosen})
