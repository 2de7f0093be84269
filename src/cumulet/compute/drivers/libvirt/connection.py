# SPDX-License-Identifier: Apache-2.0
"""The one way to libvirt: calls on a pool of their own, events on one thread, a connection that comes back.

Invariants: nothing here blocks the loop; a libvirtd that hangs costs a few
threads and then an error at the deadline, never the process; two calls for one
guest never overlap, not even when the caller of the first gave up; a callback
on the event thread does nothing but hand over to the loop.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import libvirt

from cumulet.compute.drivers.model import HypervisorError
from cumulet.kernel import clock
from cumulet.kernel.pools import Pool

T = TypeVar("T")
log = logging.getLogger(__name__)

_KEEPALIVE = (5, 3)  # ask after 5 silent seconds, give the connection up after 3 unanswered questions
_OPEN_SECONDS = 5.0
_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)

_event_thread: threading.Thread | None = None
_event_lock = threading.Lock()


def _start_event_thread() -> None:
    """libvirt has one event loop per process; it must run before the first connection opens."""

    def turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    global _event_thread
    with _event_lock:
        if _event_thread is None:
            libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are raised; stderr is not a log
            libvirt.virEventRegisterDefaultImpl()
            _event_thread = threading.Thread(target=turn, name="libvirt-events", daemon=True)
            _event_thread.start()


def reason(error: Exception) -> str:
    """What libvirt said in words fit for a server's fault: one line, no paths, no command lines."""
    text = str(error).splitlines()[0] if str(error) else "no reason given"
    text = re.sub(r"\{.*\}", "", text)
    text = re.sub(r"(?<![\w.])/[^\s'\",:;)]+", "(path)", text)
    return re.sub(r"\s+", " ", text)[:300]


