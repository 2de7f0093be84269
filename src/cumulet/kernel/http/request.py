# SPDX-License-Identifier: Apache-2.0
"""What a handler gets and gives: everything checked, nothing of the web framework."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cumulet.kernel.context import Context
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http.fields import View
from cumulet.kernel.http.versions import Version
from cumulet.kernel.policy import Policy, Target


class Stream(Protocol):
    """A request body that is read in pieces."""

    async def read(self, size: int = -1) -> bytes: ...


class Watch:
    """An ASGI ``receive`` that remembers whether the client went away."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self.gone = False

    async def __call__(self) -> Any:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            self.gone = True
        return event

    async def lost(self) -> None:
        """Return once the client went away: for answers that go on for as long as somebody listens."""
        while not self.gone:
            await self()


class Incoming:
    """A raw request body. The web framework takes a lost client for the end of the body; this does not."""

    def __init__(self, stream: Stream, watch: Watch) -> None:
        self._stream, self._watch = stream, watch

    async def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, none at the end; raises Invalid when the client went away before it."""
        data = await self._stream.read(size)
        if self._watch.gone:
            raise Invalid("The client went away before the request body was complete.")
        return data


@dataclass
class Answer:
    """What a handler returns when a plain document is not enough."""

    body: Any = None
    """A document for JSON, bytes, or None for no body."""
    status: int | None = None
    """None is the route's own success status."""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str | None = None
    stream: AsyncIterator[bytes] | None = None


@dataclass
class Request:
    """One request, authenticated, authorised and lifted to the inner shape."""

    method: str
    path: str
    """The path below the service's mount, e.g. ``/v2.1/servers``."""
    params: dict[str, str]
    headers: Mapping[str, str]
    """Lower-case names."""
    context: Context
    version: Version | None
    base: str
    """scheme://host/mount of this service, for links."""
    policy: Policy
    service: Any
    """The service's own object: databases, clients, settings."""
    query_text: str = ""
    query: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    sent: Any = None
    """The body as it was sent (parsed JSON), for dialects that look at raw shapes."""
    stream: Stream | None = None
    watch: Watch | None = None
    """Whether the client is still there, for answers without an end."""
    found: Any = None
    """What the route's target loader found; handlers need not look it up again."""
    remote: str = ""

    def allows(self, rule: str, target: Target | None = None) -> bool:
        return self.policy.allows(rule, self.context, target)

    def enforce(self, rule: str, target: Target | None = None) -> None:
        self.policy.enforce(rule, self.context, target)

    def render(self, view: View, document: dict[str, Any], target: Target | None = None) -> dict[str, Any]:
        """The document as this caller and version may see it."""
        return view.render(document, self.version, lambda rule: self.allows(rule, target))

    def since(self, version: str) -> bool:
        """Whether the request asked for at least this microversion (behaviour-only changes)."""
        from cumulet.kernel.http.versions import within

        return self.version is not None and within(self.version, version, None)

    @property
    def url(self) -> str:
        """The full URL of this request without its query."""
        return self.base + self.path
