# SPDX-License-Identifier: Apache-2.0
"""The declarative HTTP layer over a toy API: what the tables say is what a client gets."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cumulet.client.transport import LocalTransport
from cumulet.kernel.context import Context
from cumulet.kernel.errors import Fault, NotFound, Unauthorized
from cumulet.kernel.http import Answer, Api, Body, Field, Out, Param, Query, Request, Route, Versions, View
from cumulet.kernel.http import fields as f
from cumulet.kernel.http.api import FaultRequest, Verified
from cumulet.kernel.policy import Policy, Rule

TOKENS = {
    "member": Context("", user_id="u", project_id="p", roles=["member", "reader"]),
    "reader": Context("", user_id="r", project_id="p", roles=["reader"]),
    "stranger": Context("", user_id="s", project_id="q", roles=["member", "reader"]),
}


class Tokens:
    async def verify(self, token: str, *, allow_expired: bool = False) -> Verified:
        if token not in TOKENS:
            raise Unauthorized
        return Verified(TOKENS[token], 2e9)


class Plain:
    def fault(self, fault: Fault, request: FaultRequest) -> tuple[int, dict[str, str], bytes]:
        body = {"message": fault.message, "path": fault.details.get("path")}
        return fault.status, {"content-type": "application/json"}, orjson.dumps(body)


THING = View("id", Out("locked", since="2.9"), Out("host", policy="thing:host"))


async def _create(request: Request) -> Answer:
    return Answer({"thing": request.body}, headers={"Location": f"{request.base}/things/1"})


async def _load(request: Request) -> dict[str, Any]:
    if request.params["thing_id"] != "1":
        raise NotFound("no such thing")
    return {"project_id": "p"}


async def _show(request: Request) -> dict[str, Any]:
    return request.render(THING, {"id": "1", "locked": False, "host": "h"}, {"project_id": "p"})


async def _list(request: Request) -> dict[str, Any]:
    return {"query": {name: value for name, value in request.query.items() if name != "*"}}


async def _stop(request: Request) -> None:
    return None


async def _say(request: Request) -> dict[str, Any]:
    return {"said": request.body}


async def _boom(request: Request) -> None:
    raise ZeroDivisionError("secret detail")


def _not_both(body: dict[str, Any]) -> None:
    from cumulet.kernel.errors import Invalid

    if "size" in body and "flavor" in body:
        raise Invalid("size and flavor can't both be given")


CREATE = Body(
    "thing",
    Field("name", f.NAME),
    Field("description", f.nullable(f.TEXT), since="2.19", optional=True),
    Field("networks", f.one_of("auto", "none"), required_since="2.37", optional=True),
    Field("personality", f.array(f.OBJECT), until="2.56", optional=True),
    Field("size", f.INTEGER, optional=True),
    Field("flavor", f.TEXT, optional=True),
    Field("enabled", f.LOOSE_BOOL, optional=True, convert=f.truth),
    Field("color", f.TEXT, default="blue"),
    Field("id", f.UUID, optional=True, policy="thing:id"),
    Field("OS-X:y", f.TEXT, optional=True, inner="y"),
    beside=(Field("hints", f.OBJECT, optional=True),),
    rules=(_not_both,),
)
ROUTES = [
    Route("POST /things", _create, body=CREATE, policy="thing:write", ok=202),
    Route("GET /things", _list, policy="thing:read",
          query=Query(Param("limit", f.COUNT), Param("tag", f.TEXT, many=True), strict_since="2.75")),
    Route("GET /things/{thing_id}", _show, policy="thing:read", target=_load),
    Route("GET /things/{thing_id}/topology", _show, policy="thing:read", since="2.78", target=_load),
    Route("POST /things/{thing_id}/action#stop", _stop, policy="thing:write", ok=202, target=_load),
    Route("POST /things/{thing_id}/action#say", _say, body=Body("say", Field("word", f.NAME)), policy="thing:write"),
    Route("GET /boom", _boom, public=True),
    Route("GET /", _list, public=True),
]  # fmt: skip
RULES = [
    Rule("thing:read", "role:reader and project_id:%(project_id)s"),
    Rule("thing:write", "role:member and project_id:%(project_id)s"),
    Rule("thing:host", "role:admin"),
    Rule("thing:id", "role:service"),
]


class Client:
    def __init__(self) -> None:
        versions = Versions("compute", "2.1", "2.90", "X-OpenStack-Nova-API-Version")
        self.api = Api(
            "toy", ROUTES, dialect=Plain(), policy=Policy(RULES), service=None, authenticator=Tokens(),
            versions=versions, component="toy", max_body=2000,
        )  # fmt: skip

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = "member",
        version: str | None = None,
        **more: str,
    ) -> tuple[int, Any, Any]:
        headers = dict(more)
        if token:
            headers["x-auth-token"] = token
        if version:
            headers["openstack-api-version"] = f"compute {version}"
        data = body if isinstance(body, bytes) else orjson.dumps(body) if body is not None else b""
        if data:
            headers.setdefault("content-type", "application/json")
        reply = await LocalTransport(self.api, "/compute", "toy").send(method, path, headers, data)
        text = await reply.read()
        return reply.status, orjson.loads(text) if text else None, reply.headers


@pytest.fixture
def client() -> Client:
    return Client()


async def test_a_body_is_lifted_with_defaults_and_inner_names(client: Client) -> None:
    sent = {"thing": {"name": "n", "enabled": "False", "OS-X:y": "z"}, "hints": {"a": 1}}
    status, answer, headers = await client("POST", "/things", sent)
    assert (status, headers["location"]) == (202, "http://localhost/compute/things/1")
    assert answer == {"thing": {"name": "n", "enabled": False, "color": "blue", "y": "z", "hints": {"a": 1}}}


@pytest.mark.parametrize(
    ("version", "thing", "status", "path"),
    [
        ("2.18", {"name": "n", "description": "d"}, 400, ""),
        ("2.19", {"name": "n", "description": "d"}, 202, None),
        ("2.19", {"name": "n", "description": None}, 202, None),
        ("2.36", {"name": "n"}, 202, None),
        ("2.37", {"name": "n"}, 400, ""),
        ("2.37", {"name": "n", "networks": "auto"}, 202, None),
        ("2.56", {"name": "n", "networks": "none", "personality": []}, 202, None),
        ("2.57", {"name": "n", "networks": "none", "personality": []}, 400, ""),
        ("2.1", {"name": ""}, 400, "thing/name"),
        ("2.1", {"name": 7}, 400, "thing/name"),
        ("2.1", {"name": "n", "size": "7"}, 400, "thing/size"),
        ("2.1", {"name": "n", "size": True}, 400, "thing/size"),
        ("2.1", {"name": "n", "enabled": "maybe"}, 400, "thing/enabled"),
        ("2.1", {"name": "n", "id": "x"}, 400, "thing/id"),
        ("2.1", {"name": "n", "size": 1, "flavor": "f"}, 400, None),
        ("2.1", {}, 400, "thing"),
    ],
)
async def test_fields_live_in_their_versions(
    client: Client, version: str, thing: dict[str, Any], status: int, path: str | None
) -> None:
    got, answer, _ = await client("POST", "/things", {"thing": thing}, version=version)
    assert got == status, answer
    if path:
        assert answer["path"] == path
        assert path.rpartition("/")[2] in answer["message"]


async def test_a_field_has_a_policy_of_its_own(client: Client) -> None:
    body = {"thing": {"name": "n", "id": "7d444840-9dc0-11d1-b245-5ffdce74fad2"}}
    status, answer, _ = await client("POST", "/things", body)
    assert (status, "thing:id" in answer["message"]) == (403, True)


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'"x"', "application/json", 400),
        (b"null", "application/json", 400),
        (b'{"thing": {"name": "n"}}', "application/xml", 415),
        (b'{"thing": {"name": "' + b"n" * 3000 + b'"}}', "application/json", 413),
        (b'{"thing": ' + b"[" * 900 + b"]" * 900 + b"}", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"thing": {"name": "n"}, "more": 1}', "application/json", 400),
    ],
)
async def test_bad_bodies_are_refused(client: Client, data: bytes, kind: str, status: int) -> None:
    got, answer, _ = await client("POST", "/things", data, **{"content-type": kind})
    assert got == status, answer


@pytest.mark.parametrize(
    ("token", "path", "method", "status"),
    [
        (None, "/things/1", "GET", 401), ("nobody", "/things/1", "GET", 401), ("stranger", "/things/1", "GET", 403),
        ("reader", "/things/1", "GET", 200), ("reader", "/things/2", "GET", 404), ("reader", "/nothing", "GET", 404),
        (None, "/", "GET", 200), ("reader", "/things/1", "DELETE", 405), ("reader", "/things/1/", "GET", 200),
    ],
)  # fmt: skip
async def test_tokens_policy_and_routes(client: Client, token: str | None, path: str, method: str, status: int) -> None:
    got, answer, headers = await client(method, path, token=token)
    assert got == status, answer
    assert headers["x-openstack-request-id"].startswith("req-")


async def test_versions_select_rows_and_members(client: Client) -> None:
    assert (await client("GET", "/things/1", version="2.8"))[1] == {"id": "1"}
    assert (await client("GET", "/things/1", version="2.9"))[1] == {"id": "1", "locked": False}
    assert (await client("GET", "/things/1/topology", version="2.77"))[0] == 404
    assert (await client("GET", "/things/1/topology", version="2.78"))[0] == 200
    _, _, headers = await client("GET", "/things/1", version="latest")
    assert headers["openstack-api-version"] == "compute 2.90"
    assert headers["x-openstack-nova-api-version"] == "2.90"
    assert [(await client("GET", "/things/1", version=one))[0] for one in ("2.91", "2.0", "3.1", "x", "2.01")] == [
        406,
        406,
        406,
        400,
        400,
    ]


async def test_queries_are_typed_and_strict_when_published_so(client: Client) -> None:
    assert (await client("GET", "/things?limit=3&tag=a&tag=b&junk=1"))[1] == {"query": {"limit": 3, "tag": ["a", "b"]}}
    assert (await client("GET", "/things?limit=-1"))[0] == 400
    assert (await client("GET", "/things?limit=x"))[0] == 400
    assert (await client("GET", "/things?junk=1", version="2.74"))[0] == 200
    status, answer, _ = await client("GET", "/things?junk=1", version="2.75")
    assert (status, "junk" in answer["message"]) == (400, True)


async def test_actions_are_rows_chosen_by_their_key(client: Client) -> None:
    assert (await client("POST", "/things/1/action", {"stop": None}))[0] == 202
    assert (await client("POST", "/things/1/action", {"say": {"word": "w"}}))[1] == {"said": {"word": "w"}}
    bad: list[Any] = [{"fly": 1}, {}, {"stop": 1, "say": 2}, []]
    assert [(await client("POST", "/things/1/action", body))[0] for body in bad] == [400] * 4
    assert (await client("POST", "/things/2/action", {"stop": None}))[0] == 404
    assert (await client("POST", "/things/1/action", {"stop": None}, token="reader"))[0] == 403


async def test_the_unexpected_is_a_500_that_tells_nothing(client: Client) -> None:
    status, answer, _ = await client("GET", "/boom")
    assert (status, "secret" in answer["message"]) == (500, False)


async def test_links_follow_the_address_that_the_client_used(client: Client) -> None:
    forwarded = {"x-forwarded-proto": "https", "x-forwarded-host": "cloud.example:8443", "x-forwarded-prefix": "/api"}
    _, _, headers = await client("POST", "/things", {"thing": {"name": "n"}}, **forwarded)
    assert headers["location"] == "https://cloud.example:8443/api/compute/things/1"
    evil = {"x-forwarded-host": "a b<script>", "x-forwarded-prefix": "//evil"}
    _, _, headers = await client("POST", "/things", {"thing": {"name": "n"}}, **evil)
    assert headers["location"] == "http://localhost/compute/things/1"
