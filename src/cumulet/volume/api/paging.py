# SPDX-License-Identifier: Apache-2.0
"""How the volume API asks for a page and links to the next."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode

from cumulet.kernel.db import Row
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Request
from cumulet.kernel.http.fields import truth
from cumulet.volume.logic import Volume
from cumulet.volume.logic.lists import Page
from cumulet.volume.schemas import MAX_INT

_SINCE = {
    "glance_metadata": "3.4", "group_id": "3.10", "created_at": "3.60", "updated_at": "3.60", "consumes_quota": "3.65",
}  # fmt: skip
"""Filters that older versions do not know: they ignore them."""


def page_of(request: Request, allowed: frozenset[str]) -> Page:
    """The page that the query string asks for; raises Invalid."""
    volume: Volume = request.service
    query = request.query
    limit = _number(query.get("limit"), "limit", volume.config.page_max)
    return Page(
        filters=filters_of(request, allowed),
        limit=min(limit, volume.config.page_max),
        marker=query.get("marker"),
        offset=_number(query.get("offset"), "offset", 0),
        sort=_sorting(query),
        count=truth(query.get("with_count", "0")),
    )


def filters_of(request: Request, allowed: frozenset[str]) -> dict[str, str]:
    """The filters of the query string; from 3.31 on an unknown one is refused to users."""
    filters: dict[str, str] = {}
    bad = []
    for name, value in request.query.get("*", []):
        plain = name.removesuffix("~") if request.since("3.34") else name
        if plain not in allowed:
            bad.append(name)
        elif plain not in _SINCE or request.since(_SINCE[plain]):
            filters[name] = value
    if bad and request.since("3.31") and not request.context.is_admin:
        raise Invalid(f"Invalid filters {', '.join(sorted(bad))} are found in query options.")
    return filters


def _number(text: str | None, noun: str, default: int) -> int:
    if text is None:
        return default
    stripped = text.strip()
    if not stripped.lstrip("-").isdigit() or len(stripped) > 18:
        raise Invalid(f"{noun} param must be an integer")
    if int(stripped) < 0 or int(stripped) > MAX_INT:
        raise Invalid(f"{noun} param must be positive")
    return int(stripped)


def _sorting(query: dict[str, Any]) -> list[tuple[str, str]]:
    if "sort" in query:
        if "sort_key" in query or "sort_dir" in query:
            raise Invalid(
                "The 'sort_key' and 'sort_dir' parameters are deprecated and cannot be used with the 'sort' parameter."
            )
        parts = [part.partition(":") for part in str(query["sort"]).strip().split(",")]
        return [(_plain(key), direction.strip() or "desc") for key, _, direction in parts]
    return [(_plain(str(query.get("sort_key", "created_at"))), str(query.get("sort_dir", "desc")).strip())]


def _plain(key: str) -> str:
    """A sort key without what older clients put before it."""
    return key.strip().removeprefix("display_")


def links_of(request: Request, collection: str, id_: str) -> list[dict[str, str]]:
    """The self and bookmark links of a resource."""
    return [
        {"rel": "self", "href": f"{request.base}/v3/{collection}/{id_}"},
        {"rel": "bookmark", "href": f"{request.base}/{collection}/{id_}"},
    ]


def next_link(request: Request, rows: list[Row], page: Page) -> list[dict[str, str]]:
    """The link to the next page, when this one is full."""
    if not rows or len(rows) < page.limit:
        return []
    query = [pair for pair in parse_qsl(request.query_text, keep_blank_values=True) if pair[0] not in ("marker",)]
    href = f"{request.url}?{urlencode([*query, ('marker', rows[-1]['id'])])}"
    return [{"rel": "next", "href": href}]
