# SPDX-License-Identifier: Apache-2.0
"""Reads what query values say: amounts, traits, aggregates, and the groups made of them.

The words are the same in lists of providers and in searches for candidates;
what a value may say grew with the versions.
"""

from __future__ import annotations

from typing import Any

from cumulet.kernel import ids
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Request
from cumulet.placement import errors
from cumulet.placement.search import Group, Wide

_FORM = (
    "Badly formed resources parameter. Expected resources query string parameter in form: "
    "?resources=VCPU:2,MEMORY_MB:1024. Got: "
)
_BAD = "Invalid query string parameters: "


def resources_of(value: str) -> dict[str, int]:
    """``VCPU:2,MEMORY_MB:1024`` as amounts by class."""
    if not value.strip():
        raise Invalid(_FORM + "empty string.")
    amounts = {}
    for item in value.split(","):
        name, colon, text = item.partition(":")
        if not colon or ":" in text:
            raise Invalid(f"{_FORM}{item}.")
        try:
            amount = int(text)
        except ValueError:
            raise Invalid(f"Requested resource {name} expected positive integer amount. Got: {text}.") from None
        if amount < 1:
            raise Invalid(f"Requested resource {name} requires amount >= 1. Got: {amount}.")
        amounts[name] = amount
    return amounts


def traits_of(request: Request, values: list[str]) -> tuple[list[set[str]], set[str]]:
    """Required sets (one trait of each) and forbidden traits; before 1.39 only the last value counts."""
    required: list[set[str]] = []
    forbidden: set[str] = set()
    for value in values if request.since("1.39") else values[-1:]:
        if value.startswith("in:"):
            required.append(_any_of(request, value))
            continue
        names = [name.strip() for name in value.split(",")]
        refused = {name.lstrip("!") for name in names if name.startswith("!")}
        may_forbid = request.since("1.22")
        form = "HW_CPU_X86_VMX,!CUSTOM_MAGIC" if may_forbid else "HW_CPU_X86_VMX,CUSTOM_MAGIC"
        expected = f"{_BAD}Expected 'required' parameter value of the form: {form}. "
        if not all([*names, *refused]):
            raise Invalid(f"{expected}Got an empty trait in: {value}")
        if refused and not may_forbid:
            raise Invalid(f"{expected}Got: {value}")
        required += [{name} for name in names if not name.startswith("!")]
        forbidden |= refused
    return required, forbidden


def _any_of(request: Request, value: str) -> set[str]:
    form = "in:HW_CPU_X86_VMX,CUSTOM_MAGIC"
    if not request.since("1.39"):
        raise Invalid(f"{_BAD}The format '{form}' only supported since microversion 1.39. Got: {value}")
    names = {name.strip() for name in value[3:].split(",")}
    if not all(names):
        raise Invalid(
            f"{_BAD}Expected 'required' parameter value of the form: {form}. Got an empty trait in: {value}"
        )  # fmt: skip
    if any(name.startswith("!") for name in names):
        raise Invalid(f"{_BAD}The format '{form}' does not support forbidden traits. Got: {value}")
    return names


def aggregates_of(request: Request, values: list[str], suffix: str = "") -> tuple[list[set[str]], set[str]]:
    """Sets of which one aggregate each is required, and forbidden aggregates."""
    if len(values) > 1 and not request.since("1.24"):
        raise Invalid(f"Multiple member_of{suffix} parameters are not supported")
    required: list[set[str]] = []
    forbidden: set[str] = set()
    for value in values:
        negative = value.startswith("!")
        if negative and not request.since("1.32"):
            raise Invalid(
                f"Forbidden member_of{suffix} parameters are not supported in the specified microversion"
            )  # fmt: skip
        listed = value.removeprefix("!")
        if "," in listed and not listed.startswith("in:"):
            raise Invalid(
                "Multiple values for 'member_of' must be prefixed with the 'in:' or '!in:' keyword "
                f"using the valid microversion. Got: {value}"
            )
        uuids = set(listed.removeprefix("in:").split(","))
        for uuid in sorted(uuids):
            if not ids.is_uuid(uuid):
                raise Invalid(f"{_BAD}Expected 'member_of' parameter to contain valid UUID(s). Got: {uuid}")
        if negative:
            forbidden |= uuids
        else:
            required.append(uuids)
    return required, forbidden


# ---- searches for candidates


