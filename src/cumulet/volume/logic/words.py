# SPDX-License-Identifier: Apache-2.0
"""Metadata: the words that users (and images) attach to volumes and snapshots."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import delete, select

from cumulet.kernel.db import Database, Transaction
from cumulet.volume.models import WORDS

USER, IMAGE, SNAPSHOT = "user", "image", "snapshot"
Words = dict[str, dict[str, str]]
"""Kind → key → value."""


async def of(reader: Database | Transaction, ids: list[str]) -> dict[str, Words]:
    """The metadata of several owners, by owner and kind."""
    found: dict[str, Words] = {id_: {} for id_ in ids}
    if ids:
        statement = select(WORDS).where(WORDS.c.owner_id.in_(ids)).order_by(WORDS.c.key)
        for row in await reader.all(statement):
            found[row["owner_id"]].setdefault(row["kind"], {})[row["key"]] = row["value"]
    return found


async def lay(tx: Transaction, owner: str, kind: str, words: Mapping[str, str], *, replace: bool = False) -> None:
    """Set these words; with ``replace`` all others go."""
    mine = (WORDS.c.owner_id == owner) & (WORDS.c.kind == kind)
    condition = mine if replace else mine & WORDS.c.key.in_(list(words))
    await tx.run(delete(WORDS).where(condition))
    for key, value in words.items():
        await tx.insert(WORDS, {"owner_id": owner, "kind": kind, "key": key, "value": value})


async def drop(tx: Transaction, owner: str, kind: str, key: str) -> bool:
    """Remove one word; False when there is none."""
    mine = (WORDS.c.owner_id == owner) & (WORDS.c.kind == kind) & (WORDS.c.key == key)
    return bool(await tx.run(delete(WORDS).where(mine)))
