# SPDX-License-Identifier: Apache-2.0
"""Traits and resource classes."""

from __future__ import annotations

import re
from typing import Any

from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Answer, Request, Route
from cumulet.placement import schemas
from cumulet.placement.api.answers import answer, must_accept_json, path, url
from cumulet.placement.logic import names

# ---- traits


async def list_traits(request: Request) -> Answer:
    must_accept_json(request)
    among, prefix = None, None
    if "name" in request.query:
        asked: str = request.query["name"]
        kind, colon, value = asked.partition(":")
        if not colon:
            raise Invalid(
                "Badly formatted name parameter. Expected name query string parameter in form: "
                f'?name=[in|startswith]:[name1,name2|prefix]. Got: "{asked}"'
            )
        if kind == "in":
            among = value.split(",")
        elif kind == "startswith":
            prefix = value
    associated = request.query.get("associated")
    if associated is not None and associated.lower() not in ("true", "false"):
        raise Invalid('The query parameter "associated" only accepts "true" or "false"')
    found = await names.list_traits(
        request.service,
        among=among,
        prefix=prefix,
        associated=None if associated is None else associated.lower() == "true",
    )
    return answer(request, {"traits": found})


async def show_trait(request: Request) -> Answer:
    await names.find_trait(request.service, request.params["name"])
    return answer(request)


async def put_trait(request: Request) -> Answer:
    name = request.params["name"]
    if not re.fullmatch(schemas.CUSTOM_NAME, name) or len(name) > 255:
        raise Invalid(
            "The trait is invalid. A valid trait must be no longer than 255 characters, start with the "
            'prefix "CUSTOM_" and use following characters: "A"-"Z", "0"-"9" and "_"'
        )
    created = await names.ensure_trait(request.service, name)
    return answer(request, status=201 if created else 204, location=url(request, "traits", name))


async def delete_trait(request: Request) -> None:
    await names.delete_trait(request.service, request.params["name"])


# ---- resource classes


def _shown(request: Request, name: str) -> dict[str, Any]:
    return {"name": name, "links": [{"rel": "self", "href": path(request, "resource_classes", name)}]}


async def list_classes(request: Request) -> Answer:
    must_accept_json(request)
    found = await names.list_classes(request.service)
    return answer(request, {"resource_classes": [_shown(request, name) for name in found]})


async def show_class(request: Request) -> Answer:
    must_accept_json(request)
    await names.find_class(request.service, request.params["name"])
    return answer(request, _shown(request, request.params["name"]))


async def create_class(request: Request) -> Answer:
    name = request.body["name"]
    await names.create_class(request.service, name)
    return answer(request, location=url(request, "resource_classes", name), cached=False)


async def rename_class(request: Request) -> Answer:
    await names.rename_class(request.service, request.params["name"], request.body["name"])
    return answer(request, _shown(request, request.body["name"]))


async def put_class(request: Request) -> Answer:
    name = request.params["name"]
    if not re.fullmatch(schemas.CUSTOM_NAME, name) or len(name) > 255:
        raise Invalid(f"JSON does not validate: '{name[:300]}' does not match '{schemas.CUSTOM_NAME}'")
    created = await names.ensure_class(request.service, name)
    return answer(
        request, status=201 if created else 204, location=url(request, "resource_classes", name), cached=False
    )  # fmt: skip


async def delete_class(request: Request) -> None:
    await names.delete_class(request.service, request.params["name"])


_TRAITS, _CLASSES = "placement:traits", "placement:resource_classes"
_CLASS = "/resource_classes/{name}"
ROUTES = [
    Route("GET /traits", list_traits, policy=f"{_TRAITS}:list", query=schemas.LIST_TRAITS, since="1.6"),
    Route("GET /traits/{name}", show_trait, policy=f"{_TRAITS}:show", since="1.6", ok=204),
    Route("PUT /traits/{name}", put_trait, policy=f"{_TRAITS}:update", since="1.6"),
    Route("DELETE /traits/{name}", delete_trait, policy=f"{_TRAITS}:delete", since="1.6", ok=204),
    Route("GET /resource_classes", list_classes, policy=f"{_CLASSES}:list", since="1.2"),
    Route(
        "POST /resource_classes", create_class, policy=f"{_CLASSES}:create",
        body=schemas.RESOURCE_CLASS, since="1.2", ok=201,
    ),
    Route(f"GET {_CLASS}", show_class, policy=f"{_CLASSES}:show", since="1.2"),
    Route(
        f"PUT {_CLASS}", rename_class, policy=f"{_CLASSES}:update",
        body=schemas.RESOURCE_CLASS, since="1.2", until="1.6",
    ),
    Route(f"PUT {_CLASS}", put_class, policy=f"{_CLASSES}:update", since="1.7"),
    Route(f"DELETE {_CLASS}", delete_class, policy=f"{_CLASSES}:delete", since="1.2", ok=204),
]  # fmt: skip
