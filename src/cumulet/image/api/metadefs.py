# SPDX-License-Identifier: Apache-2.0
"""Metadata definitions over HTTP: namespaces with their objects, properties, tags and resource types.

Source: the Image API reference, "Metadata definition …".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from cumulet.image import metadef_schemas as schemas
from cumulet.image.logic import Image
from cumulet.image.logic import metadefs as logic
from cumulet.image.logic.metadefs import OBJECT, PROPERTY, TAG
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Forbidden, Invalid, NotFound
from cumulet.kernel.http import Answer, Body, Request
from cumulet.kernel.http.route import Route

_ANY = Body(None, raw={"type": "object"})
_NAMESPACE = schemas.body_of(schemas.NAMESPACE)
_OBJECT = schemas.body_of(schemas.OBJECT)
_PROPERTY = schemas.body_of(schemas.PROPERTY)
_TAG = schemas.body_of(schemas.TAG)
_TAG_LIST = schemas.body_of(schemas.TAG_LIST)
_ASSOCIATION = schemas.body_of(schemas.ASSOCIATION)
_STAMPS = ("created_at", "updated_at")


async def target(request: Request) -> dict[str, Any]:
    """Load the namespace of the path; it must be one that the caller may see."""
    image: Image = request.service
    request.found = await logic.load(image, request.context, request.params["namespace"])
    return logic.target_of(request.found, request.context)


async def own_target(request: Request) -> dict[str, Any]:
    return logic.target_of(None, request.context)


def _checked(request: Request, body: Body, *read_only: str) -> dict[str, Any]:
    """The body by its schema; raises Forbidden for what only the service says, Invalid for the rest."""
    for name in (*read_only, *_STAMPS):
        if name in request.body:
            raise Forbidden(f"Attribute '{name}' is read-only.")
    return body.lift(request.body, None, lambda rule: True)


def _each(body: Body, items: list[Any]) -> list[dict[str, Any]]:
    return [body.lift(one, None, lambda rule: True) for one in items]


def _stamped(row: Row) -> dict[str, str]:
    return {name: clock.iso_z(row[name]) for name in _STAMPS}


def _known(document: Mapping[str, Any]) -> dict[str, Any]:
    """Without what has no value, as published."""
    return {name: value for name, value in document.items() if value is not None}


# ---- namespaces


def _namespace_view(row: Row) -> dict[str, Any]:
    names = ("namespace", "display_name", "description", "visibility", "protected", "owner")
    return _known({name: row[name] for name in names}) | {
        **_stamped(row),
        "self": f"/v2/metadefs/namespaces/{quote(row['namespace'], safe=':')}",
        "schema": "/v2/schemas/metadefs/namespace",
    }


def _page(request: Request, allowed: tuple[str, ...] = ("public", "private")) -> dict[str, Any]:
    """Sorting, paging and the filter that lists of definitions share; raises Invalid."""
    image: Image = request.service
    given = dict(parse_qsl(request.query_text, keep_blank_values=True))
    direction = given.get("sort_dir", "desc")
    if direction not in ("asc", "desc"):
        raise Invalid(f"Invalid sort direction: {direction}")
    visibility = given.get("visibility") or None
    if visibility is not None and visibility not in allowed:
        raise Invalid(f"Invalid visibility value: {visibility}")
    limit = given.get("limit")
    if limit is not None and not limit.strip().lstrip("+-").isdigit():
        raise Invalid("limit param must be an integer")
    if limit is not None and int(limit) < 0:
        raise Invalid("limit param must be positive")
    return {
        "given": given,
        "visibility": visibility,
        "sort": (given.get("sort_key", "created_at"), direction),
        "limit": min(int(limit), image.config.page_max) if limit is not None else None,
        "marker": given.get("marker") or None,
    }


async def namespaces(request: Request) -> dict[str, Any]:
    image: Image = request.service
    request.enforce("list_metadef_resource_types", logic.target_of(None, request.context))
    page = _page(request)
    limit = page["limit"] if page["limit"] is not None else image.config.page
    types = [one for one in page["given"].get("resource_types", "").split(",") if one]
    rows = await logic.list_namespaces(
        image, request.context, visibility=page["visibility"], types=types, sort=page["sort"], limit=limit,
        marker=page["marker"],
    )  # fmt: skip
    shown = []
    for row in rows:
        if request.allows("get_metadef_namespace", logic.target_of(row, request.context)):
            document = _namespace_view(row)
            if row["associations"]:
                document["resource_type_associations"] = [_association_view(one) for one in row["associations"]]
            shown.append(document)
    rest = [(name, value) for name, value in page["given"].items() if name != "marker"]
    path = "/v2/metadefs/namespaces"
    answer: dict[str, Any] = {
        "first": f"{path}?{urlencode(rest)}" if rest else path,
        "namespaces": shown,
        "schema": "/v2/schemas/metadefs/namespaces",
    }
    if rows and len(rows) == limit:
        answer["next"] = f"{path}?{urlencode([*rest, ('marker', rows[-1]['namespace'])])}"
    return answer


_PARTS = {
    "resource_type_associations": "add_metadef_resource_type_association",
    "objects": "add_metadef_object",
    "properties": "add_metadef_property",
    "tags": "add_metadef_tag",
}


async def create_namespace(request: Request) -> Answer:
    body = _checked(request, _NAMESPACE, "self", "schema")
    for part, rule in _PARTS.items():
        if body.get(part):
            request.enforce(rule, logic.target_of(None, request.context))
    body.setdefault("owner", request.context.project_id)
    inside = [(PROPERTY, name, dict(content)) for name, content in body.get("properties", {}).items()]
    inside += [(OBJECT, *_object_of(one)) for one in _each(_OBJECT, body.get("objects", []))]
    inside += [(TAG, one["name"], {}) for one in _each(_TAG, body.get("tags", []))]
    ties = _each(_ASSOCIATION, body.get("resource_type_associations", []))
    row = await logic.create(request.service, body, inside, ties)
    document = _namespace_view(row) | {part: body[part] for part in _PARTS if body.get(part)}
    return Answer(document, headers={"Location": request.base + document["self"]})


async def show_namespace(request: Request) -> dict[str, Any]:
    image: Image = request.service
    namespace = request.found
    for rule in ("list_metadef_resource_types", "get_metadef_objects", "get_metadef_properties", "get_metadef_tags"):
        request.enforce(rule, logic.target_of(namespace, request.context))
    inside = await logic.contents(image, namespace)
    objects = [_object_view(namespace, row) for row in inside[OBJECT]]
    properties = {row["name"]: row["body"] for row in inside[PROPERTY]}
    resource_type = dict(parse_qsl(request.query_text)).get("resource_type")
    for one in inside["associations"]:
        if one["resource_type"] == resource_type and one["prefix"]:
            objects = [_prefixed(held, one["prefix"]) for held in objects]
            properties = {one["prefix"] + name: content for name, content in properties.items()}
    document = _namespace_view(namespace)
    parts = {
        "objects": objects,
        "resource_type_associations": [_association_view(row) for row in inside["associations"]],
        "properties": properties,
        "tags": [{"name": row["name"]} for row in inside[TAG]],
    }
    return document | {name: content for name, content in parts.items() if content}


def _prefixed(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    changed = dict(document)
    if "properties" in document:
        changed["properties"] = {prefix + name: content for name, content in document["properties"].items()}
    if document.get("required"):
        changed["required"] = [prefix + name for name in document["required"]]
    return changed


async def update_namespace(request: Request) -> dict[str, Any]:
    body = _checked(request, _NAMESPACE, "self", "schema")
    wanted = {
        "namespace": body["namespace"],
        "display_name": body.get("display_name"),
        "description": body.get("description"),
        "visibility": body.get("visibility") or "private",
        "protected": body.get("protected") or False,
        "owner": body.get("owner") or request.context.project_id,
    }
    return _namespace_view(await logic.change(request.service, request.found, wanted))


async def delete_namespace(request: Request) -> None:
    await logic.remove(request.service, request.found)


# ---- objects


def _object_of(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    checked = schemas.body_of({**schemas.PROPERTY, "required": ["type", "title"]})
    for content in body.get("properties", {}).values():
        checked.lift(content, None, lambda rule: True)
    kept = ("description", "required", "properties")
    return body["name"], {name: body[name] for name in kept if name in body}


def _object_view(namespace: Row, row: Row) -> dict[str, Any]:
    path = f"/v2/metadefs/namespaces/{quote(namespace['namespace'], safe=':')}/objects/{quote(row['name'])}"
    return {
        "name": row["name"], **row["body"], **_stamped(row), "self": path, "schema": "/v2/schemas/metadefs/object",
    }  # fmt: skip


async def objects(request: Request) -> dict[str, Any]:
    page = _page(request, ("public", "private", "shared"))
    if page["limit"] == 0:
        raise Invalid("limit param must be positive")
    rows = await logic.list_definitions(
        request.service, request.found, OBJECT, sort=page["sort"], limit=page["limit"], marker=page["marker"]
    )
    shown = [_object_view(request.found, row) for row in rows]
    return {"objects": shown, "schema": "v2/schemas/metadefs/objects"}


async def create_object(request: Request) -> dict[str, Any]:
    name, content = _object_of(_checked(request, _OBJECT, "self", "schema"))
    (row,) = await logic.define(request.service, request.found, OBJECT, {name: content})
    return _object_view(request.found, row)


async def show_object(request: Request) -> dict[str, Any]:
    return _object_view(request.found, await _definition(request, OBJECT))


async def update_object(request: Request) -> dict[str, Any]:
    name, content = _object_of(_checked(request, _OBJECT, "self", "schema"))
    row = await _definition(request, OBJECT)
    return _object_view(request.found, await logic.redefine(request.service, request.found, row, name, content))


async def _definition(request: Request, kind: str) -> Row:
    return await logic.definition(request.service, request.found, kind, request.params["name"])


# ---- properties


async def properties(request: Request) -> dict[str, Any]:
    rows = await logic.list_definitions(request.service, request.found, PROPERTY)
    return {"properties": {row["name"]: row["body"] for row in rows}}


async def create_property(request: Request) -> dict[str, Any]:
    body = _checked(request, _PROPERTY)
    (row,) = await logic.define(request.service, request.found, PROPERTY, {body["name"]: body})
    return {**row["body"], "name": row["name"]}


async def show_property(request: Request) -> dict[str, Any]:
    name = request.params["name"]
    resource_type = dict(parse_qsl(request.query_text)).get("resource_type")
    if resource_type:
        request.enforce("get_metadef_resource_type", logic.target_of(request.found, request.context))
        prefix = await logic.prefix_of(request.service, request.found, resource_type)
        if prefix is None:
            raise NotFound(f"The metadata definition resource-type association of resource-type={resource_type} to "
                           f"namespace={request.found['namespace']}, was not found.")  # fmt: skip
        if not prefix or not name.startswith(prefix):
            raise NotFound(
                f"Property {name} does not start with the expected resource type association prefix of '{prefix}'."
            )
        name = name.removeprefix(prefix)
    row = await logic.definition(request.service, request.found, PROPERTY, name)
    return {**row["body"], "name": row["name"]}


async def update_property(request: Request) -> dict[str, Any]:
    body = _checked(request, _PROPERTY)
    row = await _definition(request, PROPERTY)
    row = await logic.redefine(request.service, request.found, row, body["name"], body)
    return {**row["body"], "name": row["name"]}


# ---- tags


def _tag_view(row: Row) -> dict[str, Any]:
    return {"name": row["name"], **_stamped(row)}


async def tags(request: Request) -> dict[str, Any]:
    page = _page(request, ("public", "private", "shared"))
    rows = await logic.list_definitions(
        request.service, request.found, TAG, sort=page["sort"], limit=page["limit"] or None, marker=page["marker"]
    )
    return {"tags": [{"name": row["name"]} for row in rows]}


async def create_tags(request: Request) -> dict[str, Any]:
    body = _checked(request, _TAG_LIST)
    names = [one["name"] for one in body.get("tags", [])]
    append = request.headers.get("x-openstack-append", "").strip().lower() in ("1", "t", "true", "on", "y", "yes")
    await logic.replace_tags(request.service, request.found, names, append=append)
    return {"tags": [{"name": name} for name in names]}


async def create_tag(request: Request) -> dict[str, Any]:
    name = request.params["name"]
    _TAG.lift({"name": name}, None, lambda rule: True)
    (row,) = await logic.define(request.service, request.found, TAG, {name: {}})
    return _tag_view(row)


async def show_tag(request: Request) -> dict[str, Any]:
    return _tag_view(await _definition(request, TAG))


async def update_tag(request: Request) -> dict[str, Any]:
    body = _checked(request, _TAG)
    row = await _definition(request, TAG)
    return _tag_view(await logic.redefine(request.service, request.found, row, body["name"], {}))


async def delete_tags(request: Request) -> None:
    request.enforce("delete_metadef_tags", logic.target_of(request.found, request.context))
    await logic.undefine_all(request.service, request.found, TAG)


def _deletes(kind: str) -> tuple[Any, Any]:
    """The handlers that delete one and all definitions of a kind."""

    async def one(request: Request) -> None:
        await logic.undefine(request.service, request.found, kind, request.params["name"])

    async def all_(request: Request) -> None:
        await logic.undefine_all(request.service, request.found, kind)

    return one, all_


# ---- resource types


def _association_view(row: Row) -> dict[str, Any]:
    told = {"name": row["resource_type"], "prefix": row["prefix"], "properties_target": row["properties_target"]}
    return _known(told) | _stamped(row)


async def resource_types(request: Request) -> dict[str, Any]:
    rows = await logic.list_types(request.service)
    return {"resource_types": [{"name": row["name"], **_stamped(row)} for row in rows]}


async def associations(request: Request) -> dict[str, Any]:
    rows = await logic.list_associations(request.service, request.found)
    allowed = request.allows("get_metadef_resource_type", logic.target_of(request.found, request.context))
    return {"resource_type_associations": [_association_view(row) for row in rows if allowed]}


async def associate(request: Request) -> dict[str, Any]:
    body = _checked(request, _ASSOCIATION)
    return _association_view(await logic.associate(request.service, request.found, body))


async def dissociate(request: Request) -> None:
    await logic.dissociate(request.service, request.found, request.params["name"])


async def schema(request: Request) -> dict[str, Any]:
    name = request.params["name"]
    if name not in schemas.PUBLISHED:
        raise NotFound
    return schemas.PUBLISHED[name]


_AT = "/v2/metadefs/namespaces"
_ONE = f"{_AT}/{{namespace}}"
_delete_object, _delete_objects = _deletes(OBJECT)
_delete_property, _delete_properties = _deletes(PROPERTY)
_delete_tag, _ = _deletes(TAG)

ROUTES = [
    Route("GET /v2/metadefs/resource_types", resource_types, policy="list_metadef_resource_types", target=own_target),
    Route(f"GET {_AT}", namespaces, policy="get_metadef_namespaces", target=own_target),
    Route(f"POST {_AT}", create_namespace, policy="add_metadef_namespace", target=own_target, body=_ANY, ok=201),
    Route(f"GET {_ONE}", show_namespace, policy="get_metadef_namespace", target=target),
    Route(f"PUT {_ONE}", update_namespace, policy="modify_metadef_namespace", target=target, body=_ANY),
    Route(f"DELETE {_ONE}", delete_namespace, policy="delete_metadef_namespace", target=target, ok=204),
    Route(f"GET {_ONE}/resource_types", associations, policy="list_metadef_resource_types", target=target),
    Route(f"POST {_ONE}/resource_types", associate, policy="add_metadef_resource_type_association", target=target,
          body=_ANY, ok=201),
    Route(f"DELETE {_ONE}/resource_types/{{name}}", dissociate,
          policy="remove_metadef_resource_type_association", target=target, ok=204),
    Route(f"GET {_ONE}/objects", objects, policy="get_metadef_objects", target=target),
    Route(f"POST {_ONE}/objects", create_object, policy="add_metadef_object", target=target, body=_ANY, ok=201),
    Route(f"DELETE {_ONE}/objects", _delete_objects, policy="delete_metadef_namespace", target=target, ok=204),
    Route(f"GET {_ONE}/objects/{{name}}", show_object, policy="get_metadef_object", target=target),
    Route(f"PUT {_ONE}/objects/{{name}}", update_object, policy="modify_metadef_object", target=target, body=_ANY),
    Route(f"DELETE {_ONE}/objects/{{name}}", _delete_object, policy="delete_metadef_object", target=target, ok=204),
    Route(f"GET {_ONE}/properties", properties, policy="get_metadef_properties", target=target),
    Route(f"POST {_ONE}/properties", create_property, policy="add_metadef_property", target=target, body=_ANY, ok=201),
    Route(f"DELETE {_ONE}/properties", _delete_properties, policy="delete_metadef_namespace", target=target, ok=204),
    Route(f"GET {_ONE}/properties/{{name}}", show_property, policy="get_metadef_property", target=target),
    Route(f"PUT {_ONE}/properties/{{name}}", update_property, policy="modify_metadef_property", target=target,
          body=_ANY),
    Route(f"DELETE {_ONE}/properties/{{name}}", _delete_property, policy="remove_metadef_property", target=target,
          ok=204),
    Route(f"GET {_ONE}/tags", tags, policy="get_metadef_tags", target=target),
    Route(f"POST {_ONE}/tags", create_tags, policy="add_metadef_tags", target=target, body=_ANY, ok=201),
    Route(f"DELETE {_ONE}/tags", delete_tags, policy="delete_metadef_namespace", target=target, ok=204),
    Route(f"GET {_ONE}/tags/{{name}}", show_tag, policy="get_metadef_tag", target=target),
    Route(f"POST {_ONE}/tags/{{name}}", create_tag, policy="add_metadef_tag", target=target, ok=201),
    Route(f"PUT {_ONE}/tags/{{name}}", update_tag, policy="modify_metadef_tag", target=target, body=_ANY),
    Route(f"DELETE {_ONE}/tags/{{name}}", _delete_tag, policy="delete_metadef_tag", target=target, ok=204),
    Route("GET /v2/schemas/metadefs/{name}", schema, policy="default"),
]  # fmt: skip
