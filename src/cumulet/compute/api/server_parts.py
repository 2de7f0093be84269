# SPDX-License-Identifier: Apache-2.0
"""What hangs below a server and needs no host: metadata, tags, addresses, its actions, its security groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cumulet.compute.api.links import VERSION, next_links, page_size
from cumulet.compute.api.server_view import addresses, bare, host_id
from cumulet.compute.api.targets import server, server_ever
from cumulet.compute.logic import actions, servers
from cumulet.compute.schemas import DATE, METADATA, PAGING, STRICT_ALL, TAGS
from cumulet.kernel import clock
from cumulet.kernel.errors import Invalid, NotFound
from cumulet.kernel.http import Answer, Body, Field, Out, Param, Query, Request, Route, View

PLAIN: Final = Query(strict_since=STRICT_ALL)

# ---- metadata


async def list_metadata(request: Request) -> dict[str, Any]:
    return {"metadata": request.found["metadata"]}


async def add_metadata(request: Request) -> dict[str, Any]:
    put = await servers.put_metadata(
        request.service, request.context, request.found["id"], request.body, replace=False
    )  # fmt: skip
    return {"metadata": put}


async def replace_metadata(request: Request) -> dict[str, Any]:
    put = await servers.put_metadata(request.service, request.context, request.found["id"], request.body, replace=True)
    return {"metadata": put}


async def show_metadata(request: Request) -> dict[str, Any]:
    key = request.params["key"]
    if key not in request.found["metadata"]:
        raise NotFound("Metadata item was not found")
    return {"meta": {key: request.found["metadata"][key]}}


async def put_metadata(request: Request) -> dict[str, Any]:
    if list(request.body) != [request.params["key"]]:
        raise Invalid("Request body and URI mismatch")
    await servers.put_metadata(request.service, request.context, request.found["id"], request.body, replace=False)
    return {"meta": request.body}


async def drop_metadata(request: Request) -> None:
    await servers.drop_metadata(request.service, request.context, request.found["id"], request.params["key"])


# ---- tags


async def list_tags(request: Request) -> dict[str, Any]:
    return {"tags": request.found["tags"]}


async def replace_tags(request: Request) -> dict[str, Any]:
    put = await servers.put_tags(request.service, request.context, request.found["id"], request.body["tags"])
    return {"tags": put}


async def show_tag(request: Request) -> None:
    if request.params["tag"] not in request.found["tags"]:
        raise servers.tag_missing(request.found["id"], request.params["tag"])


async def put_tag(request: Request) -> Answer:
    tag = request.params["tag"]
    if not 1 <= len(tag) <= 60 or "," in tag or "/" in tag:
        raise Invalid(
            f"Tag '{tag[:80]}' is invalid. It must be a non empty string without characters '/' and ',', "
            "of at most 60 characters."
        )
    new = await servers.add_tag(request.service, request.context, request.found["id"], tag)
    location = f"{request.base}{VERSION}/servers/{request.found['id']}/tags/{tag}"
    return Answer(status=201, headers={"Location": location}) if new else Answer(status=204)


async def drop_tag(request: Request) -> None:
    await servers.drop_tags(request.service, request.context, request.found["id"], request.params["tag"])


async def drop_tags(request: Request) -> None:
    await servers.drop_tags(request.service, request.context, request.found["id"])


# ---- addresses and security groups


async def list_ips(request: Request) -> dict[str, Any]:
    building = request.found["vm_state"] == "building"
    return {"addresses": {} if building else addresses(request.found, extended=False)}


async def show_ips(request: Request) -> dict[str, Any]:
    label = request.params["label"]
    found = addresses(request.found, extended=False)
    if label not in found:
        raise NotFound("Instance is not a member of specified network")
    return {label: found[label]}


async def list_groups(request: Request) -> dict[str, Any]:
    found = request.found
    known = await request.service.network.security_groups(project_id=found["project_id"])
    mine = {group.get("id") or group["name"] for group in found["security_groups"]}
    by_id = {group.id: group for group in known}
    shown = [_group(group, by_id) for group in known if group.id in mine or group.name in mine]
    return {"security_groups": shown}


def _group(group: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """A security group in the words that compute had for it; it knew rules for incoming packets only."""
    rules = []
    for rule in group.security_group_rules:
        if rule["direction"] != "ingress":
            continue
        other = known.get(rule.get("remote_group_id") or "")
        anywhere = "::/0" if rule["ethertype"] == "IPv6" else "0.0.0.0/0"
        rules.append(
            {
                "id": rule["id"], "parent_group_id": group.id, "ip_protocol": rule["protocol"],
                "from_port": _port(rule, "port_range_min"), "to_port": _port(rule, "port_range_max"),
                "group": {"name": other.name, "tenant_id": other.project_id} if other else {},
                "ip_range": {} if other else {"cidr": rule.get("remote_ip_prefix") or anywhere},
            }
        )  # fmt: skip
    return {
        "id": group.id, "name": group.name, "description": group.description, "tenant_id": group.project_id,
        "rules": rules,
    }  # fmt: skip


def _port(rule: Mapping[str, Any], name: str) -> int | None:
    """-1 stands for any, once there is a protocol."""
    value: int | None = rule.get(name)
    return -1 if value is None and rule["protocol"] is not None else value


# ---- instance actions

ACTION: Final = View(
    Out("action"), Out("instance_uuid", "server_id"), Out("request_id"), Out("user_id"), Out("project_id"),
    Out("start_time"), Out("message"), Out("updated_at", since="2.58"), Out("events"),
)  # fmt: skip
_EVENTS = "os_compute_api:os-instance-actions:events"
EVENT: Final = View(
    Out("event"), Out("start_time"), Out("finish_time"), Out("result"), Out("traceback", policy=_EVENTS),
    Out("host", since="2.62", policy=_EVENTS), Out("hostId", "host_id", since="2.62"),
    Out("details", since="2.84", policy=_EVENTS + ":details"),
)  # fmt: skip


def _action(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "start_time": bare(row["started_at"]), "updated_at": bare(row["updated_at"])}


async def list_actions(request: Request) -> dict[str, Any]:
    paging = request.since("2.58")
    query = request.query if paging else {}
    since, before = query.get("changes-since"), query.get("changes-before")
    if since is not None and before is not None and before < since:
        raise Invalid("The value of changes-since must be less than or equal to changes-before.")
    server_id = request.found["id"]
    rows = await actions.list_of(request.service, server_id, query, page_size(request) if paging else None)
    answer: dict[str, Any] = {"instanceActions": [request.render(ACTION, _action(row)) for row in rows]}
    path = f"servers/{server_id}/os-instance-actions"
    if paging and (links := next_links(request, rows, path, lambda row: str(row["request_id"]))):
        answer["links"] = links
    return answer


async def show_action(request: Request) -> dict[str, Any]:
    found = request.found
    row, events = await actions.show(request.service, found["id"], request.params["request_id"])
    told = _action(row)
    target = {"project_id": found["project_id"]}
    if request.allows(_EVENTS, target) or request.since("2.51"):
        told["events"] = [
            request.render(
                EVENT,
                {
                    **event, "start_time": bare(event["started_at"]), "finish_time": bare(event["finished_at"]),
                    "host_id": host_id(event["host"], found["project_id"]),
                },
                target,
            )
            for event in events
        ]  # fmt: skip
    return {"instanceAction": request.render(ACTION, told)}


ACTIONS: Final = Query(
    *PAGING, Param("changes-since", DATE, since="2.58", convert=clock.parse_iso),
    Param("changes-before", DATE, since="2.66", convert=clock.parse_iso), strict_since="2.58",
)  # fmt: skip
ITEMS: Final = Body("metadata", raw=METADATA)
ITEM: Final = Body("meta", raw={**METADATA, "minProperties": 1, "maxProperties": 1})
TAG_LIST: Final = Body(None, Field("tags", TAGS))

_META, _TAGS, _IPS = "os_compute_api:server-metadata:", "os_compute_api:os-server-tags:", "os_compute_api:ips:"
_LOG = "os_compute_api:os-instance-actions:"
ROUTES: Final = [
    Route("GET /servers/{server_id}/metadata", list_metadata, policy=_META + "index", target=server, query=PLAIN),
    Route("POST /servers/{server_id}/metadata", add_metadata, body=ITEMS, policy=_META + "create", target=server),
    Route(
        "PUT /servers/{server_id}/metadata", replace_metadata, body=ITEMS, policy=_META + "update_all", target=server
    ),
    Route("GET /servers/{server_id}/metadata/{key}", show_metadata, policy=_META + "show", target=server, query=PLAIN),
    Route("PUT /servers/{server_id}/metadata/{key}", put_metadata, body=ITEM, policy=_META + "update", target=server),
    Route(
        "DELETE /servers/{server_id}/metadata/{key}", drop_metadata, policy=_META + "delete", target=server, ok=204,
    ),
    Route("GET /servers/{server_id}/tags", list_tags, since="2.26", policy=_TAGS + "index", target=server, query=PLAIN),
    Route(
        "PUT /servers/{server_id}/tags", replace_tags, since="2.26", body=TAG_LIST, policy=_TAGS + "update_all",
        target=server,
    ),
    Route(
        "DELETE /servers/{server_id}/tags", drop_tags, since="2.26", policy=_TAGS + "delete_all", target=server, ok=204,
    ),
    Route(
        "GET /servers/{server_id}/tags/{tag}", show_tag, since="2.26", policy=_TAGS + "show", target=server, ok=204,
        query=PLAIN,
    ),
    Route(
        "PUT /servers/{server_id}/tags/{tag}", put_tag, since="2.26", policy=_TAGS + "update", target=server, ok=204,
    ),
    Route(
        "DELETE /servers/{server_id}/tags/{tag}", drop_tag, since="2.26", policy=_TAGS + "delete", target=server,
        ok=204,
    ),
    Route("GET /servers/{server_id}/ips", list_ips, policy=_IPS + "index", target=server, query=PLAIN),
    Route("GET /servers/{server_id}/ips/{label}", show_ips, policy=_IPS + "show", target=server, query=PLAIN),
    Route(
        "GET /servers/{server_id}/os-security-groups", list_groups, policy="os_compute_api:os-security-groups:list",
        target=server, query=PLAIN,
    ),
    Route(
        "GET /servers/{server_id}/os-instance-actions", list_actions, policy=_LOG + "list", target=server_ever,
        query=ACTIONS,
    ),
    Route(
        "GET /servers/{server_id}/os-instance-actions/{request_id}", show_action, policy=_LOG + "show",
        target=server_ever, query=PLAIN,
    ),
]  # fmt: skip
