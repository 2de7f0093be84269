# SPDX-License-Identifier: Apache-2.0
"""`cumulet messages`: a message that nobody could work on is found by who looks for it, and by nobody else."""

from __future__ import annotations

import asyncio
import json

import msgspec

from cumulet.kernel.bus import Method
from tests.services.cli.conftest import Served


class Odd(msgspec.Struct):
    word: str


NOBODYS = Method("insight.events", "dance", Odd, type(None))


def test_messages_that_were_set_aside(cloud: Served) -> None:
    assert cloud.said("messages") == "No message was set aside.\n"

    async def send() -> None:
        await cloud.cloud.bus.cast(NOBODYS, Odd("x\x1b[31m"))

    asyncio.run_coroutine_threadsafe(send(), cloud.loop).result(30)
    for _ in range(600):
        if told := json.loads(cloud.said("messages", "--json")):
            break
    (one,) = told
    assert (one["component"], one["method"], one["reason"]) == ("insight", "dance", "No method dance.")
    said = cloud.said("messages", "-n", "1")
    assert "insight on node-1: dance" in said
    assert "\x1b" not in said
    refused = cloud.run("messages", cloud="cumulet-alt")
    assert (refused.exit_code, "403" in refused.output) == (1, True)
