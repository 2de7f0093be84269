# SPDX-License-Identifier: Apache-2.0
"""What things are called on a broker, and what a host's user may do with them.

Invariant: all that belongs to a host begins with ``cumulet/host/<host>/``, and a
host's name holds no slash; so a broker that checks three regular expressions
keeps every host to its own queues, whatever runs on it. Hosts may write to
exchanges only, never to a queue by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from cumulet.kernel.errors import Invalid
from cumulet.kernel.hostnames import checked_host, user_of_host

ROLES = "cumulet/role"
"""Topic exchange: to one of those who serve a role; the routing key is the topic."""
ALL = "cumulet/all"
"""Topic exchange: to everybody who serves a topic."""
ANSWERS = "cumulet/answers"
"""Direct exchange: a host's answers to whoever asked it; the routing key is the asker's queue."""
POISON = "cumulet/poison"
"""Fan-out exchange and queue: what was set aside."""


def role_queue(topic: str) -> str:
    return f"cumulet/role/{topic}"


def host_queue(host: str, topic: str) -> str:
    return _home(host) + topic


def _home(host: str) -> str:
    return f"cumulet/host/{checked_host(host)}/"


def private_queue(host: str | None, purpose: str, number: str) -> str:
    """A queue of one process: on a host (else None), what for, and an id that nobody guesses."""
    return f"{_home(host) if host else 'cumulet/own/'}{purpose}/{number}"


def is_private_to(queue: str, host: str) -> bool:
    """Whether a queue that somebody wants answers in is that host's own queue for answers."""
    return queue.startswith(_home(host) + "answers/")


def user_of(host: str, vhost: str) -> str:
    """The broker user of a host. Users belong to the whole broker, so the name holds the virtual host too."""
    return f"{user_of_host(host)}+{vhost}"


@dataclass(frozen=True)
class Rights:
    """What a broker user may do, in the broker's own three regular expressions and per topic exchange."""

    configure: str
    write: str
    read: str
    topics: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Topic exchange → (routing keys to publish with, routing keys to bind with)."""


CONTROLLER = Rights("^cumulet/", "^(cumulet/.*|amq\\.default)$", "^cumulet/")
"""What the controllers' user needs."""


def rights_of(host: str, *, calls: Iterable[str], serves: Iterable[str]) -> Rights:
    """What a host's user needs: ``calls`` are the topics it may ask, ``serves`` those it may be told together."""
    own = re.escape(_home(host))
    return Rights(
        configure=f"^{own}",
        write=f"^(({ROLES}|{ANSWERS}|{POISON})$|{own})",
        read=f"^({ALL}$|{own})",
        topics={ROLES: (_one_of(calls), "^$"), ALL: ("^$", _one_of(serves))},
    )


def _one_of(topics: Iterable[str]) -> str:
    return f"^({'|'.join(sorted(re.escape(topic) for topic in topics))})$"


_URL = re.compile(
    r"(?P<scheme>amqps?)://(?P<login>[^/?#]+)@(?P<places>[^/?#@]+)(?:/(?P<vhost>[^/?#]*))?(?:\?(?P<query>[^#]*))?"
)


@dataclass(frozen=True)
class Address:
    """Where the broker is and as whom we go there; the password never shows."""

    hosts: tuple[tuple[str, int], ...]
    user: str
    vhost: str
    tls: bool
    ca_file: str | None
    password: str = field(repr=False)

    @classmethod
    def parse(cls, url: str, password: str = "") -> Address:
        """Read ``amqp[s]://user[:password]@host[:port][,host[:port]…]/vhost[?cafile=PATH]``.

        ``password`` goes before one in the URL. Raises Invalid, without showing the URL.
        """
        parts = _URL.fullmatch(url)
        query = parse_qs(parts["query"] or "") if parts else {}
        if parts is None or set(query) - {"cafile"}:
            raise Invalid("The bus is amqp://user@host:port/vhost, or amqps with ?cafile=PATH.")
        user, _, written = parts["login"].partition(":")
        tls = parts["scheme"] == "amqps"
        if not user:
            raise Invalid("The bus names no user: amqp://user@host:port/vhost.")
        return cls(
            hosts=tuple(_place(place, 5671 if tls else 5672) for place in parts["places"].split(",")),
            user=unquote(user),
            vhost=unquote(parts["vhost"] or "") or "/",
            tls=tls,
            ca_file=query.get("cafile", [None])[0],
            password=password or unquote(written),
        )

    def __str__(self) -> str:
        return f"{self.user}@{','.join(f'{host}:{port}' for host, port in self.hosts)}/{self.vhost}"


def has_password(url: str) -> bool:
    """Whether a bus URL names a password itself."""
    parts = _URL.fullmatch(url)
    return parts is not None and bool(parts["login"].partition(":")[2])


def _place(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit("//" + text)
    try:
        port = parts.port or default
    except ValueError:
        port = 0
    if not parts.hostname or not port or parts.path:
        raise Invalid("The bus names its brokers as host:port, with commas between several.")
    return parts.hostname, port