class Connection:
    """Opens ``uri`` when needed and again when it was lost."""

    def __init__(
        self,
        uri: str,
        *,
        on_power: Callable[[str], None],
        on_unplugged: Callable[[str], None],
        on_back: Callable[[], Awaitable[None]],
        revive: Callable[[], Awaitable[object]] | None = None,
        answer_within: float = 30.0,
        threads: int = 8,
    ) -> None:
        """``on_power`` and ``on_unplugged`` get a domain's UUID, ``on_back`` runs after a lost connection is back.

        ``revive`` is awaited before each try to come back (it may start the daemon again). All run on the loop.
        ``answer_within``: seconds that an ordinary call may take.
        """
        self._uri = uri
        self._on_power = on_power
        self._on_unplugged = on_unplugged
        self._on_back = on_back
        self._revive = revive
        self._threads = threads
        self._answer_within = answer_within
        self._conn: libvirt.virConnect | None = None
        self._opening = threading.Lock()
        self._inside: set[object] = set()
        """Calls that threads are carrying out, abandoned ones among them."""
        self._guests: dict[str, threading.Lock] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._comeback: asyncio.Task[None] | None = None
        self._pool: Pool | None = None
        self._closing = False

    async def open(self) -> None:
        """Connect; raises HypervisorError."""
        self._loop = asyncio.get_running_loop()
        self._pool = Pool("libvirt", self._threads)
        self._closing = False
        await self.call(lambda conn: conn.getLibVersion())

    async def close(self) -> None:
        """Let go of the connection; guests go on running."""
        self._closing = True
        if self._comeback is not None:
            self._comeback.cancel()
        if self._pool is None:
            return
        conn, self._conn = self._conn, None
        # libvirt frees a closed connection at once, also under the feet of a call that hangs in it.
        if conn is not None and not self._inside:
            try:
                await self._pool.run(self._shut, conn, timeout=5)
            except Exception as error:
                log.warning("libvirt connection did not close: %s", reason(error))
        self._pool.close()
        self._pool = None

    async def call(self, fn: Callable[[Any], T], *, guest: str | None = None, within: float = 0) -> T:
        """Run ``fn(connection)`` on the pool; calls with the same ``guest`` run one after the other.

        Raises HypervisorError after ``within`` seconds (0: the ordinary time) or with libvirt's reason.
        """
        within = within or self._answer_within
        if self._pool is None:
            raise HypervisorError("the hypervisor driver is not open")
        lock = self._guests.setdefault(guest, threading.Lock()) if guest else None

        def run() -> T:
            if lock is not None and not lock.acquire(timeout=within):
                raise HypervisorError("an earlier request for this server is still being carried out")
            me = object()
            self._inside.add(me)
            try:
                return fn(self._connect())
            finally:
                self._inside.discard(me)
                if lock is not None:
                    lock.release()

        try:
            return await self._pool.run(run, timeout=within)
        except TimeoutError:
            raise HypervisorError(f"the hypervisor did not answer within {within:g} seconds") from None
        except libvirt.libvirtError as error:
            log.info("libvirt refused: %s", error)
            raise HypervisorError(f"the hypervisor refused: {reason(error)}") from error

    async def work(self, fn: Callable[[], T], *, within: float = 30.0) -> T:
        """Run a short piece of file work on the same pool."""
        if self._pool is None:
            raise HypervisorError("the hypervisor driver is not open")
        try:
            return await self._pool.run(fn, timeout=within)
        except TimeoutError:
            raise HypervisorError(f"the host's disk did not answer within {within:g} seconds") from None

    def forget(self, guest: str) -> None:
        """The guest is gone for good; nobody waits for its calls any more."""
        lock = self._guests.get(guest)
        if lock is not None and not lock.locked():
            del self._guests[guest]

    # -- on pool threads --------------------------------------------------------------------

    def _connect(self) -> libvirt.virConnect:
        if not self._opening.acquire(timeout=_OPEN_SECONDS):
            raise HypervisorError("libvirtd takes connections but does not answer")
        try:
            if self._conn is not None and self._conn.isAlive():
                return self._conn
            if self._closing:
                raise HypervisorError("the hypervisor driver is being closed")
            _start_event_thread()
            conn = libvirt.open(self._uri)
            conn.setKeepAlive(*_KEEPALIVE)
            conn.registerCloseCallback(lambda _conn, why, _opaque: self._hand_over(self._lost, why), None)
            events = (
                (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_power),
                (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._on_unplugged),
            )
            for event, handler in events:
                conn.domainEventRegisterAny(None, event, self._callback(handler), None)
            self._conn = conn
            return conn
        finally:
            self._opening.release()

    @staticmethod
    def _shut(conn: libvirt.virConnect) -> None:
        conn.unregisterCloseCallback()
        conn.close()

    # -- on the event thread ------------------------------------------------------------------

    def _callback(self, handler: Callable[[str], None]) -> Callable[..., None]:
        def callback(_conn: object, domain: libvirt.virDomain, *_details: object) -> None:
            self._hand_over(handler, domain.UUIDString())

        return callback

    def _hand_over(self, handler: Callable[..., None], *args: object) -> None:
        if self._loop is None or self._closing:
            return
        try:
            self._loop.call_soon_threadsafe(handler, *args)
        except RuntimeError:
            pass  # the loop has closed; nobody listens any more

    # -- on the loop ----------------------------------------------------------------------------

    def _lost(self, why: int) -> None:
        if self._closing or (self._comeback is not None and not self._comeback.done()):
            return
        log.warning("libvirt connection lost (reason %d)", why)
        self._comeback = asyncio.get_running_loop().create_task(self._come_back())

    async def _come_back(self) -> None:
        waits = iter(_RETRY_SECONDS)
        while True:
            try:
                if self._revive is not None:
                    await self._revive()
                await self.call(lambda conn: conn.getLibVersion(), within=10)
                log.warning("libvirt connection is back")
                return await self._on_back()
            except Exception as error:
                log.warning("libvirt is still away: %s", reason(error))
                await clock.sleep(next(waits, _RETRY_SECONDS[-1]))
