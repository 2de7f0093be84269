# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 document of a service, made from the same tables that the pipeline enforces.

Nothing is written for the document alone, so it can't differ from what is
served. Microversions and actions, which OpenAPI does not know, are variants
(`oneOf`) marked with `x-openstack`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from cumulet.kernel.errors import of_status
from cumulet.kernel.http.body import Body
from cumulet.kernel.http.fields import Field, Param, Schema
from cumulet.kernel.http.route import Route
from cumulet.kernel.http.versions import Version, parse

if TYPE_CHECKING:
    from cumulet.kernel.http.api import Api

_DIALECT: Final = "http://json-schema.org/draft-07/schema#"
_ERRORS: Final = (400, 401, 403, 404, 405, 406, 409, 410, 412, 413, 415, 429, 500, 503)
_NO_BODY: Final = (204, 304)


def describe(api: Api, server: str) -> dict[str, Any]:
    """The document of ``api``; ``server`` is the URL (or path) below which its paths lie."""
    from cumulet import __version__

    paths: dict[str, dict[str, Any]] = {}
    for template in dict.fromkeys(route.template for route in api.routes):
        rows = [route for route in api.routes if route.template == template]
        item = paths.setdefault(template, {})
        if names := re.findall(r"\{(\w+)\}", template):
            item["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        for method in dict.fromkeys(route.method for route in rows):
            item[method.lower()] = _operation(api, [route for route in rows if route.method == method])
    versions = {"min": api.versions.minimum, "max": api.versions.maximum} if api.versions else None
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": _DIALECT,
        "info": {
            "title": f"Cumulet {api.name}",
            "version": __version__,
            **({"x-openstack": {"microversions": versions}} if versions else {}),
        },
        "servers": [{"url": server}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}},
            "responses": {str(status): _fault(api, status) for status in _ERRORS},
        },
    }


def _operation(api: Api, rows: list[Route]) -> dict[str, Any]:
    public = all(row.public for row in rows)
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{rows[0].method} {rows[0].template}").strip("_"),
        "tags": [_tag(rows[0].template)],
        "x-openstack": {"rows": [_row(row) for row in rows]},
        "security": [] if public else [{"token": []}],
        "responses": _responses(api, rows),
    }
    handler = rows[0].handler
    if doc := (getattr(handler, "func", handler).__doc__ or "").strip():  # some handlers are partial functions
        operation["summary"] = doc.partition("\n")[0]
    if parameters := list(_parameters(api, rows)):
        operation["parameters"] = parameters
    if (body := _request_body(api, rows)) is not None:
        operation["requestBody"] = body
    return operation


def _tag(template: str) -> str:
    """What the path is about: its first word after the version."""
    words = [word for word in template.split("/") if word and not re.fullmatch(r"v\d[\d.]*|\{\w+\}", word)]
    return words[0] if words else "versions"


def _row(row: Route) -> dict[str, Any]:
    known = {"min-ver": row.since, "max-ver": row.until, "action-name": row.action, "policy": row.policy}
    return {name: value for name, value in known.items() if value is not None}


def _parameters(api: Api, rows: list[Route]) -> Iterator[dict[str, Any]]:
    if api.versions is not None:
        yield {
            "name": "OpenStack-API-Version",
            "in": "header",
            "schema": {"type": "string", "examples": [f"{api.versions.service_type} {api.versions.maximum}"]},
        }
    seen: dict[str, list[Param]] = {}
    for row in rows:
        for param in row.query.params if row.query is not None else ():
            seen.setdefault(param.name, []).append(param)
    for name, params in seen.items():
        schemas = _distinct(param.type for param in params)
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        param = params[0]
        told: dict[str, Any] = {"name": name, "in": "query", "required": all(one.required for one in params)}
        told["schema"] = {"type": "array", "items": schema} if param.many else schema
        extension = {"min-ver": param.since, "max-ver": param.until, "names": param.pattern, "policy": param.policy}
        if any(extension.values()):
            told["x-openstack"] = {key: value for key, value in extension.items() if value}
        yield told


def _request_body(api: Api, rows: list[Route]) -> dict[str, Any] | None:
    if any(row.raw and row.method in ("POST", "PUT", "PATCH") for row in rows):
        return {"content": {"*/*": {"schema": {}}}}
    variants: list[Schema] = []
    for row in rows:
        if row.body is not None:
            for since, until, schema in _by_version(api, row, row.body):
                variants.append(_marked(schema, since, until, row.action))
        elif row.action is not None:
            schema = {"type": "object", "properties": {row.action: {}}, "required": [row.action]}
            variants.append(_marked(schema, row.since, row.until, row.action))
    if not variants:
        return None
    schema = variants[0] if len(variants) == 1 else {"oneOf": variants}
    required = not all(row.body_optional or row.body is None for row in rows) or any(row.action for row in rows)
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _marked(schema: Schema, since: str | None, until: str | None, action: str | None) -> Schema:
    marks = {"min-ver": since, "max-ver": until, "action-name": action}
    marks = {name: value for name, value in marks.items() if value is not None}
    return {**schema, "x-openstack": marks} if marks else schema


