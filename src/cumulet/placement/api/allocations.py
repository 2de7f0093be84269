# SPDX-License-Identifier: Apache-2.0
"""Allocations of consumers and providers, usages, and the reshaper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from cumulet.kernel import ids
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Answer, Request, Route
from cumulet.kernel.policy import Target
from cumulet.placement import schemas
from cumulet.placement.api.answers import answer, dashed, must_accept_json
from cumulet.placement.logic import allocations, reshape
from cumulet.placement.logic.allocations import Claim

UNKNOWN = "unknown"


def _claim(request: Request, consumer: str, sent: Mapping[str, Any]) -> Claim:
    held = sent["allocations"]
    if isinstance(held, list):  # before version 1.12
        held = {one["resource_provider"]["uuid"]: {"resources": one["resources"]} for one in held}
    config = request.service.config
    return Claim(
        consumer=consumer,
        allocations={provider: one["resources"] for provider, one in held.items()},
        project_id=sent.get("project_id", config.incomplete_consumer_project_id),
        user_id=sent.get("user_id", config.incomplete_consumer_user_id),
        guarded=request.since("1.28"),
        generation=sent.get("consumer_generation"),
        consumer_type=sent.get("consumer_type"),
    )


async def show_allocations(request: Request) -> Answer:
    must_accept_json(request)
    consumer, held = await allocations.of_consumer(request.service, request.params["consumer_uuid"])
    body: dict[str, Any] = {"allocations": held}
    if consumer is not None and request.since("1.12"):
        body |= {"project_id": consumer["project_id"], "user_id": consumer["user_id"]}
        if request.since("1.28"):
            body["consumer_generation"] = consumer["generation"]
        if request.since("1.38"):
            body["consumer_type"] = consumer["consumer_type"] or UNKNOWN
    return answer(request, body, modified=consumer["created_at"] if consumer else None)


async def put_allocations(request: Request) -> None:
    consumer = request.params["consumer_uuid"]
    if not ids.is_uuid(consumer):
        raise Invalid(f"Malformed consumer_uuid: {consumer}")
    await allocations.write(request.service, [_claim(request, dashed(consumer), request.body)])


async def post_allocations(request: Request) -> None:
    await allocations.write(request.service, [_claim(request, *item) for item in request.body.items()])


async def delete_allocations(request: Request) -> None:
    await allocations.delete(request.service, request.params["consumer_uuid"])


async def show_provider_allocations(request: Request) -> Answer:
    must_accept_json(request)
    provider, held = await allocations.of_provider(request.service, request.params["uuid"])
    if not request.since("1.28"):
        for one in held.values():
            del one["consumer_generation"]
    return answer(request, {"allocations": held, "resource_provider_generation": provider["generation"]})


async def reshape_providers(request: Request) -> None:
    inventories: dict[str, Row] = request.body["inventories"]
    claims = [_claim(request, *item) for item in request.body["allocations"].items()]
    await reshape.reshape(request.service, inventories, claims)


# ---- usages


async def show_provider_usages(request: Request) -> Answer:
    must_accept_json(request)
    provider, usages = await allocations.usages_of_provider(request.service, request.params["uuid"])
    return answer(request, {"resource_provider_generation": provider["generation"], "usages": usages})


async def _of_project(request: Request) -> Target:
    """The policy asks about the project in the query, which is read only after it."""
    return {"project_id": parse_qs(request.query_text).get("project_id", [None])[-1]}


async def list_usages(request: Request) -> Answer:
    must_accept_json(request)
    project, user = request.query["project_id"], request.query.get("user_id")
    rows = await allocations.usages_of_project(request.service, project, user)
    if not request.since("1.38"):
        return answer(request, {"usages": _summed(rows)})
    numbers = await allocations.consumers_of_project(request.service, project, user)
    asked = request.query.get("consumer_type")
    usages: dict[str, dict[str, int]] = {}
    if asked == "all":
        if rows:
            usages["all"] = {**_summed(rows), "consumer_count": sum(numbers.values())}
    else:
        for row in rows:
            name = row["consumer_type"] or UNKNOWN
            if asked in (None, name):
                one = usages.setdefault(name, {"consumer_count": numbers[row["consumer_type"]]})
                one[row["resource_class"]] = int(row["used"])
    return answer(request, {"usages": usages})


def _summed(rows: list[dict[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for row in rows:
        total[row["resource_class"]] = total.get(row["resource_class"], 0) + int(row["used"])
    return total


_RULE = "placement:allocations"
_CONSUMER = "/allocations/{consumer_uuid}"
_PROVIDER = "/resource_providers/{uuid}"
ROUTES = [
    Route(f"GET {_CONSUMER}", show_allocations, policy=f"{_RULE}:list"),
    *(
        Route(
            f"PUT {_CONSUMER}", put_allocations, policy=f"{_RULE}:update", body=body, since=since, until=until, ok=204
        )
        for since, until, body in schemas.PUT_ALLOCATIONS
    ),
    Route(f"DELETE {_CONSUMER}", delete_allocations, policy=f"{_RULE}:delete", ok=204),
    *(
        Route("POST /allocations", post_allocations, policy=f"{_RULE}:manage", body=body, since=since, until=until,
              ok=204)
        for since, until, body in schemas.POST_ALLOCATIONS
    ),
    *(
        Route("POST /reshaper", reshape_providers, policy="placement:reshaper:reshape", body=body, since=since,
              until=until, ok=204)
        for since, until, body in schemas.RESHAPE
    ),
    Route(f"GET {_PROVIDER}/allocations", show_provider_allocations,
          policy="placement:resource_providers:allocations:list"),
    Route(f"GET {_PROVIDER}/usages", show_provider_usages, policy="placement:resource_providers:usages"),
    Route("GET /usages", list_usages, policy="placement:usages", query=schemas.LIST_USAGES, target=_of_project,
          since="1.9"),
]  # fmt: skip
