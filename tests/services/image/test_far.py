# SPDX-License-Identifier: Apache-2.0
"""A store on another machine at its first use: silent, away, or another cloud's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cumulet.image.store import far
from cumulet.image.store.far import FarStore
from cumulet.image.store.file import FileStore
from cumulet.image.store.model import StoreDown, StoreTaken
from cumulet.kernel.pools import Pool


class Moody(FileStore):
    """Each try to open it ends in the next of ``moods``; None: nobody answers."""

    def __init__(self, folder: Path, *moods: OSError | None) -> None:
        super().__init__(folder, Pool("t", 0))
        self._moods = iter(moods)

    async def open(self) -> None:
        mood = next(self._moods)
        if mood is None:
            await asyncio.Event().wait()
        else:
            raise mood


async def test_the_start_of_the_service_waits_for_no_silent_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far, "_START", 0.01)
    await FarStore("far", Moody(tmp_path, None)).open()


async def test_another_clouds_store_ends_a_start_but_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far, "_PAUSE", 0.0)
    with pytest.raises(StoreTaken):
        await FarStore("far", Moody(tmp_path, StoreTaken("not ours"))).open()
    later = FarStore("far", Moody(tmp_path, OSError("away"), *[StoreTaken("not ours")] * 2))
    await later.open()
    with pytest.raises(StoreDown, match="far does not answer"):
        await later.list()
    with pytest.raises(StoreDown):
        await later.delete("data-1")
