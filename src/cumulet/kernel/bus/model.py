# SPDX-License-Identifier: Apache-2.0
"""What a message is, and the Protocol that both buses keep."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from cumulet.kernel import clock, context, errors, secrets, trace
from cumulet.kernel.context import Context
from cumulet.kernel.errors import Fault, Forbidden

Q = TypeVar("Q")
R = TypeVar("R")


@dataclass(frozen=True)
class Method(Generic[Q, R]):
    """One rpc method: where it is served, what goes in, what comes out.

    ``topic`` names a role's queue, e.g. ``compute.conductor``; a method of an
    agent is addressed with the host at the call.
    """

    topic: str
    name: str
    request: type[Q]
    reply: type[R]
    version: int = 1


class Envelope(msgspec.Struct):
    """A request on its way."""

    method: str
    version: int
    payload: msgspec.Raw
    caller: Context | None
    baggage: dict[str, str]
    deadline: float
    """Seconds since the epoch after which nobody waits for the answer."""


class Reply(msgspec.Struct):
    """An answer: a payload, or a fault that is raised again where the call was made."""

    payload: msgspec.Raw = msgspec.Raw(b"null")
    status: int = 0
    kind: str = ""
    message: str = ""


class Poison(msgspec.Struct):
    """A message that was set aside because of what it is, with what an operator needs to find its cause."""

    at: float
    """Seconds since the epoch."""
    component: str
    host: str
    """Who could not work on it, and where."""
    sender: str
    """The broker user that sent it; empty in one process."""
    method: str
    """Empty when it can't be read that far."""
    reason: str
    excerpt: str
    """Its beginning, with secrets masked."""


CAST_SECONDS = 60.0
"""How long a message that nobody waits for is worth carrying out."""
POISONS = 1000
"""How many messages are kept aside; the oldest go first."""

Handler = Callable[[Any], Awaitable[Any]]
Handlers = Mapping[Method[Any, Any], Handler]


class Subscription(Protocol):
    async def stop(self) -> None:
        """Take no more messages and wait for those in work."""


class Bus(Protocol):
    async def call(self, method: Method[Q, R], request: Q, *, host: str | None = None, timeout: float = 30.0) -> R:
        """Ask and wait. Raises the handler's Fault, or Unavailable when nobody answers in time (seconds)."""

    async def cast(self, method: Method[Q, Any], request: Q, *, host: str | None = None) -> None:
        """Tell one receiver; nothing is raised when there is none, its queue is full or the broker is away."""

    async def fanout(self, method: Method[Q, Any], request: Q) -> None:
        """Tell every receiver of the topic, on all hosts; as lossy as a cast."""

    async def subscribe(
        self, handlers: Handlers, *, component: str, host: str = "", own_host: bool = False
    ) -> Subscription:
        """Serve methods of one topic (with ``own_host``: those addressed to ``host`` only)."""

    async def poison(self, limit: int = 100) -> list[Poison]:
        """The newest messages that were set aside, oldest first; at most `POISONS` are kept."""

    async def close(self) -> None: ...


_sender: ContextVar[str | None] = ContextVar("sender", default=None)


def set_sender(host: str | None) -> None:
    """Which host the broker says this message came from; None: a controller, or this very process."""
    _sender.set(host)


def ensure_speaks_for(host: str) -> None:
    """Refuse (Forbidden) a message in which one host speaks for another; controllers speak for all.

    `handle` asks this of every request with a field ``host`` (``host`` or
    ``host@backend``); a handler asks it of names that are elsewhere.
    """
    sender = _sender.get()
    if sender is not None and sender != host:
        raise Forbidden(f"Host {sender} can't speak for host {host}.")


def _believed(caller: Context | None) -> Context | None:
    """What holds of the caller that an envelope names: a host can't lend anybody roles."""
    if caller is None or _sender.get() is None:
        return caller
    return msgspec.structs.replace(caller, system=False, roles=[], service_roles=[])


def encode(method: Method[Q, R], request: Q, timeout: float) -> bytes:
    """The bytes of a request, with the caller, the flow and the deadline in its envelope."""
    caller = context.current()
    envelope = Envelope(
        method=method.name,
        version=method.version,
        payload=msgspec.Raw(msgspec.json.encode(request)),
        caller=caller.journal() if caller is not None else None,
        baggage=trace.baggage(),
        deadline=clock.now() + timeout,
    )
    return msgspec.json.encode(envelope)


def encode_fault(fault: Fault) -> bytes:
    """The bytes of an answer that is a fault."""
    return msgspec.json.encode(Reply(status=fault.status, kind=fault.kind, message=fault.message))


def poison_of(data: bytes, reason: str, *, component: str, host: str, sender: str) -> Poison:
    """What is kept of a message that is set aside for ``reason``."""
    try:
        method = msgspec.json.decode(data, type=Envelope).method
    except (msgspec.DecodeError, UnicodeDecodeError):
        method = ""
    excerpt = secrets.mask(data[:4000].decode("utf-8", "replace"))[:2000]
    return Poison(clock.now(), component, host, sender, method, secrets.mask(reason)[:500], excerpt)


async def handle(data: bytes, handlers: Handlers, component: str, host: str) -> tuple[bytes, str]:
    """Decode a request, run its handler in the caller's context, encode what comes out.

    Returns the answer and, when the message itself is at fault, why. A message
    past its deadline is not carried out: nobody waits, and casts are sent again.
    Raises whatever the handler raises that is no Fault.
    """
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return encode_fault(errors.Invalid("The message can't be read.")), f"unreadable: {error}"
    if clock.now() > envelope.deadline:
        return encode_fault(errors.Unavailable("The message came too late.")), ""
    method = next((one for one in handlers if one.name == envelope.method), None)
    if method is None:
        reason = f"No method {envelope.method}."
        return encode_fault(errors.NotSupported(reason)), reason
    try:
        request = msgspec.json.decode(envelope.payload, type=method.request)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return encode_fault(errors.Invalid(str(error))), str(error)
    context.use(_believed(envelope.caller))
    trace.resume(component, host, envelope.baggage)
    named = getattr(request, "host", None)
    try:
        if isinstance(named, str):
            ensure_speaks_for(named.partition("@")[0])
        answer = await handlers[method](request)
    except Fault as fault:
        return encode_fault(fault), ""
    return msgspec.json.encode(Reply(payload=msgspec.Raw(msgspec.json.encode(answer)))), ""


def decode_reply(data: bytes, method: Method[Q, R]) -> R:
    """The typed answer; raises the fault that came instead."""
    reply = msgspec.json.decode(data, type=Reply)
    if reply.status:
        fault = errors.of_status(reply.status, reply.message)
        fault.kind = reply.kind
        raise fault
    return msgspec.json.decode(reply.payload, type=method.reply)
