# SPDX-License-Identifier: Apache-2.0
"""Links and pages as compute publishes them: self and bookmark, and ``<things>_links`` with the next page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from cumulet.kernel.db import Row
from cumulet.kernel.http import Request

VERSION = "/v2.1"


def links_of(request: Request, collection: str, identifier: str) -> list[dict[str, str]]:
    """The self link (with the version) and the bookmark (without)."""
    return [
        {"rel": "self", "href": f"{request.base}{VERSION}/{collection}/{identifier}"},
        bookmark_of(request, collection, identifier),
    ]


def bookmark_of(request: Request, collection: str, identifier: str) -> dict[str, str]:
    return {"rel": "bookmark", "href": f"{request.base}/{collection}/{identifier}"}


def page_size(request: Request) -> int:
    """How many entries the answer may hold."""
    most: int = request.service.settings.max_limit
    asked = request.query.get("limit")
    return most if asked is None else min(int(asked), most)


def next_links(
    request: Request, rows: Sequence[Row], path: str, marker: Callable[[Row], str]
) -> list[dict[str, str]]:  # fmt: skip
    """The link to the next page, when this one is full."""
    size = page_size(request)
    if not size or len(rows) < size:
        return []
    params = dict(parse_qsl(request.query_text, keep_blank_values=True))
    params["marker"] = marker(rows[-1])
    return [{"rel": "next", "href": f"{request.base}{VERSION}/{path}?{urlencode(sorted(params.items()))}"}]


def paged(
    request: Request,
    name: str,
    shown: list[Any],
    rows: Sequence[Row],
    path: str,
    marker: Callable[[Row], str] = lambda row: str(row["id"]),
) -> dict[str, Any]:
    """A list's answer, with its next link when there is one."""
    answer: dict[str, Any] = {name: shown}
    if following := next_links(request, rows, path, marker):
        answer[f"{name}_links"] = following
    return answer
