# SPDX-License-Identifier: Apache-2.0
"""Where an operation happens: which cloud's part of which machine, and the machine's lock."""

from __future__ import annotations

import fcntl
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cumulet.kernel.host.model import HostError
from cumulet.network.drivers.bridge import links

_LOCK = Path("/run/cumulet/net/lock")


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which cloud on which host: what every operation must know."""

    cloud: str
    """Any id of this cloud's part of this machine; all names are derived from it."""
    underlay: str | None = None
    """This host's address for tunnels; None is a host alone."""
    guest_user: str | None = None
    """The user that may open the taps; None leaves them to root."""
    domain: str = "openstacklocal"
    reachable: list[int] = []
    """TCP ports of this host that the public network may open."""


@contextmanager
def changing() -> Iterator[Any]:
    """Hold the machine's lock and a netlink socket."""
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with links.netlink() as ip:
            yield ip


def guest_uid(site: Site) -> int | None:
    """The user that owns the taps; raises HostError with what to do when he does not exist."""
    if site.guest_user is None:
        return None
    try:
        return pwd.getpwnam(site.guest_user).pw_uid
    except KeyError:
        user = site.guest_user[:32]
        raise HostError(f"there is no user {user!r} for guests: create it with 'useradd --system {user}'") from None
