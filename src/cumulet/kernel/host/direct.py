# SPDX-License-Identifier: Apache-2.0
"""Operations carried out in this process: for tests run as root and for clouds that need no privilege.

Values are encoded and decoded as on the real channel, so what works here works there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from cumulet.kernel.host.model import Fds, Operations, name_of, perform, returns
from cumulet.kernel.pools import Pool

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R")


class DirectHost:
    """A ``Host`` without a parent: the same allow-list, on threads of ``pool``."""

    def __init__(self, operations: Operations, pool: Pool | None = None) -> None:
        self._operations = operations
        self._pool = pool or Pool("host", 2)

    async def call(self, operation: Callable[[P], R], params: P, *, timeout: float = 30.0) -> R:
        value, _ = await self._perform(operation, params, timeout)
        result: R = msgspec.msgpack.decode(value, type=returns(operation))
        return result

    async def call_fd(self, operation: Callable[[P], Fds], params: P, *, timeout: float = 30.0) -> Fds:
        _, fds = await self._perform(operation, params, timeout)
        return Fds(fds)

    async def _perform(self, operation: Callable[..., object], params: P, timeout: float) -> tuple[bytes, list[int]]:
        raw = msgspec.msgpack.encode(params)
        return await self._pool.run(perform, self._operations, name_of(operation), raw, timeout=timeout)

    def close(self) -> None:
        self._pool.close()