def wide_of(request: Request) -> Wide:
    """What a search says as a whole."""
    query = request.query
    roots = query.get("root_required", [])
    if len(roots) > 1:
        raise Invalid("Query parameter 'root_required' may be specified only once.", kind=errors.DUPLICATE_KEY)
    required, forbidden = _root_traits(request, roots)
    if both := required & forbidden:
        raise Invalid(
            f"Conflicting required and forbidden traits found in root_required: {', '.join(sorted(both))}",
            kind=errors.BAD_VALUE,
        )
    subtrees = [{suffix.strip() for suffix in value.split(",")} for value in query.get("same_subtree", [])]
    if any("" in suffixes for suffixes in subtrees):
        raise Invalid(
            "Empty string (unsuffixed group) can not be specified in `same_subtree` ", kind=errors.BAD_VALUE
        )  # fmt: skip
    return Wide(
        isolate=query.get("group_policy", [None])[0] == "isolate",
        root_required=required,
        root_forbidden=forbidden,
        same_subtree=subtrees,
        nested=request.since("1.29"),
    )


def _root_traits(request: Request, values: list[str]) -> tuple[set[str], set[str]]:
    if any(value.startswith("in:") for value in values):
        raise Invalid(f"{_BAD}The 'in:' format is not supported in root_required. Got: {values[0]}")
    required, forbidden = traits_of(request, values)
    return set().union(*required), forbidden


def groups_of(request: Request, wide: Wide) -> list[Group]:
    """The groups of wishes of a search, in the order in which their suffixes first appear."""
    query: dict[str, Any] = request.query
    groups: dict[str, Group] = {}
    for key in ("resources", "required", "member_of", "in_tree"):
        for suffix, value in query.get(key, {}).items():
            group = groups.setdefault(suffix, Group(suffix))
            if key == "resources":
                group.resources = resources_of(value)
            elif key == "required":
                group.required, group.forbidden = traits_of(request, value)
            elif key == "member_of":
                group.member_of, group.forbidden_aggregates = aggregates_of(request, value, suffix)
            else:
                group.in_tree = _tree(value)
    if not request.since("1.25") and "" not in query.get("resources", {}):
        raise Invalid(f"{_BAD}'resources' is a required property")
    if request.since("1.36"):
        _check_subtrees(groups, wide)
    else:
        _check_orphans(groups)
    if request.since("1.22"):
        _check_contradictions(groups)
    if "group_policy" not in query and sum(1 for suffix in groups if suffix) > 1:
        raise Invalid(
            'The "group_policy" parameter is required when specifying more than one "resources{N}" parameter.'
        )
    return list(groups.values())


def _tree(value: str) -> str:
    if not ids.is_uuid(value.strip()):
        raise Invalid(f"{_BAD}Expected 'in_tree' parameter to be a format of uuid. Got: {value}")
    return value.strip()


def _check_subtrees(groups: dict[str, Group], wide: Wide) -> None:
    """From 1.36 a named group may have no resources when a same_subtree names it."""
    bare = [suffix for suffix, group in groups.items() if not group.resources]
    named = set().union(*wide.same_subtree)
    if len(bare) == len(groups):
        raise Invalid("There must be at least one resources or resources[$S] parameter.", kind=errors.MISSING_VALUE)
    if bad := [suffix for suffix in bare if suffix not in named]:
        raise Invalid(
            f"Resourceless suffixed group request should be specified in `same_subtree` query param: "
            f"bad group(s) - {bad}.",
            kind=errors.BAD_VALUE,
        )
    if bad := sorted(suffix for suffix in named if suffix not in groups):
        raise Invalid(
            f"Real suffixes should be specified in `same_subtree`: {bad} not found in {list(groups)}.",
            kind=errors.BAD_VALUE,
        )


def _check_orphans(groups: dict[str, Group]) -> None:
    if orphans := [f"required{suffix}" for suffix, one in groups.items() if one.required and not one.resources]:
        raise Invalid(
            "All traits parameters must be associated with resources.  "
            f"Found the following orphaned traits keys: {', '.join(orphans)}"
        )
    orphans = [
        f"member_of{suffix}"
        for suffix, one in groups.items()
        if not one.resources and (one.member_of or one.forbidden_aggregates)
    ]
    if orphans:
        raise Invalid(
            "All member_of parameters must be associated with resources. "
            f"Found the following orphaned member_of keys: {', '.join(orphans)}"
        )
    if not all(group.resources for group in groups.values()):
        raise Invalid("All request groups must specify resources.")
    if not groups:
        raise Invalid("At least one request group (`resources` or `resources{$S}`) is required.")


def _check_contradictions(groups: dict[str, Group]) -> None:
    told = [
        f"required{suffix}: ({', '.join(sorted(any_of))})"
        for suffix, group in groups.items()
        for any_of in group.required
        if any_of <= group.forbidden
    ]
    if told:
        raise Invalid(
            f"Conflicting required and forbidden traits found in the following traits keys: {', '.join(sorted(told))}"
        )
