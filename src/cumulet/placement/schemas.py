# SPDX-License-Identifier: Apache-2.0
"""What requests may say: bodies and query tables of placement, per version range.

Keys that are data (class names, provider ids) make most bodies JSON Schemas
rather than field tables. Unknown query keys are refused in every version.
"""

from __future__ import annotations

from typing import Any

from cumulet.kernel.http import Body, Field, Param, Query
from cumulet.kernel.http.fields import UUID, Schema, array, nullable, record, text

MAX_INT = 0x7FFFFFFF
_MAX_FLOAT = 3.40282e38
_ID = "^[0-9a-fA-F-]{36}$"
_NAME = "^[A-Z0-9_]+$"
CUSTOM_NAME = "^CUSTOM_[A-Z0-9_]+$"
_NUMBERED = "[1-9][0-9]*"
_SUFFIXED = "[a-zA-Z0-9_-]{1,64}"
_INTEGER: Schema = {"type": "integer"}
_ANY_TEXT: Schema = {"type": "string"}


def _map(pattern: str, values: Schema, **more: Any) -> Schema:
    """An object whose keys are data."""
    return {"type": "object", "patternProperties": {pattern: values}, "additionalProperties": False, **more}


def _raw(schema: Schema) -> Body:
    return Body(None, raw=schema)


# ---- providers

_PARENT = Field("parent_provider_uuid", nullable(UUID), since="1.14", optional=True)
CREATE_PROVIDER = Body(None, Field("name", text(0, 200)), Field("uuid", UUID, optional=True), _PARENT)
UPDATE_PROVIDER = Body(None, Field("name", text(0, 200)), _PARENT)
AGGREGATES_1_1 = _raw(array(UUID, uniqueItems=True))
AGGREGATES_1_19 = Body(
    None, Field("aggregates", array(UUID, uniqueItems=True)), Field("resource_provider_generation", _INTEGER)
)
PROVIDER_TRAITS = Body(
    None, Field("traits", array(text(1, 255))), Field("resource_provider_generation", _INTEGER)
)  # fmt: skip

LIST_PROVIDERS = Query(
    Param("name", _ANY_TEXT),
    Param("uuid", UUID),
    Param("member_of", _ANY_TEXT, since="1.3", many=True),
    Param("resources", _ANY_TEXT, since="1.4"),
    Param("in_tree", UUID, since="1.14"),
    Param("required", _ANY_TEXT, since="1.18", many=True),
    strict_since=None,
)

# ---- inventories


