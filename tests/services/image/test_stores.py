# SPDX-License-Identifier: Apache-2.0
"""The Store contract, over every kind of store: whole objects or none, ranges, flat writing, deletion, errors."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest

from cumulet.image.store.model import Store
from tests.services.image.stores import moto, store  # noqa: F401 - fixtures

MIB = 1024 * 1024


async def read(store: Store, key: str, *where: Any) -> bytes:  # noqa: F811
    return b"".join([piece async for piece in await store.read(key, *where)])


async def put(store: Store, key: str, *pieces: bytes) -> None:  # noqa: F811
    writer = await store.write(key)
    for piece in pieces:
        writer.write(piece)
    await writer.commit()


async def test_an_object_is_there_whole_or_not_at_all(store: Store) -> None:  # noqa: F811
    data = os.urandom(37 * MIB + 7)  # several parts, and an odd end
    writer = await store.write("data-1")
    for start in range(0, len(data), MIB):
        writer.write(data[start : start + MIB])
    for asked in (store.size("data-1"), store.read("data-1")):
        with pytest.raises(FileNotFoundError):
            await asked
    await writer.commit()
    assert (await store.list(), await store.size("data-1")) == (["data-1"], len(data))
    digest = hashlib.sha256()
    reader = await store.read("data-1")
    async for piece in reader:
        assert 0 < len(piece) <= 20 * MIB
        digest.update(piece)
    await reader.close()
    assert digest.digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (0, 1), (5, 10), (4 * MIB - 3, 6), (5 * MIB - 3, None), (0, None), (5 * MIB, None), (6 * MIB, 4),
     (5 * MIB - 1, 100)],
)  # fmt: skip
async def test_ranges(store: Store, offset: int, length: int | None) -> None:  # noqa: F811
    data = os.urandom(5 * MIB)
    await put(store, "data-r", data)
    end = len(data) if length is None else offset + length
    assert await read(store, "data-r", offset, length) == data[offset:end]


async def test_zeros_and_nothing(store: Store) -> None:  # noqa: F811
    await put(store, "data-0")
    assert (await store.size("data-0"), await read(store, "data-0")) == (0, b"")
    zeros = [bytes(MIB)] * 9 + [b"end"]
    await put(store, "data-z", *zeros)
    assert (await store.size("data-z"), await read(store, "data-z")) == (9 * MIB + 3, b"".join(zeros))


async def test_a_broken_upload_leaves_nothing(store: Store) -> None:  # noqa: F811
    for amount in (1, 40):
        writer = await store.write(f"data-b{amount}")
        for _ in range(amount):
            writer.write(os.urandom(MIB))
        await writer.abort()
        assert await store.list() == []


async def test_deletion(store: Store) -> None:  # noqa: F811
    await put(store, "data-d", b"x" * 100)
    assert not await store.in_use("data-d")
    for _ in range(2):
        await store.delete("data-d")
    assert await store.list() == []
    for asked in (store.size("data-d"), store.read("data-d")):
        with pytest.raises(FileNotFoundError):
            await asked
    await put(store, "data-d", b"again")
    assert await read(store, "data-d") == b"again"


async def test_a_reader_may_leave_early(store: Store) -> None:  # noqa: F811
    await put(store, "data-l", os.urandom(8 * MIB))
    for _ in range(5):
        reader = await store.read("data-l")
        assert await anext(aiter(reader))
        await reader.close()
    await store.delete("data-l")
    assert await store.list() == []
