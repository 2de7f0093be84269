# SPDX-License-Identifier: Apache-2.0
"""Flow events: what happened to one server, step by step, cheap enough to be always on.

An event names its step, never a resource; `insight` knows what the names mean.
Events of a request that does not know its server yet wait in the request's own
trace and are filed once it is bound. A process appends to a small buffer that
a loop casts away in batches: when the receiver is slow or down the flow does
not wait, the oldest events are dropped and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cumulet.kernel import clock, context

_ATTEMPT_DIGITS = 9
"""Longer numbers of attempts are nobody's."""


class Event(msgspec.Struct):
    """One step of one flow, as it travels to insight."""

    subject: str
    """The server's id, or the audit id of a token for what happened before there was a server."""
    name: str
    component: str
    host: str
    attempt: int
    started_at: float
    duration_ms: float
    request_id: str
    detail: dict[str, Any] = {}
    skipped: str | None = None
    error: str | None = None


@dataclass
class Trace:
    """The flow that the running task belongs to."""

    component: str
    host: str
    subject: str | None = None
    attempt: int = 1
    waiting: list[Event] = field(default_factory=list)

    def bind(self, subject: str, *others: str) -> None:
        """From here on this task works for ``subject``; what it recorded so far is filed under it.

        ``others`` came of the same request: its events are filed under each of them too.
        """
        self.subject = subject
        for event in self.waiting:
            for one in (subject, *others):
                _emit(msgspec.structs.replace(event, subject=one))
        self.waiting.clear()


class Buffer:
    """This process's events on their way to insight; full means the oldest go."""

    def __init__(self, size: int = 10_000) -> None:
        self._events: deque[Event] = deque(maxlen=size)
        self.dropped = 0
        self.wake: Callable[[], None] = lambda: None

    def append(self, event: Event) -> None:
        if len(self._events) == self._events.maxlen:
            self.dropped += 1
        self._events.append(event)
        self.wake()

    async def flush(self, send: Callable[[list[Event]], Awaitable[None]], batch: int = 500) -> None:
        """Hand all buffered events to ``send`` in batches; a batch that can't be sent stays."""
        while self._events:
            events = [self._events.popleft() for _ in range(min(batch, len(self._events)))]
            try:
                await send(events)
            except Exception:
                self._events.extendleft(reversed(events))
                raise


_trace: ContextVar[Trace | None] = ContextVar("trace", default=None)
_buffer: ContextVar[Buffer | None] = ContextVar("trace_buffer", default=None)


def use(trace: Trace | None) -> None:
    _trace.set(trace)


def use_buffer(buffer: Buffer) -> None:
    """Send the events of the current context, and of tasks started from it, to ``buffer``."""
    _buffer.set(buffer)


def current() -> Trace | None:
    return _trace.get()


def _emit(event: Event) -> None:
    if (buffer := _buffer.get()) is not None:
        buffer.append(event)


def record(
    name: str,
    *,
    started: float | None = None,
    duration_ms: float = 0.0,
    detail: dict[str, Any] | None = None,
    skipped: str | None = None,
    error: str | None = None,
    subject: str | None = None,
) -> None:
    """Record one event of the running task's flow (a task without one records nothing).

    ``started`` is in seconds since the epoch and defaults to now.
    """
    trace = _trace.get()
    if trace is None:
        return
    caller = context.current()
    event = Event(
        subject=subject or trace.subject or "",
        name=name,
        component=trace.component,
        host=trace.host,
        attempt=trace.attempt,
        started_at=clock.now() if started is None else started,
        duration_ms=round(duration_ms, 3),
        request_id=caller.trace_id if caller else "",
        detail=detail or {},
        skipped=skipped,
        error=error,
    )
    if event.subject:
        _emit(event)
    else:
        trace.waiting.append(event)


@contextmanager
def step(name: str, **detail: Any) -> Iterator[dict[str, Any]]:
    """Record the enclosed work as one event with its duration; an exception is recorded and goes on.

    Yields the event's detail, which the enclosed work may fill.
    """
    started, tick = clock.now(), clock.monotonic()
    try:
        yield detail
    except Exception as error:
        text = str(error) or type(error).__name__
        record(name, started=started, duration_ms=(clock.monotonic() - tick) * 1000, detail=detail, error=text[:500])
        raise
    record(name, started=started, duration_ms=(clock.monotonic() - tick) * 1000, detail=detail)


def baggage() -> dict[str, str]:
    """What crosses a process border with a call: the flow's subject and attempt."""
    trace = _trace.get()
    if trace is None or trace.subject is None:
        return {}
    return {"subject": trace.subject, "attempt": str(trace.attempt)}


def resume(component: str, host: str, carried: dict[str, str]) -> Trace:
    """Make the flow that came with a message or request the running task's own."""
    attempt = carried.get("attempt", "1")
    number = int(attempt) if attempt.isdecimal() and len(attempt) <= _ATTEMPT_DIGITS else 1
    trace = Trace(component, host, carried.get("subject"), number)
    _trace.set(trace)
    return trace
