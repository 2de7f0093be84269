# SPDX-License-Identifier: Apache-2.0
"""Discovery, microversions, the error dialect, and who may call."""

from __future__ import annotations

import pytest

from cumulet.placement.api import ROUTES
from tests.contract.image.lone import ADMIN, DEMO, READER, project
from tests.contract.placement.conftest import Api

NIL = "00000000-0000-4000-8000-000000000000"


async def test_the_version_document_needs_no_token(api: Api) -> None:
    reply = await api.by(None).get("/")
    assert reply.status == 200
    assert reply.json == {
        "versions": [
            {
                "id": "v1.0", "status": "CURRENT", "min_version": "1.0", "max_version": "1.39",
                "links": [{"rel": "self", "href": ""}],
            }
        ]
    }  # fmt: skip


@pytest.mark.parametrize(("asked", "answered"), [("", "1.0"), ("1.15", "1.15"), ("latest", "1.39")])
async def test_the_version_is_answered(api: Api, asked: str, answered: str) -> None:
    headers = {"openstack-api-version": f"placement {asked}"} if asked else {}
    reply = await api.lone.request("GET", "/resource_providers", token=ADMIN, headers=headers)
    assert reply.status == 200
    assert reply.headers["openstack-api-version"] == f"placement {answered}"
    assert reply.headers["vary"] == "OpenStack-API-Version"


async def test_a_version_out_of_range_is_not_acceptable(api: Api) -> None:
    reply = await api.at("1.40").get("/resource_providers")
    assert reply.status == 406
    (error,) = reply.json["errors"]
    assert (error["status"], error["title"]) == (406, "Not Acceptable")
    assert (error["min_version"], error["max_version"]) == ("1.0", "1.39")


async def test_a_malformed_version_is_a_bad_request(api: Api) -> None:
    assert (await api.at("pony.horse").get("/resource_providers")).status == 400


async def test_errors_carry_a_code_from_1_23_on(api: Api) -> None:
    old = await api.at("1.22").get(f"/resource_providers/{NIL}")
    assert old.status == 404
    (error,) = old.json["errors"]
    assert error == {
        "status": 404,
        "title": "Not Found",
        "detail": f"No resource provider with uuid {NIL} found",
        "request_id": old.headers["x-openstack-request-id"],
    }
    new = await api.at("1.23").get(f"/resource_providers/{NIL}")
    assert new.json["errors"][0]["code"] == "placement.undefined_code"


async def test_answers_may_not_be_cached_from_1_15_on(api: Api) -> None:
    old = await api.at("1.14").get("/resource_providers")
    assert "last-modified" not in old.headers
    new = await api.at("1.15").get("/resource_providers")
    assert new.headers["cache-control"] == "no-cache"
    assert new.headers["last-modified"].endswith(" GMT")


async def test_only_json_is_served(api: Api) -> None:
    reply = await api.send("GET", "/resource_providers", accept="text/html")
    assert reply.status == 406
    assert (await api.send("GET", "/resource_providers", accept="text/html, */*")).status == 200


@pytest.mark.parametrize(
    ("kind", "status"), [("text/plain", 415), ("application/xml", 415), ("application/json; charset=utf-8", 200)]
)
async def test_only_json_is_taken(api: Api, kind: str, status: int) -> None:
    headers = {"openstack-api-version": "placement 1.39", "content-type": kind}
    reply = await api.lone.request(
        "POST", "/resource_providers", token=ADMIN, headers=headers, body=b'{"name": "one"}'
    )  # fmt: skip
    assert reply.status == status


@pytest.mark.parametrize(
    ("method", "path", "since"),
    [
        ("GET", f"/resource_providers/{NIL}/aggregates", "1.1"),
        ("GET", "/resource_classes", "1.2"),
        ("GET", "/traits", "1.6"),
        ("GET", "/usages?project_id=p", "1.9"),
        ("GET", "/allocation_candidates?resources=VCPU:1", "1.10"),
    ],
)
async def test_a_path_is_not_there_before_its_version(api: Api, method: str, path: str, since: str) -> None:
    before = f"1.{int(since.partition('.')[2]) - 1}"
    assert (await api.at(before).send(method, path)).status == 404
    there = await api.at(since).send(method, path)
    expected = 404 if NIL in path else 200
    assert there.status == expected


async def test_unknown_paths_and_methods(api: Api) -> None:
    assert (await api.get("/nothing")).status == 404
    reply = await api.send("PATCH", "/resource_providers")
    assert reply.status == 405
    assert reply.headers["allow"] == "GET, POST"
    assert reply.json["errors"][0]["status"] == 405


async def test_without_a_token_all_is_unauthorized(api: Api) -> None:
    reply = await api.by(None).get("/resource_providers")
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Keystone uri=")
    assert reply.json["error"]["code"] == 401


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.public], ids=lambda route: str(route.at))
async def test_users_are_refused_everywhere_but_for_their_own_usages(api: Api, route: object) -> None:
    method, path = route.at.split(" ")  # type: ignore[attr-defined]
    version = route.since or "1.0"  # type: ignore[attr-defined]
    path = path.replace("{uuid}", NIL).replace("{consumer_uuid}", NIL).replace("{name}", "CUSTOM_X")
    path = path.replace("{resource_class}", "VCPU")
    json: dict[str, str] | None = {} if method in ("POST", "PUT") else None
    for token in (DEMO, READER):
        reply = await api.at(version).by(token).send(method, path, json)
        assert reply.status == 403, (route, token, reply.data)
        assert "Policy doesn't allow" in reply.json["errors"][0]["detail"]


async def test_a_reader_sees_the_usages_of_its_own_project_only(api: Api) -> None:
    own = f"/usages?project_id={project('demo')}"
    assert (await api.by(READER).get(own)).status == 200
    assert (await api.by(DEMO).get(own)).status == 200
    assert (await api.by(DEMO).get(f"/usages?project_id={project('alt')}")).status == 403
    assert (await api.by(ADMIN).get(f"/usages?project_id={project('alt')}")).status == 200
    assert (await api.by("root@system:admin").get("/resource_providers")).status == 403  # project scope only
