# SPDX-License-Identifier: Apache-2.0
"""Uploads in parts are aborted until they are gone: a part on its way may outlive one abort or make it fail."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from cumulet.image.store.parts import Unfinished


class Played(Unfinished):
    """A server that carries out an abort of ``path`` only when it was asked ``stubborn`` times before."""

    async def _ask(self, method: str, path: str, query: Mapping[str, str], fine: set[int]) -> bytes:
        asked: list[str] = self.__dict__.setdefault("asked", [])
        if method == "GET":
            there = asked.count("DELETE") <= self.__dict__["stubborn"]
            upload = "<Upload><Key>p/data-1</Key><UploadId>u</UploadId></Upload>" if there else ""
            return f"<R><IsTruncated>false</IsTruncated>{upload}</R>".encode()
        assert (path, query) == ("/b/p/data-1", {"uploadId": "u"})
        asked.append(method)
        if asked.count("DELETE") == 1:
            raise OSError("status 500")
        return b""


def played(stubborn: int) -> Played:
    made = Played("http://s3.test", "b", "p", "r", "a", "s", 1.0)
    made.__dict__["stubborn"] = stubborn
    return made


async def test_until_it_is_gone() -> None:
    uploads = played(2)
    await uploads.drop("data-1")
    assert uploads.__dict__["asked"] == ["DELETE"] * 3
    await uploads.drop("data-2")  # nothing of this name
    assert len(uploads.__dict__["asked"]) == 3


async def test_one_that_never_goes_is_told() -> None:
    uploads = played(99)
    with pytest.raises(OSError, match="500"):
        await uploads.drop("data-1")
    assert len(uploads.__dict__["asked"]) == 5
