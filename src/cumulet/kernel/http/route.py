# SPDX-License-Identifier: Apache-2.0
"""Routes: one literal row per operation and version range. The rows are the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cumulet.kernel.http.body import Body, Query
from cumulet.kernel.http.fields import Schema
from cumulet.kernel.http.request import Answer, Request
from cumulet.kernel.policy import Target

Handler = Callable[[Request], Awaitable[Answer | dict[str, Any] | list[Any] | None]]
Loader = Callable[[Request], Awaitable[Target | None]]


@dataclass(frozen=True)
class Route:
    """``POST /servers/{server_id}/action#os-stop``: method, template, and the action's key in the body.

    Exactly one of ``policy`` and ``public`` is given; ``policy`` may name a rule
    that the handler enforces itself on what it finds (``late=True``).
    ``target`` loads the object that the policy is about before the handler runs
    (it may set ``request.found`` and raise NotFound).
    """

    at: str
    handler: Handler
    policy: str | None = None
    body: Body | None = None
    query: Query | None = None
    ok: int = 200
    since: str | None = None
    until: str | None = None
    target: Loader | None = None
    public: bool = False
    late: bool = False
    raw: bool = False
    """The handler reads `request.stream` itself; nothing is parsed."""
    body_optional: bool = False
    returns: Schema | None = None
    """The declared shape of a successful answer's JSON document; the tests hold every answer to it."""
    faults: Schema | None = None
    """The shape of the errors that the handler words itself, where that is not the service's dialect."""

    @property
    def method(self) -> str:
        return self.at.split(" ", 1)[0]

    @property
    def template(self) -> str:
        return self.at.split(" ", 1)[1].split("#")[0]

    @property
    def action(self) -> str | None:
        return self.at.split("#", 1)[1] if "#" in self.at else None


def under(prefix: str, routes: Iterable[Route]) -> list[Route]:
    """The same routes below a path prefix."""
    rows = []
    for route in routes:
        method, path = route.at.split(" ", 1)
        rows.append(replace(route, at=f"{method} {prefix}{path}"))
    return rows


def returning(answers: Mapping[str, Schema], routes: Iterable[Route]) -> list[Route]:
    """The same routes, each with the declared shape of its answer where ``answers`` has one by ``Route.at``."""
    rows = [replace(route, returns=answers.get(route.at, route.returns)) for route in routes]
    if unknown := set(answers) - {route.at for route in rows}:
        raise ValueError(f"no such route: {', '.join(sorted(unknown))}")
    return rows
