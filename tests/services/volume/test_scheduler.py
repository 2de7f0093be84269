# SPDX-License-Identifier: Apache-2.0
"""Which back end gets a volume, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from cumulet.volume.scheduler import Candidate, Request, rank


def back_end(host: str, **more: Any) -> Candidate:
    facts: dict[str, Any] = {"zone": "nova", "total_gib": 100.0, "free_gib": 50.0, "promised_gib": 0.0, "up": True}
    return Candidate(host=host, **{**facts, **more})


@pytest.mark.parametrize(
    ("request_", "candidates", "hosts"),
    [
        (Request(10), [], []),
        (Request(10), [back_end("a")], ["a"]),
        (Request(10), [back_end("a", up=False)], []),
        (Request(10), [back_end("a", disabled=True)], []),
        (Request(10), [back_end("a", free_gib=0.0)], []),
        (Request(150), [back_end("a")], ["a"]),
        (Request(250), [back_end("a")], []),
        (Request(150), [back_end("a", promised_gib=60.0)], []),
        (Request(10, zone="x"), [back_end("a"), back_end("b", zone="x")], ["b"]),
        (Request(10, only="b"), [back_end("a"), back_end("b")], ["b"]),
        (Request(10, only="c"), [back_end("a"), back_end("b")], []),
        (Request(10, excluded=["a"]), [back_end("a"), back_end("b")], ["b"]),
        (Request(10), [back_end("a", promised_gib=150.0), back_end("b")], ["b", "a"]),
        (Request(10), [back_end("a", free_gib=5.0), back_end("b")], ["b", "a"]),
        (Request(10), [back_end("b"), back_end("a")], ["a", "b"]),
    ],
)
def test_rank(request_: Request, candidates: list[Candidate], hosts: list[str]) -> None:
    found, reasons = rank(request_, candidates, 2.0)
    assert found == hosts
    assert set(reasons) == {one.host for one in candidates} - set(hosts)
