# SPDX-License-Identifier: Apache-2.0
"""The users of a storm, and what they were promised. Nothing is taken for granted: any request may go unanswered."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from cumulet.cli.chaos.scenarios import Site


@dataclass
class Promises:
    """What was asked for, and what of it was accepted: that must be there in the end, or gone."""

    begun: dict[str, int] = field(default_factory=dict)
    """Operations that were asked for, by name; those that were accepted as ``<name> ok``."""
    ended: dict[str, int] = field(default_factory=dict)
    """How servers ended."""
    made: set[str] = field(default_factory=set)
    """Paths of what was accepted."""
    deleted: set[str] = field(default_factory=set)
    """Paths of what was accepted to be deleted."""

    def count(self, what: str, good: bool = False) -> None:
        """Count a request, or, ``good``, one that was accepted."""
        name = f"{what} ok" if good else what
        self.begun[name] = self.begun.get(name, 0) + 1

    def accepted(self, what: str, path: str, good: bool) -> bool:
        """Note an answer: what was accepted is a promise."""
        self.count(what, good)
        deletes = what.startswith("delete")
        if good:
            (self.deleted if deletes else self.made).add(path)
        elif deletes:
            self.made.discard(path)  # nobody knows whether it was heard
        return good


async def work(site: Site, said: Promises, dice: random.Random, over: asyncio.Event) -> None:
    """One user: a server with more or less around it, again and again. Nothing is taken for granted."""
    while not over.is_set():
        try:
            await _one_life(site, said, dice)
        except (RuntimeError, KeyError, TypeError, LookupError) as error:
            said.count(f"given up: {type(error).__name__}")
        await asyncio.sleep(dice.uniform(0.05, 0.4))


async def _one_life(site: Site, said: Promises, dice: random.Random) -> None:
    volume = await make_volume(site, said) if dice.random() < 0.75 else None
    at_boot = volume is not None and dice.random() < 0.35
    item = {"volume": volume} if volume is not None and at_boot else {}
    if dice.random() < 0.25:
        item["root"] = "volume"
    reply = await site.post_server(item)
    if not said.accepted("create server", f"/compute/v2.1/servers/{id_of(reply, 'server')}", reply.good):
        return
    server = str(id_of(reply, "server"))
    path = f"/compute/v2.1/servers/{server}"
    if dice.random() < 0.15:
        await asyncio.sleep(dice.uniform(0.0, 0.5))  # deleted while it is built
    else:
        status = await site.user.until(path, "server", ["ACTIVE", "ERROR", "gone"], 120)
        said.ended[status] = said.ended.get(status, 0) + 1
        if status == "ACTIVE":
            await _use(site, said, dice, server, None if at_boot else volume)
    if dice.random() < 0.9:
        reply = await site.user.ask("DELETE", path)
        said.accepted("delete server", path, reply.status == 204)


async def _use(site: Site, said: Promises, dice: random.Random, server: str, volume: str | None) -> None:
    """Attach, associate, and take it back, each with a good chance."""
    if volume is not None:
        item = {"server": server, "volume": volume}
        reply = await site.attach(item)
        said.count("attach", reply.good)
        if dice.random() < 0.7:
            await site.user.until(f"/volume/v3/volumes/{volume}", "volume", ["in-use", "gone"], 30)
            gone = await site.user.ask("DELETE", f"/compute/v2.1/servers/{server}/os-volume_attachments/{volume}")
            said.count("detach", gone.good)
    if dice.random() < 0.5:
        floating, port = await site.floating(), await site.first_port(server)
        item = {"floating": floating}
        reply = await site.lead(item, port)
        said.count("associate", reply.good)
        if dice.random() < 0.5:
            reply = await site.lead(item, None)
            said.count("disassociate", reply.good)
        path = f"/network/v2.0/floatingips/{floating}"
        reply = await site.user.ask("DELETE", path)
        said.accepted("delete floating IP", path, reply.good)


async def make_volume(site: Site, said: Promises) -> str | None:
    """A volume that is available; None when it was refused or is not."""
    reply = await site.user.ask("POST", "/volume/v3/volumes", {"volume": {"size": 1}})
    path = f"/volume/v3/volumes/{id_of(reply, 'volume')}"
    if not said.accepted("create volume", path, reply.good):
        return None
    status = await site.user.until(path, "volume", ["available", "error", "gone"], 60)
    return str(id_of(reply, "volume")) if status == "available" else None


def id_of(reply: Any, key: str) -> Any:
    """The id of what an answer tells of; None in one that is not good."""
    return reply.json[key]["id"] if reply.good and reply.json else None
