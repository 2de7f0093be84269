# SPDX-License-Identifier: Apache-2.0
"""What a message is, and the Protocol that both buses keep."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from cumulet.kernel import clock, context, errors, trace
from cumulet.kernel.context import Context
from cumulet.kernel.errors import Fault

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
    sender: str = ""


class Reply(msgspec.Struct):
    """An answer: a payload, or a fault that is raised again where the call was made."""

    payload: msgspec.Raw = msgspec.Raw(b"null")
    status: int = 0
    kind: str = ""
    message: str = ""


Handler = Callable[[Any], Awaitable[Any]]
Handlers = Mapping[Method[Any, Any], Handler]


class Subscription(Protocol):
    async def stop(self) -> None:
        """Take no more messages and wait for those in work."""


class Bus(Protocol):
    async def call(self, method: Method[Q, R], request: Q, *, host: str | None = None, timeout: float = 30.0) -> R:
        """Ask and wait. Raises the handler's Fault, or Unavailable when nobody answers in time (seconds)."""

    async def cast(self, method: Method[Q, Any], request: Q, *, host: str | None = None) -> None:
        """Tell one receiver; nothing is raised when there is none."""

    async def fanout(self, method: Method[Q, Any], request: Q) -> None:
        """Tell every receiver of the topic, on all hosts."""

    async def subscribe(
        self, handlers: Handlers, *, component: str, host: str = "", own_host: bool = False
    ) -> Subscription:
        """Serve methods of one topic (with ``own_host``: those addressed to ``host`` only)."""

    async def close(self) -> None: ...


def encode(method: Method[Q, R], request: Q, timeout: float, sender: str = "") -> bytes:
    """The bytes of a request, with the caller, the flow and the deadline in its envelope."""
    caller = context.current()
    envelope = Envelope(
        method=method.name,
        version=method.version,
        payload=msgspec.Raw(msgspec.json.encode(request)),
        caller=caller.journal() if caller is not None else None,
        baggage=trace.baggage(),
        deadline=clock.now() + timeout,
        sender=sender,
    )
    return msgspec.json.encode(envelope)


async def handle(data: bytes, handlers: Handlers, component: str, host: str) -> bytes:
    """Decode a request, run its handler in the caller's context, encode what comes out.

    A message past its deadline is dropped: nobody waits, and casts are sent again.
    """
    envelope = msgspec.json.decode(data, type=Envelope)
    try:
        method, handler = next((one, fn) for one, fn in handlers.items() if one.name == envelope.method)
        if clock.now() > envelope.deadline:
            return msgspec.json.encode(Reply(status=503, kind="Unavailable", message="The message came too late."))
        context.use(envelope.caller)
        trace.resume(component, host, envelope.baggage)
        request = msgspec.json.decode(envelope.payload, type=method.request)
        answer = await handler(request)
        return msgspec.json.encode(Reply(payload=msgspec.Raw(msgspec.json.encode(answer))))
    except StopIteration:
        return msgspec.json.encode(Reply(status=501, kind="NotSupported", message=f"No method {envelope.method}."))
    except Fault as fault:
        return msgspec.json.encode(Reply(status=fault.status, kind=fault.kind, message=fault.message))
    except msgspec.ValidationError as error:
        return msgspec.json.encode(Reply(status=400, kind="Invalid", message=str(error)))


def decode_reply(data: bytes, method: Method[Q, R]) -> R:
    """The typed answer; raises the fault that came instead."""
    reply = msgspec.json.decode(data, type=Reply)
    if reply.status:
        fault = errors.of_status(reply.status, reply.message)
        fault.kind = reply.kind
        raise fault
    return msgspec.json.decode(reply.payload, type=method.reply)