def _by_version(api: Api, row: Route, body: Body) -> Iterator[tuple[str | None, str | None, Schema]]:
    """The body's schemas within the row's versions: (first version, last version, schema)."""
    if api.versions is None:
        yield None, None, body.schema(None)
        return
    low, high = parse(row.since or api.versions.minimum), parse(row.until or api.versions.maximum)
    starts = sorted({low, *(start for start in _starts((*body.fields, *body.beside)) if low < start <= high)})
    found: list[tuple[Version, Schema]] = []
    for start in starts:
        schema = body.schema(start)
        if not found or found[-1][1] != schema:
            found.append((start, schema))
    for number, (start, schema) in enumerate(found):
        last = _before(found[number + 1][0]) if number + 1 < len(found) else row.until
        yield (row.since if start == low else "{}.{}".format(*start)), last, schema


def _starts(fields: Iterable[Field]) -> Iterator[Version]:
    """The versions at which some field comes, goes or becomes required."""
    for field in fields:
        for text in (field.since, field.required_since):
            if text is not None:
                yield parse(text)
        if field.until is not None:
            major, minor = parse(field.until)
            yield major, minor + 1


def _before(version: Version) -> str:
    return f"{version[0]}.{version[1] - 1}"


def _responses(api: Api, rows: list[Route]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for status in sorted({row.ok for row in rows}):
        told: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        schemas = [
            _marked(row.returns, row.since, row.until, row.action)
            for row in rows
            if row.ok == status and row.returns is not None
        ]
        declared = all(row.returns is not None for row in rows if row.ok == status)
        if schemas and declared and status not in _NO_BODY:
            schema = schemas[0] if len(schemas) == 1 else {"anyOf": _distinct(schemas)}
            told["content"] = {"application/json": {"schema": schema}}
        answers[str(status)] = told
    own = _distinct(row.faults for row in rows if row.faults is not None)
    for status in _possible(api, rows):
        answers[str(status)] = {"$ref": f"#/components/responses/{status}"}
        if own:
            told = _fault(api, status)
            for content in told["content"].values():
                content["schema"] = {"anyOf": [content["schema"], *own]}
            answers[str(status)] = told
    return answers


def _possible(api: Api, rows: list[Route]) -> list[int]:
    """The faults that the pipeline itself may answer; handlers may add 409 and the like."""
    takes = any(row.body is not None or row.query is not None or row.raw or row.action for row in rows)
    kinds = {
        400: takes or api.versions is not None or api.strip_project is not None,
        401: not all(row.public for row in rows),
        403: any(row.policy is not None for row in rows),
        404: "{" in rows[0].template or api.versions is not None,
        406: api.versions is not None,
        409: rows[0].method not in ("GET", "HEAD"),
        413: takes,
        415: takes,
        503: True,
    }
    return [status for status, may in kinds.items() if may]


def _fault(api: Api, status: int) -> dict[str, Any]:
    """What the service's dialect says for ``status``: asked, not described."""
    import orjson

    from cumulet.kernel.http.api import FaultRequest

    version = parse(api.versions.minimum) if api.versions else None
    content: dict[str, Any] = {}
    for accept in ("application/json", "*/*", "text/html", "text/plain"):
        asked = FaultRequest("req-0", version, accept, "", "/", authenticated=True)
        _, headers, body = api.dialect.fault(of_status(status, "what is wrong"), asked)
        kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "application/json")
        schema: Schema = _shape(orjson.loads(body)) if "json" in kind else {"type": "string"}
        content[kind.partition(";")[0]] = {"schema": schema}
    return {"description": HTTPStatus(status).phrase, "content": content}


def _shape(example: Any) -> Schema:
    """The shape that an example shows: its members and their types."""
    if isinstance(example, dict):
        members = {name: _shape(value) for name, value in example.items()}
        return {"type": "object", "properties": members, "required": list(members)}
    if isinstance(example, list):
        return {"type": "array", "items": _shape(example[0])} if example else {"type": "array"}
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number"}
    return {"type": kinds[type(example)]} if type(example) in kinds else {}


def _distinct(schemas: Iterable[Schema]) -> list[Schema]:
    found: list[Schema] = []
    for schema in schemas:
        if schema not in found:
            found.append(schema)
    return found