def _amount(low: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": MAX_INT}


_INVENTORY: dict[str, Schema] = {
    "total": _amount(1),
    "reserved": _amount(0),
    "min_unit": _amount(1),
    "max_unit": _amount(1),
    "step_size": _amount(1),
    "allocation_ratio": {"type": "number", "maximum": _MAX_FLOAT},
}
_WITH_GENERATION = {**_INVENTORY, "resource_provider_generation": _INTEGER}
CREATE_INVENTORY = _raw(
    record(
        {**_WITH_GENERATION, "resource_class": {"type": "string", "pattern": _NAME}}, ("total", "resource_class")
    )
)  # fmt: skip
UPDATE_INVENTORY = _raw(record(_WITH_GENERATION, ("total", "resource_provider_generation")))
_INVENTORIES = record(
    {
        "resource_provider_generation": _INTEGER,
        "inventories": _map(_NAME, record(_WITH_GENERATION, ("total",))),
    },
    ("resource_provider_generation", "inventories"),
)
UPDATE_INVENTORIES = _raw(_INVENTORIES)

# ---- traits and classes

LIST_TRAITS = Query(Param("name", _ANY_TEXT), Param("associated", _ANY_TEXT), strict_since=None)
_CLASS_NAME = {"type": "string", "pattern": CUSTOM_NAME, "maxLength": 255}
RESOURCE_CLASS = Body(None, Field("name", _CLASS_NAME))

# ---- allocations

_RESOURCES = _map(_NAME, {"type": "integer", "minimum": 1, "maximum": MAX_INT}, minProperties=1)
_WHO = {"project_id": text(1, 255), "user_id": text(1, 255)}
_BY_PROVIDER = record({"resource_provider": record({"uuid": UUID}, ("uuid",)), "resources": _RESOURCES},
                      ("resource_provider", "resources"))  # fmt: skip
_LIST = array(_BY_PROVIDER, minItems=1)
_ALLOCATION = record({"generation": _INTEGER, "resources": _RESOURCES}, ("resources",))
_SOME = _map(_ID, _ALLOCATION, minProperties=1)
_ANY = _map(_ID, _ALLOCATION)
_GENERATION: dict[str, Schema] = {"consumer_generation": {"type": ["integer", "null"]}}
_MAPPINGS: dict[str, Schema] = {
    "mappings": {
        "type": "object",
        "minProperties": 1,
        "patternProperties": {f"^({_SUFFIXED})?$": array(UUID, minItems=1)},
    }
}
_TYPE: dict[str, Schema] = {"consumer_type": {"type": "string", "pattern": _NAME, "minLength": 1, "maxLength": 255}}


def _claim(allocations: Schema, *more: dict[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    properties: dict[str, Schema] = {"allocations": allocations, **_WHO}
    for members in more:
        properties |= members
    return record(properties, ("allocations", "project_id", "user_id", *required))


_CLAIM_1_28 = _claim(_ANY, _GENERATION, required=("consumer_generation",))
_CLAIM_1_34 = _claim(_ANY, _GENERATION, _MAPPINGS, required=("consumer_generation",))
_CLAIM_1_38 = _claim(_ANY, _GENERATION, _MAPPINGS, _TYPE, required=("consumer_generation", "consumer_type"))

PUT_ALLOCATIONS: list[tuple[str, str | None, Body]] = [
    ("1.0", "1.7", _raw(record({"allocations": _LIST}, ("allocations",)))),
    ("1.8", "1.11", _raw(_claim(_LIST))),
    ("1.12", "1.27", _raw(_claim(_SOME))),
    ("1.28", "1.33", _raw(_CLAIM_1_28)),
    ("1.34", "1.37", _raw(_CLAIM_1_34)),
    ("1.38", None, _raw(_CLAIM_1_38)),
]
"""(first version, last version, body) of PUT /allocations/{consumer_uuid}."""
POST_ALLOCATIONS: list[tuple[str, str | None, Body]] = [
    (since, until, _raw(_map(_ID, claim, minProperties=1)))
    for since, until, claim in (
        ("1.13", "1.27", _claim(_ANY)),
        ("1.28", "1.33", _CLAIM_1_28),
        ("1.34", "1.37", _CLAIM_1_34),
        ("1.38", None, _CLAIM_1_38),
    )
]
RESHAPE: list[tuple[str, str | None, Body]] = [
    (
        since,
        until,
        _raw(
            record(
                {"inventories": _map(_ID, _INVENTORIES, minProperties=1), "allocations": _map(_ID, claim)},
                ("inventories", "allocations"),
            )
        ),
    )
    for since, until, claim in (
        ("1.30", "1.33", _CLAIM_1_28),
        ("1.34", "1.37", _CLAIM_1_34),
        ("1.38", None, _CLAIM_1_38),
    )
]

# ---- usages

LIST_USAGES = Query(
    Param("project_id", text(1, 255), required=True),
    Param("user_id", text(1, 255)),
    Param(
        "consumer_type",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^([A-Z0-9_]+|all|unknown)$"},
        since="1.38",
    ),
    strict_since=None,
)

# ---- allocation candidates: the unnumbered group, numbered groups from 1.25, named groups from 1.33


def _family(name: str, since: str, *, many: bool) -> list[Param]:
    rows = []
    if since != "1.31":
        rows.append(Param(name, _ANY_TEXT, since=since, until="1.24", many=many, pattern=f"{name}()"))
    numbered_since = max(since, "1.25")
    rows.append(
        Param(name, _ANY_TEXT, since=numbered_since, until="1.32", many=many, pattern=f"{name}({_NUMBERED})?")
    )  # fmt: skip
    rows.append(Param(name, _ANY_TEXT, since="1.33", many=many, pattern=f"{name}({_SUFFIXED})?"))
    return rows


LIST_CANDIDATES = Query(
    Param("limit", {"type": "string", "pattern": "^[1-9][0-9]*$"}, since="1.16", convert=int, many=True),
    Param("group_policy", {"enum": ["none", "isolate"]}, since="1.25", many=True),
    Param("root_required", _ANY_TEXT, since="1.35", many=True),
    Param("same_subtree", _ANY_TEXT, since="1.36", many=True),
    *_family("resources", "1.10", many=False),
    *_family("required", "1.17", many=True),
    *_family("member_of", "1.21", many=True),
    *_family("in_tree", "1.31", many=False),
    strict_since=None,
)

# ---- our own feed

_NUMBER: Schema = {"type": "integer", "minimum": 0}
LIST_CHANGES = Query(
    Param("after", _NUMBER),
    Param("wait", {"type": "integer", "minimum": 0, "maximum": 20}),
    Param("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
    strict_since=None,
)
