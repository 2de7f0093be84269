# SPDX-License-Identifier: Apache-2.0
"""The file of secrets is written by several processes that start at once; none may lose what another wrote."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from cumulet.kernel import ids
from cumulet.kernel.secrets import SecretFile


def test_no_secret_looks_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["-ab", "_ab", "a-b", "b_a"])
    monkeypatch.setattr(secrets, "token_urlsafe", lambda octets: next(drawn))
    assert [ids.new_secret(2), ids.new_secret(2)] == ["a-b", "b_a"]


def test_two_writers_in_one_tick_of_the_clock_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    first, second = SecretFile(path), SecretFile(path)
    tick = 1_700_000_000_000_000_000
    made = {"a": first.get("a")}
    os.utime(path, ns=(tick, tick))
    first.refresh()
    made["b"] = second.get("b")
    os.utime(path, ns=(tick, tick))  # as coarse as a file system's clock may be
    made["c"] = first.get("c")
    first.put("d", "given")
    fresh = SecretFile(path)
    assert {name: fresh.get(name) for name in "abcd"} == {**made, "d": "given"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_reader_sees_what_another_wrote_in_the_same_tick(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    writer = SecretFile(path)
    writer.get("a")
    reader = SecretFile(path)
    stamp = path.stat().st_mtime_ns
    writer.get("b")
    os.utime(path, ns=(stamp, stamp))
    assert reader.refresh()
    assert reader.known("b")
    assert not reader.refresh()
