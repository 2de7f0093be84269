# SPDX-License-Identifier: Apache-2.0
"""The shapes that all answers of identity share: links, collections, pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from cumulet.identity.logic import Identity
from cumulet.identity.logic.listing import Filter, Page
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Request

_COMPARATORS = ("equals", "contains", "startswith", "endswith")
Show = Callable[[Row], dict[str, Any]]


def identity_of(request: Request) -> Identity:
    identity: Identity = request.service
    return identity


def url(request: Request, path: str) -> str:
    """The link to a path below ``/v3`` by the address that the client used."""
    return f"{request.base}/v3/{path}"


def member(request: Request, collection: str, document: dict[str, Any]) -> dict[str, Any]:
    """The document with the link to itself."""
    return {**document, "links": {"self": url(request, f"{collection}/{document['id']}")}}


def here(request: Request) -> str:
    return request.url + (f"?{request.query_text}" if request.query_text else "")


def collection(
    request: Request, name: str, found: tuple[list[Row], bool], show: Show, *, of: str | None = None
) -> dict[str, Any]:
    """A page of things; ``of`` is the collection that the things themselves link to."""
    rows, more = found
    links: dict[str, str | None] = {"next": None, "self": here(request), "previous": None}
    answer: dict[str, Any] = {name: [member(request, of or name, show(row)) for row in rows], "links": links}
    if more:
        query = dict(parse_qsl(request.query_text, keep_blank_values=True)) | {"marker": rows[-1]["id"]}
        links["next"] = f"{request.url}?{urlencode(query)}"
        answer["truncated"] = True
    return answer


def page_of(request: Request, columns: Mapping[str, str] | tuple[str, ...] = ()) -> Page:
    """The wished page; ``columns`` maps the published filters to columns (or names both at once)."""
    names = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
    query = request.query
    filters = [Filter(column, query[name]) for name, column in names.items() if name in query]
    for key, value in query.get("*", ()):
        name, joined, comparator = key.partition("__")
        if joined and name in names:
            exact = comparator in _COMPARATORS
            comparator = comparator if exact else comparator.removeprefix("i")
            if comparator in _COMPARATORS:
                filters.append(Filter(names[name], value, comparator, exact))
    settings = identity_of(request).settings
    limit = query.get("limit") or settings.list_limit
    return Page(
        filters=tuple(filters),
        limit=min(limit, settings.page_limit) if limit else None,
        marker=query.get("marker"),
        sort=query.get("sort_key", "id"),
        descending=query.get("sort_dir") == "desc",
    )


def own_domain(request: Request, page: Page, column: str = "domain_id") -> Page:
    """The page, limited to the domain that the caller's token is for, if it is for one."""
    domain_id = request.context.domain_id
    return replace(page, filters=(*page.filters, Filter(column, domain_id))) if domain_id else page


def domain_of(page: Page) -> str | None:
    """The one domain that a list is about, if there is one."""
    named = {str(wish.value) for wish in page.filters if wish.column == "domain_id" and wish.comparator == "equals"}
    return named.pop() if len(named) == 1 else None


def flag(request: Request, name: str) -> bool:
    """Whether a bare query key is there and not ``0``."""
    for key, value in parse_qsl(request.query_text, keep_blank_values=True):
        if key == name:
            return value != "0"
    return False


def sent(request: Request, envelope: str) -> dict[str, Any]:
    """The content of the body as it was sent, before it is checked; empty for any other shape."""
    content = request.sent.get(envelope) if isinstance(request.sent, dict) else None
    return content if isinstance(content, dict) else {}


def in_domain(request: Request) -> dict[str, Any]:
    """The body with its domain: the one sent, else that of the token's scope, else the default one."""
    if request.body.get("domain_id"):
        return request.body
    return {**request.body, "domain_id": request.context.domain_id or "default"}


def require_same_id(request: Request, id: str) -> None:
    if request.body.get("id", id) != id:
        raise Invalid("Cannot change ID")


def target(**things: Any) -> dict[str, Any]:
    """What policy rules see as ``target.…``; things that are not there are left out."""
    return {"target": {name: thing for name, thing in things.items() if thing is not None}}
