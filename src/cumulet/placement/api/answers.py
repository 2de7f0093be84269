# SPDX-License-Identifier: Apache-2.0
"""What all answers of placement have in common: times, caching, paths, accepted types."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urlsplit

from cumulet.kernel import clock
from cumulet.kernel.errors import NotAcceptable
from cumulet.kernel.http import Answer, Request


def answer(
    request: Request,
    body: Any = None,
    *,
    modified: float | None = None,
    status: int | None = None,
    location: str | None = None,
    cached: bool = True,
) -> Answer:
    """An answer; from version 1.15 with the time of the last change (seconds; None: now) unless not ``cached``."""
    headers: dict[str, str] = {}
    if location is not None:
        headers["Location"] = location
    if cached and request.since("1.15"):
        moment = datetime.fromtimestamp(int(clock.now() if modified is None else modified), UTC)
        headers["Last-Modified"] = format_datetime(moment, usegmt=True)
        headers["Cache-Control"] = "no-cache"
    return Answer(body=body, status=status, headers=headers)


def must_accept_json(request: Request) -> None:
    """Raise NotAcceptable when the client asked for something that is no JSON."""
    asked = request.headers.get("accept", "")
    kinds = [item.split(";")[0].strip().lower() for item in asked.split(",") if item.strip()]
    if kinds and not any(kind in ("*/*", "application/*", "application/json") for kind in kinds):
        raise NotAcceptable("Only application/json is provided")


def path(request: Request, *parts: str) -> str:
    """The path of a resource as links carry it: without scheme and host, with our mount."""
    return "/".join([urlsplit(request.base).path, *parts])


def url(request: Request, *parts: str) -> str:
    """The whole URL of a resource, for ``Location``."""
    return "/".join([request.base, *parts])


def dashed(uuid: str) -> str:
    """A UUID in its canonical form, however it was written."""
    plain = uuid.replace("-", "").lower()
    return "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))
