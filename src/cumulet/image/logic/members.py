# SPDX-License-Identifier: Apache-2.0
"""Members: projects that an owner offers a shared image, and what they made of it."""

from __future__ import annotations

from sqlalchemy import delete, func, select

from cumulet.image.logic import Image
from cumulet.image.models import members
from cumulet.kernel import clock
from cumulet.kernel.context import Context
from cumulet.kernel.db import Duplicate, Row, Transaction
from cumulet.kernel.errors import Conflict, Forbidden, NotFound, TooLarge


def check_shared(row: Row, words: str = "Only shared images have members.") -> None:
    """Raise Forbidden with ``words`` for an image that has no members."""
    if row["visibility"] != "shared":
        raise Forbidden(words.format(row["id"]))


async def add(image: Image, row: Row, member_id: str) -> Row:
    """Offer the image to a project; raises Conflict for one that has it already."""
    now = clock.now()
    member: Row = {
        "image_id": row["id"], "member_id": member_id, "status": "pending", "created_at": now, "updated_at": now,
    }  # fmt: skip

    async def body(tx: Transaction) -> None:
        counted = await tx.first(select(func.count().label("n")).where(members.c.image_id == row["id"]))
        assert counted is not None
        if 0 <= image.config.member_quota <= counted["n"]:
            raise TooLarge(f"Image member limit exceeded for image {row['id']}")
        try:
            await tx.insert(members, member)
        except Duplicate:
            raise Conflict(f"Member {member_id} is duplicated for image {row['id']}") from None

    await image.database.run(body)
    return member


async def list_members(image: Image, caller: Context, row: Row) -> list[Row]:
    """All members for the owner and admin, the caller's own membership for a member."""
    condition = members.c.image_id == row["id"]
    if not caller.is_admin and row["owner"] != caller.project_id:
        condition &= members.c.member_id == caller.project_id
    return await image.database.all(select(members).where(condition).order_by(members.c.created_at))


async def member_of(image: Image, caller: Context, row: Row, member_id: str) -> Row:
    """One membership that the caller may see; raises NotFound."""
    for member in await list_members(image, caller, row):
        if member["member_id"] == member_id:
            return member
    raise NotFound(f"{member_id} not found in the member list of the image {row['id']}.")


async def answer(image: Image, member: Row, status: str) -> Row:
    """Set what the member made of the offer."""
    now = clock.now()
    key = (members.c.image_id == member["image_id"]) & (members.c.member_id == member["member_id"])
    if not await image.database.run(
        lambda tx: tx.run(members.update().where(key).values(status=status, updated_at=now))
    ):
        raise NotFound(f"{member['member_id']} not found in the member list of the image {member['image_id']}.")
    return {**member, "status": status, "updated_at": now}


async def remove(image: Image, row: Row, member_id: str) -> None:
    """Take the offer back; raises NotFound."""
    key = (members.c.image_id == row["id"]) & (members.c.member_id == member_id)
    if not await image.database.run(lambda tx: tx.run(delete(members).where(key))):
        raise NotFound(f"{member_id} not found in the member list of the image {row['id']}.")
