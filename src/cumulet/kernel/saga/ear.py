# SPDX-License-Identifier: Apache-2.0
"""Pokes between the processes of a service: who starts a saga, or hears of its end, is often not who runs it.

A poke that is lost costs a second, never a saga: the engines look by themselves.
"""

from __future__ import annotations

import asyncio

import msgspec

from cumulet.kernel.bus import Bus, Method, Subscription
from cumulet.kernel.errors import Fault
from cumulet.kernel.saga.engine import SagaEngine


class Poke(msgspec.Struct, frozen=True):
    saga_id: str
    everybody: bool = False
    """All engines are told, since somebody has the saga in work."""


class Ear:
    """The ear of one service's engine (`start`, in processes that run sagas) and its mouth (in all)."""

    def __init__(self, engine: SagaEngine, bus: Bus, service: str, host: str) -> None:
        self._engine, self._bus, self._host = engine, bus, host
        self._method: Method[Poke, None] = Method(f"{service}.sagas", "poke", Poke, type(None))
        self._subscription: Subscription | None = None
        self._sending: set[asyncio.Task[None]] = set()
        engine.tell = self._tell

    async def start(self) -> None:
        self._subscription = await self._bus.subscribe(
            {self._method: self._hear}, component=self._method.topic, host=self._host
        )

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.stop()
            self._subscription = None

    async def _hear(self, poke: Poke) -> None:
        self._engine.hear(poke.saga_id, everybody=poke.everybody)

    def _tell(self, saga_id: str, everybody: bool) -> None:
        task = asyncio.get_running_loop().create_task(self._send(Poke(saga_id, everybody)))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, poke: Poke) -> None:
        try:
            await (self._bus.fanout if poke.everybody else self._bus.cast)(self._method, poke)
        except Fault:
            return
