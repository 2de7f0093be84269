# SPDX-License-Identifier: Apache-2.0
"""The flow as server-sent events over a real socket: live, resumable, and over when nobody listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cumulet.insight.models import EVENTS
from cumulet.kernel.errors import Unauthorized
from tests.contract.image.lone import ADMIN, DEMO, Lone
from tests.contract.insight.conftest import SERVER, event, flow_of, tell
from tests.contract.insight.serving import served


class Listener:
    """A client of the stream, as far as a browser's EventSource goes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.alive = 0
        self._text = b""

    async def begin(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(head[0].split()[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}

    async def next(self) -> tuple[int, dict[str, Any]]:
        """The next event's id and document; raises EOFError at the end of the stream."""
        while True:
            while b"\n\n" not in self._text:
                size = int(await self._reader.readline(), 16)
                piece = await self._reader.readexactly(size + 2)
                if size == 0:
                    raise EOFError
                self._text += piece[:-2]
            block, _, self._text = self._text.partition(b"\n\n")
            fields = dict(line.split(": ", 1) for line in block.decode().splitlines() if not line.startswith(":"))
            self.alive += block.startswith(b": ")
            if "data" in fields:
                return int(fields["id"]), json.loads(fields["data"])

    async def until(self, name: str) -> tuple[int, dict[str, Any]]:
        while True:
            number, told = await self.next()
            if told["name"] == name:
                return number, told


@asynccontextmanager
async def listening(insight: Lone, token: str = DEMO, after: str | None = None) -> AsyncIterator[Listener]:
    """A client that has its first answer; it goes away when the block ends."""
    app = insight.service.roles[0].app
    async with served(app) as url:
        port = int(url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            resume = f"Last-Event-ID: {after}\r\n" if after is not None else ""
            request = (
                f"GET /v1/servers/{SERVER}/flow/stream HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {token}\r\n{resume}\r\n"
            )
            writer.write(request.encode())
            listener = Listener(reader, writer)
            async with asyncio.timeout(60):
                await listener.begin()
                yield listener
        finally:
            writer.close()


async def test_what_is_known_comes_first_and_then_what_happens(insight: Lone) -> None:
    await tell(insight, event("api.request", 0), event("api.record", 5))
    async with listening(insight, ADMIN) as listener:
        assert listener.status == 200
        assert listener.headers["content-type"] == "text/event-stream"
        assert listener.headers["cache-control"] == "no-cache"
        assert [(await listener.next())[1]["name"] for _ in range(2)] == ["api.request", "api.record"]
        await tell(insight, event("compute.receive", 9))
        _, told = await listener.next()
        assert told == (await flow_of(insight, ADMIN))["events"][2]


async def test_a_step_that_goes_on_is_told_again(insight: Lone) -> None:
    async with listening(insight) as listener:
        await tell(insight, event("image.token.validate", 1, detail={"cached": True}))
        first, told = await listener.next()
        assert "calls" not in told["detail"]
        await tell(insight, event("image.token.validate", 2, detail={"cached": True}))
        second, told = await listener.next()
        assert told["detail"]["calls"] == 2
        assert second > first


async def test_an_interrupted_stream_goes_on(insight: Lone) -> None:
    await tell(insight, event("api.request", 0), event("api.record", 5), event("compute.receive", 6))
    async with listening(insight) as listener:
        await listener.next()
        number, _ = await listener.next()
    async with listening(insight, after=str(number)) as listener:
        _, told = await listener.next()
        assert told["name"] == "compute.receive"


async def test_an_event_that_is_written_late_with_a_smaller_number_is_told(insight: Lone) -> None:
    """As on PostgreSQL, where numbers are given before transactions end."""
    await tell(insight, event("api.request", 0))
    database = insight.service.roles[0].app.service.database
    row = await database.first(EVENTS.select())
    await database.run(lambda tx: tx.run(EVENTS.update().values(id=100)))
    async with listening(insight, ADMIN) as listener:
        assert (await listener.next())[0] == 100
        late = {**row, "id": 50, "name": "compute.receive"}
        await database.run(lambda tx: tx.insert(EVENTS, late))
        await tell(insight, event("api.record", 5))
        assert {(await listener.next())[1]["name"] for _ in range(2)} == {"compute.receive", "api.record"}


@pytest.mark.parametrize("offered", ["x", "-1", "1.5", "9" * 30])
async def test_an_id_that_is_none_is_refused(insight: Lone, offered: str) -> None:
    reply = await insight.request("GET", f"/v1/servers/{SERVER}/flow/stream", headers={"last-event-id": offered})
    assert reply.status == 400
    assert reply.json["error"]["message"] == "Last-Event-ID must be the id of an event of this stream."


async def test_silence_is_filled_with_signs_of_life(insight: Lone) -> None:
    async with listening(insight) as listener:
        waiting = asyncio.create_task(listener.next())
        while listener.alive < 3:
            await asyncio.sleep(0.01)
        await tell(insight, event("compute.receive"))
        assert (await waiting)[1]["name"] == "compute.receive"


async def test_a_listener_that_went_away_is_forgotten(insight: Lone) -> None:
    async with listening(insight) as listener:
        await tell(insight, event("compute.receive"))
        await listener.next()
        assert [len(one.listeners[SERVER]) for one in insight.inners if one.listeners] == [1]
    async with asyncio.timeout(60):
        while any(one.listeners for one in insight.inners):
            await asyncio.sleep(0.01)


async def test_a_token_that_is_revoked_ends_the_stream(insight: Lone, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(insight) as listener:
        await tell(insight, event("compute.receive"))
        await listener.next()

        async def refused(token: str, *, allow_expired: bool = False) -> None:
            raise Unauthorized

        for process in insight.processes:
            monkeypatch.setattr(process.parts.authenticator, "verify", refused)
        with pytest.raises(EOFError):
            await listener.next()


async def test_the_stream_ends_with_the_service(insight: Lone) -> None:
    async with listening(insight) as listener:
        for process in insight.processes:
            await process.service.close()
        with pytest.raises(EOFError):
            await listener.next()


async def test_hosts_are_for_admins_here_too(insight: Lone) -> None:
    async with listening(insight, DEMO) as listener:
        await tell(insight, event("compute.receive", host="rack-7", detail={"host": "rack-7", "at": "rack-7"}))
        _, told = await listener.next()
        assert told["host"] is None
        assert told["detail"] == {"at": "(host)"}
