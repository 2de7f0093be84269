# SPDX-License-Identifier: Apache-2.0
"""Copies of root disks: by QEMU while the guest runs, by qemu-img while it is off.

Invariant: no copy goes on in QEMU that nobody waits for: neither one that was
given up at any moment nor one of a process that died.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from cumulet.compute.drivers.libvirt import guest
from cumulet.compute.drivers.libvirt.connection import Connection
from cumulet.compute.drivers.libvirt.storage import Storage
from cumulet.compute.drivers.model import GuestMissing, HypervisorError
from cumulet.kernel import clock

T = TypeVar("T")
_log = logging.getLogger(__name__)
_SLOWEST = 1.0
"""Seconds between two looks at a copy that QEMU makes."""


class OnDomain(Protocol):
    """Runs a function with a guest's domain, one at a time per guest; raises GuestMissing and HypervisorError."""

    async def __call__(self, key: str, fn: Callable[[Any], T], *, within: float = 0) -> T: ...


class Copies:
    """The copies of one host's guests."""

    def __init__(
        self,
        storage: Storage,
        connection: Connection,
        at_work: Callable[[str], AbstractAsyncContextManager[str]],
        on_domain: OnDomain,
    ) -> None:
        """``at_work``: nobody else does anything with a server's guest meanwhile; yields the guest's key."""
        self._storage, self._connection = storage, connection
        self._at_work, self._on_domain = at_work, on_domain

    async def copy_root(self, server_id: str, target: str) -> str:
        """See ``model.DiskCopies``."""
        async with self._at_work(server_id) as key:
            await self._on_domain(key, guest.end_copy)
            _, root, base = await self._on_domain(key, guest.need_root)
            while not await self._on_domain(key, guest.is_off):
                await self._storage.make_target(target, root)
                if await self._copy_running(key, target):
                    return "qcow2"
                await self._connection.work(lambda: os.unlink(target))  # the guest went off meanwhile
            await self._storage.copy(root, base, target)
            return "qcow2"

    async def _copy_running(self, key: str, target: str) -> bool:
        """Have QEMU copy the disk of a running guest; False when the guest went off before the end."""
        try:
            # given up while it begins, it begins all the same: its end comes after it, one thing at a time per guest
            await self._on_domain(key, lambda domain: guest.begin_copy(domain, target))
            pause = 0.05
            while (whole := await self._on_domain(key, guest.copy_ended)) is None:
                await clock.sleep(pause)
                pause = min(pause * 1.5, _SLOWEST)
        except BaseException:
            await asyncio.shield(self._on_domain(key, guest.end_copy))
            raise
        if not whole and not await self._on_domain(key, guest.is_off):
            raise HypervisorError("the disk of the running guest could not be copied")
        return whole

    async def end_left(self, server_ids: Iterable[str]) -> None:
        """End what a process that died had begun: nobody may ever ask for that copy again."""
        for server_id in server_ids:
            try:
                async with self._at_work(server_id) as key:
                    with contextlib.suppress(GuestMissing):
                        await self._on_domain(key, guest.end_copy)
            except HypervisorError as error:
                _log.warning("whether a copy of %s still goes on is not known: %s", server_id, error)
