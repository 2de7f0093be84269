# SPDX-License-Identifier: Apache-2.0
"""Whose flow a request belongs to is for services to say: a user can't write into another's flow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cumulet.client.transport import LocalTransport
from cumulet.insight.errors import InsightDialect
from cumulet.kernel import trace
from cumulet.kernel.http import Api, Flow, Request, Route
from cumulet.kernel.policy import Policy, Rule
from tests.contract.image.lone import ADMIN, DEMO, SERVICE, Played

SERVER = "3f1c1c52-6d0e-4d0e-9d43-0e9a3b7c2f10"


@pytest.fixture
def buffer() -> Iterator[trace.Buffer]:
    kept = trace.Buffer()
    trace.use_buffer(kept)
    yield kept
    trace.use_buffer(trace.Buffer())


@pytest.mark.parametrize(
    ("token", "service_token", "recorded"),
    [(DEMO, None, 0), (ADMIN, None, 0), (DEMO, DEMO, 0), (SERVICE, None, 1), (DEMO, SERVICE, 1)],
)
async def test_baggage(buffer: trace.Buffer, token: str, service_token: str | None, recorded: int) -> None:
    async def look(request: Request) -> dict[str, str]:
        return {}

    api = Api(
        "image", [Route("GET /x", look, policy="x")], dialect=InsightDialect(), policy=Policy([Rule("x", "@")]),
        service=None, authenticator=Played(), component="image-api", flow=Flow("image.token.validate"),
    )  # fmt: skip
    headers = {"x-auth-token": token, "baggage": f"cumulet.subject={SERVER},cumulet.attempt=2"}
    if service_token is not None:
        headers["x-service-token"] = service_token
    reply = await LocalTransport(api, "", "image").send("GET", "/x", headers)
    assert reply.status == 200
    told: list[trace.Event] = []

    async def take(events: list[trace.Event]) -> None:
        told.extend(events)

    await buffer.flush(take)
    assert [(one.subject, one.attempt, one.name) for one in told] == [(SERVER, 2, "image.token.validate")] * recorded


@pytest.mark.parametrize("attempt", ["9" * 20, "²", "-1", "", "x"])
def test_a_senseless_attempt_is_the_first(attempt: str) -> None:
    assert trace.resume("image-api", "h", {"subject": SERVER, "attempt": attempt}).attempt == 1
    trace.use(None)
