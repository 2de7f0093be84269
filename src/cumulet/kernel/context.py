# SPDX-License-Identifier: Apache-2.0
"""Who asks, for which project, under which request id; carried from HTTP to the hypervisor.

A context is immutable. It travels in REST headers, rpc envelopes and saga
rows; `current()` is the one of the running task.
"""

from __future__ import annotations

from contextvars import ContextVar

import msgspec

from cumulet.kernel.hostnames import host_of


class Context(msgspec.Struct, frozen=True):
    """The caller, as identity vouched for it. Tokens are never serialised with it (see `journal`)."""

    request_id: str
    global_id: str | None = None
    user_id: str | None = None
    user_name: str | None = None
    user_domain_id: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    project_domain_id: str | None = None
    domain_id: str | None = None
    system: bool = False
    roles: list[str] = []
    service_roles: list[str] = []
    """Roles of the service token sent along, if any."""
    token: str | None = None
    audit_id: str | None = None
    trust_id: str | None = None
    accepted: bool = False
    """Whether this is work that was accepted: only there may a service go on by its own right when the token ages."""
    base: str = ""
    """scheme://host[/prefix] that the client used, without the service's own path."""

    @property
    def trace_id(self) -> str:
        """The id under which all services file what belongs to one user request."""
        return self.global_id or self.request_id

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    @property
    def is_service(self) -> bool:
        """Whether a service itself calls, or vouches for the caller by its own token."""
        return "service" in self.service_roles or "service" in self.roles

    @property
    def serves(self) -> bool:
        """Whether a service or a host calls by itself, with no user behind it."""
        return "service" in self.roles

    @property
    def host(self) -> str | None:
        """The joined host whose own user calls; None for everybody else."""
        own = self.serves and self.user_domain_id == "default" and not self.is_admin
        return host_of(self.user_name or "") if own else None

    def policy_view(self) -> dict[str, object]:
        """The credentials that policy rules are written about, in upstream's names."""
        return {
            "user_id": self.user_id,
            "project_id": self.project_id,
            "tenant_id": self.project_id,
            "domain_id": self.domain_id,
            "user_domain_id": self.user_domain_id,
            "project_domain_id": self.project_domain_id,
            "system_scope": "all" if self.system else None,
            "system": "all" if self.system else None,
            "roles": self.roles,
            "service_roles": self.service_roles,
            "is_admin": self.is_admin,
            "trust_id": self.trust_id,
            "token": self._token_view(),
        }

    def _token_view(self) -> dict[str, object]:
        """The published token, as far as rules look into it: only the scope that it has is there."""
        view: dict[str, object] = {"user": {"domain": {"id": self.user_domain_id}}}
        if self.project_id is not None:
            view["project"] = {"domain": {"id": self.project_domain_id}}
        if self.domain_id is not None:
            view["domain"] = {"id": self.domain_id}
        return view

    def journal(self) -> Context:
        """The same caller without its token: what may be written to a database or sent over the bus."""
        return msgspec.structs.replace(self, token=None)


_current: ContextVar[Context | None] = ContextVar("context", default=None)


def current() -> Context | None:
    return _current.get()


def use(context: Context | None) -> None:
    """Make ``context`` that of the running task and of tasks it starts."""
    _current.set(context)
