# SPDX-License-Identifier: Apache-2.0
"""The watcher of all tests' answers sees what it is there for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from cumulet.kernel.http import Answer, Request, Route
from cumulet.kernel.http.fields import COUNT, record
from cumulet.kernel.http.route import returning
from tests import observed


async def _handler(request: Request) -> dict[str, Any]:
    return {}


_ROW = Route("GET /watched", _handler, public=True, returns=record({"number": COUNT}, ("number",)))
_API = cast(Any, SimpleNamespace(name="nobody", routes=[_ROW]))


def _told(answer: Answer, monkeypatch: pytest.MonkeyPatch, method: str = "GET") -> list[str]:
    for name in ("known", "used", "_seen"):
        monkeypatch.setattr(observed, name, set())
    monkeypatch.setattr(observed, "wrong", [])
    observed.observe(_API, _ROW, cast(Any, SimpleNamespace(method=method)), answer)
    assert observed.known == {"nobody GET /watched"}
    return observed.wrong


@pytest.mark.parametrize("body", [{}, {"number": -1}, {"number": 1, "more": 2}, None])
def test_an_answer_of_another_shape_is_told(body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (told,) = _told(Answer(body), monkeypatch)
    assert told.startswith("nobody GET /watched: the answer's ")


def test_an_answer_as_declared_is_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _told(Answer({"number": 3}), monkeypatch) == []
    assert observed.used == {"nobody GET /watched"}


def test_an_error_is_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _told(Answer({}, status=409), monkeypatch) == []
    assert observed.used == set()


def test_a_head_request_has_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _told(Answer(None), monkeypatch, "HEAD") == []


def test_a_shape_for_no_route_is_refused() -> None:
    with pytest.raises(ValueError, match="no such route: GET /other"):
        returning({"GET /other": COUNT}, [_ROW])
