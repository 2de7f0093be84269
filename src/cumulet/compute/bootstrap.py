# SPDX-License-Identifier: Apache-2.0
"""What a new cloud holds of compute: the traditional flavors. An *ensure*; it runs at each start."""

from __future__ import annotations

from typing import Final

from sqlalchemy import select

from cumulet.compute.logic import Compute
from cumulet.compute.models import FLAVORS
from cumulet.kernel import clock
from cumulet.kernel.db import Transaction

TRADITIONAL: Final = (
    # id    name         vcpus  ram    disk
    ("42", "m1.nano", 1, 128, 1),
    ("84", "m1.micro", 1, 192, 1),
    ("1", "m1.tiny", 1, 512, 1),
    ("2", "m1.small", 1, 2048, 20),
    ("3", "m1.medium", 2, 4096, 40),
    ("4", "m1.large", 4, 8192, 80),
    ("5", "m1.xlarge", 8, 16384, 160),
)
"""RAM in MiB, disk in GiB."""


async def bootstrap(compute: Compute) -> None:
    """Make the traditional flavors in a cloud that has none; later the list is the operator's."""

    async def body(tx: Transaction) -> None:
        if await tx.first(select(FLAVORS.c.id).limit(1)) is not None:
            return
        for flavor_id, name, vcpus, ram, disk in TRADITIONAL:
            values = {"id": flavor_id, "name": name, "vcpus": vcpus, "ram": ram, "disk": disk}
            await tx.insert(FLAVORS, {**values, "created_at": clock.now()})

    await compute.db.run(body)
