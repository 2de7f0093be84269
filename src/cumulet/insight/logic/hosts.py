# SPDX-License-Identifier: Apache-2.0
"""Hosts with credentials of their own: how one joins, is told about itself, and is removed.

Invariants: a join token is claimed by one host, once, before it expires; only
hashes of tokens and claims are stored. A host's passwords are derived from its
claim (a secret that the host itself chose) and the cloud's own, so every step
is an ensure: a join or a removal that was cut off is finished by repeating it,
and a join that nobody repeats is undone when its token expires. Whether a host
may change its state is decided in the transaction that changes it.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import select

from cumulet.insight.logic.credentials import Credentials
from cumulet.insight.logic.records import Records, refused
from cumulet.insight.logic.throttle import Throttle
from cumulet.insight.models import HOSTS, JOIN_TOKENS, PROCESSES
from cumulet.kernel import clock, ids
from cumulet.kernel.db import Database, Row, Transaction
from cumulet.kernel.errors import Conflict, Fault, Forbidden, NotFound
from cumulet.kernel.hostnames import checked_host

_log = logging.getLogger(__name__)
JOINING, JOINED, REMOVING, REMOVED = "joining", "joined", "removing", "removed"
WRONG: Final = "This join token is not good here: it is unknown, was used, has expired, or is for another host."
_PREFIX: Final = "join-"
"""So that no token looks like an option on the command line."""
_KEPT = 30 * 86_400.0
"""Seconds for which a removed host can still be told that it was removed."""
_AGAIN = 1.0
"""Seconds after which a message that a host sent before it was cut off is surely over."""


def digest(secret: str) -> str:
    """What is kept of a secret with much entropy."""
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass
class Hosts:
    """The hosts of the cloud."""

    database: Database
    credentials: Credentials
    records: Records
    throttle: Throttle = field(default_factory=lambda: Throttle(20))

    # ---- joining

    async def new_token(self, *, host: str | None, seconds: float, by: str | None) -> Row:
        """A join token, shown this once; ``host``: only for a host of this name, even one that is there already."""
        self.credentials.check()
        token, now = _PREFIX + ids.new_secret(32), clock.now()
        row = {
            "hash": digest(token), "host": checked_host(host) if host else None, "created_at": now,
            "created_by": by or "", "expires_at": now + seconds, "claim": None, "claimed_by": None, "claimed_at": None,
        }  # fmt: skip

        async def body(tx: Transaction) -> None:
            await tx.insert(JOIN_TOKENS, row)

        await self.database.run(body)
        return {"token": token, "host": row["host"], "expires_at": row["expires_at"]}

    async def join(self, *, token: str, host: str, claim: str, remote: str, cloud: str | None = None) -> dict[str, Any]:
        """Make ``host`` a host of this cloud; returns all that it needs to know.

        ``claim`` is a secret that the host chose: with it, the same host may repeat a join whose answer was lost.
        ``cloud``: the cloud that the machine's data directory belongs to, if it does to one. Raises Forbidden for any
        token that is not good, Conflict for the name of a host that is there already, and for another cloud's machine.
        """
        self.throttle.check(remote)
        self.credentials.check()
        host, claimed = checked_host(host), digest(claim)
        known = await self._good(token, host, claimed)
        if known is None:
            self.throttle.refused(remote)
            raise Forbidden(WRONG)
        if cloud is not None and cloud != self.credentials.cloud:
            raise Conflict("The data directory of this machine belongs to another cloud; choose another with --data.")
        if known["host"] is None and known["claim"] is None:
            await self._ensure_new(host)
        if not await self.database.run(lambda tx: self._claim(tx, token, host, claimed)):
            self.throttle.refused(remote)
            raise Forbidden(WRONG)
        told = await self.credentials.ensure(host, claimed)

        async def done(tx: Transaction) -> int:
            mine = (HOSTS.c.name == host) & (HOSTS.c.claim == claimed) & HOSTS.c.state.in_([JOINING, JOINED])
            return await tx.run(HOSTS.update().where(mine).values(state=JOINED, changed_at=clock.now()))

        if not await self.database.run(done):
            await self._put_right(host)
            raise Conflict(f"Host {host} was removed, or joined again, while it joined.")
        _log.info("host %s joined", host)
        return told

    async def _good(self, token: str, host: str, claimed: str, reader: Any = None) -> Row | None:
        """The token's row, when this host may use it. The same work whatever is wrong: one look by the hash."""
        row: Row | None = await (reader or self.database).first(
            select(JOIN_TOKENS).where(JOIN_TOKENS.c.hash == digest(token))
        )
        good = (
            row is not None
            and row["expires_at"] > clock.now()
            and row["host"] in (None, host)
            and (row["claim"] is None or (row["claim"], row["claimed_by"]) == (claimed, host))
        )
        return row if good else None

    async def _ensure_new(self, host: str) -> None:
        """Raise Conflict for the name of a host that is there: a token for any host gives nobody another's place.

        This look finds those with shared credentials, too; `_claim` decides about those with their own.
        """
        row = await self.database.first(select(HOSTS).where(HOSTS.c.name == host, HOSTS.c.state != REMOVED))
        if row is not None or await self.records.is_known(host):
            raise _taken(host)

    async def _claim(self, tx: Transaction, token: str, host: str, claimed: str) -> bool:
        """The token is this host's, and the name too; False for a token that is not good, Conflict for the name."""
        row = await self._good(token, host, claimed, tx)
        if row is None:
            return False
        now = clock.now()
        before = await tx.first(select(HOSTS).where(HOSTS.c.name == host))
        values = {"claim": claimed, "state": JOINING, "changed_at": now, "until": row["expires_at"], "node": None}
        if before is None:
            await tx.insert(HOSTS, {"name": host, "created_at": now, **values})
        elif before["state"] == REMOVING:
            raise Conflict(f"Host {host} is just being removed; try again in a minute.")
        elif before["state"] != REMOVED and before["claim"] != claimed and row["host"] is None:
            raise _taken(host)
        elif before["claim"] != claimed or before["state"] == REMOVED:
            await tx.run(HOSTS.update().where(HOSTS.c.name == host).values(**values))
        if row["claim"] is None:
            mine = JOIN_TOKENS.c.hash == row["hash"]
            await tx.run(JOIN_TOKENS.update().where(mine).values(claim=claimed, claimed_by=host, claimed_at=now))
        return True

    async def _put_right(self, host: str) -> None:
        """After a join that came too late: the credentials are those of the host that is there, or there are none."""
        row = await self.database.first(select(HOSTS).where(HOSTS.c.name == host))
        if row is not None and row["state"] in (JOINING, JOINED):
            await self.credentials.ensure(host, row["claim"])
        else:
            await self.credentials.drop(host)

    async def standing(self, *, host: str, claim: str, remote: str) -> str:
        """What became of the host that proves itself by its claim: joined or removed. Raises Forbidden."""
        self.throttle.check(remote)
        mine = select(HOSTS).where(HOSTS.c.name == host, HOSTS.c.claim == digest(claim))
        row = await self.database.first(mine)
        if row is None:
            self.throttle.refused(remote)
            raise Forbidden("This is no host of this cloud.")
        return JOINED if row["state"] in (JOINING, JOINED) else REMOVED

    # ---- looking

    async def listed(self) -> list[dict[str, Any]]:
        """All hosts, with their own credentials or with shared ones, and whether they take anything new."""
        rows = await self.database.all(select(HOSTS).where(HOSTS.c.state != REMOVED))
        own = {row["name"]: row for row in rows}
        services = {one["host"]: one for one in await self.records.computes()}
        agents = {one["host"]: one for one in await self.records.agents()}
        return [
            _shown(name, own.get(name), services.get(name), agents.get(name))
            for name in sorted({*own, *services, *agents})
        ]

    # ---- maintenance

    async def maintain(self, host: str, *, on: bool, reason: str | None) -> dict[str, Any]:
        """Have nothing new put on the host, or again. Raises NotFound."""
        host = checked_host(host)
        if not await self.records.is_known(host):
            raise NotFound(f"There is no host {host}.")
        if on:
            await self.records.take_no_more(host, reason)
        else:
            await self.records.take_again(host)
        return next(one for one in await self.listed() if one["name"] == host)

    # ---- removal

    async def remove(self, host: str) -> None:
        """Have nothing of the host left in the cloud. Raises NotFound, and Conflict while it is used."""
        host = checked_host(host)
        row = await self.database.first(select(HOSTS).where(HOSTS.c.name == host, HOSTS.c.state != REMOVED))
        if row is None and not await self.records.is_known(host):
            raise NotFound(f"There is no host {host}.")
        if row is None and await self._lives(host):
            raise Conflict(
                f"Host {host} lives with the controllers' credentials, so it can't be cut off: end its agents first."
            )
        if there := await self.records.on_it(host):
            raise refused(host, there)
        open_before = any(one["status"] == "enabled" for one in await self.records.computes(host))
        await self.records.take_no_more(host, "is being removed")
        if there := await self.records.on_it(host):  # something was on its way
            if open_before:
                await self.records.take_again(host)
            raise refused(host, there)
        node = await self.records.node(host)

        async def begin(tx: Transaction) -> bool:
            there = await tx.first(select(HOSTS).where(HOSTS.c.name == host, HOSTS.c.state != REMOVED))
            if (there or {}).get("claim") != (row or {}).get("claim"):
                return False
            values = {"state": REMOVING, "changed_at": clock.now(), **({"node": node} if node else {})}
            await tx.run(HOSTS.update().where(HOSTS.c.name == host, HOSTS.c.state != REMOVED).values(**values))
            return True

        if not await self.database.run(begin):
            if open_before:
                await self.records.take_again(host)
            raise Conflict(f"Host {host} joined again meanwhile, or was removed; look again.")
        try:
            await self._finish(host, node or (row or {}).get("node"), own=row is not None)
        except Conflict as fault:
            await self._keep_after_all(host, row, open_before)
            raise refused(host, fault.message) from None

    async def _keep_after_all(self, host: str, row: Row | None, open_before: bool) -> None:
        """Something came to the host at the last moment: it stays, with the credentials that it had."""
        if row is not None:

            async def back(tx: Transaction) -> None:
                mine = (HOSTS.c.name == host) & (HOSTS.c.state == REMOVING) & (HOSTS.c.claim == row["claim"])
                await tx.run(HOSTS.update().where(mine).values(state=JOINED, changed_at=clock.now()))

            await self.credentials.ensure(host, row["claim"])
            await self.database.run(back)
        if open_before:
            await self.records.take_again(host)

    async def _finish(self, host: str, node: str | None, *, own: bool) -> None:
        """Cut the host off, then forget it, until nothing that it said before brings it back."""
        if own:
            await self.credentials.cut_off(host)
        await self.records.forget(host, node)
        await clock.sleep(_AGAIN)
        await self.records.forget(host, node)
        if own:
            await self.credentials.drop(host)

        async def body(tx: Transaction) -> None:
            mine = (HOSTS.c.name == host) & (HOSTS.c.state == REMOVING)
            await tx.run(HOSTS.update().where(mine).values(state=REMOVED, changed_at=clock.now(), node=None))
            await tx.run(PROCESSES.delete().where(PROCESSES.c.host == host, PROCESSES.c.seen_at < clock.now()))

        await self.database.run(body)
        _log.info("host %s was removed", host)

    async def _lives(self, host: str) -> bool:
        services = [one["state"] == "up" for one in await self.records.computes(host)]
        return any([*services, *(one["alive"] for one in await self.records.agents(host))])

    # ---- what was cut off

    async def sweep(self) -> None:
        """Finish removals that were cut off, undo joins that nobody finished, forget what is long over."""
        now = clock.now()
        ended = (HOSTS.c.state == JOINING) & (HOSTS.c.until < now)
        for row in await self.database.all(select(HOSTS).where(ended | (HOSTS.c.state == REMOVING))):
            if row["state"] == REMOVING and row["changed_at"] > now - 60:
                continue  # somebody is at it
            try:
                await self._end(row)
            except Fault as fault:
                _log.warning("host %s can't be forgotten yet: %s", row["name"], fault.message)

        async def body(tx: Transaction) -> None:
            await tx.run(JOIN_TOKENS.delete().where(JOIN_TOKENS.c.expires_at < now - _KEPT))
            await tx.run(HOSTS.delete().where(HOSTS.c.state == REMOVED, HOSTS.c.changed_at < now - _KEPT))

        await self.database.run(body, durable=False)

    async def _end(self, row: Row) -> None:
        """Finish what one host's row says, unless somebody has taken it up since it was read."""
        if row["state"] == JOINING and await self.records.is_known(row["name"]):
            await self._turn(row, JOINED)  # a host that was to join again is one all the same: it may do so later
        elif await self._turn(row, REMOVING):
            try:
                await self._finish(row["name"], row["node"], own=True)
            except Conflict as fault:
                _log.warning("host %s is not removed after all: %s", row["name"], fault.message)
                await self._keep_after_all(row["name"], row, False)

    async def _turn(self, row: Row, state: str) -> bool:
        """Set a host's state; False when it is no longer as it was read."""
        as_read = [HOSTS.c[name] == row[name] for name in ("name", "claim", "state", "changed_at")]

        async def body(tx: Transaction) -> bool:
            return bool(await tx.run(HOSTS.update().where(*as_read).values(state=state, changed_at=clock.now())))

        return await self.database.run(body)


def _taken(host: str) -> Conflict:
    return Conflict(
        f"A host named {host} is in this cloud already. If this machine is that host, let it join again with a "
        f"token of its own (cumulet host token --for {host}); else give it another name (--name)."
    )


def _shown(name: str, own: Row | None, service: Any, agent: Any) -> dict[str, Any]:
    up = [service["state"] == "up"] if service else []
    up += [agent["alive"]] if agent else []
    closed = service is not None and service["status"] == "disabled"
    return {
        "name": name,
        "state": own["state"] if own else JOINED,
        "credentials": "own" if own else "shared",
        "joined_at": clock.iso_micro_z(own["created_at"]) if own else None,
        "alive": bool(up) and all(up),
        "maintenance": closed,
        "reason": service["disabled_reason"] if closed else None,
    }
