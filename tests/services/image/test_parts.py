# SPDX-License-Identifier: Apache-2.0
"""Uploads in parts are aborted until they are gone: a part on its way may outlive one abort or make it fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

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


# ---- against a server that sends its answer piece by piece

UPLOADS = 1000


@asynccontextmanager
async def serving(pieces: list[bytes]) -> AsyncIterator[Unfinished]:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        reply = web.StreamResponse()
        await reply.prepare(request)
        for piece in pieces:
            await reply.write(piece)
            await asyncio.sleep(0)  # the pieces arrive one by one
        return reply

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield Unfinished(f"http://127.0.0.1:{port}", "b", "p", "r", "a", "s", 30.0)
    finally:
        await runner.cleanup()


async def test_a_long_list_is_read_to_its_end() -> None:
    uploads = b"".join(b"<Upload><Key>p/k%d</Key><UploadId>u</UploadId></Upload>" % one for one in range(UPLOADS))
    whole = b"<R><IsTruncated>false</IsTruncated>" + uploads + b"</R>"
    async with serving([whole[at : at + 5000] for at in range(0, len(whole), 5000)]) as found:
        assert len(await found.find()) == UPLOADS


@pytest.mark.parametrize(
    ("answer", "words"), [([b"<html><p>sorry"], "no XML"), ([b"x" * (1 << 20)] * 9, "too long")], ids=["no XML", "long"]
)
async def test_nonsense_is_an_error_of_the_store(answer: list[bytes], words: str) -> None:
    async with serving(answer) as found:
        with pytest.raises(OSError, match=words):
            await found.find()
