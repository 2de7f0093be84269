# SPDX-License-Identifier: Apache-2.0
"""What hosts and their own users are called.

Invariant: a host's name can stand in the name of a queue or a user and in a
regular expression without meaning anything else there.
"""

from __future__ import annotations

import re

from cumulet.kernel.errors import Invalid

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_USER = "cumulet-host+"


def checked_host(host: str) -> str:
    """The host's name; raises Invalid when it could not stand in names and regular expressions."""
    if not _HOST.fullmatch(host):
        raise Invalid("A host's name has letters, digits, dots, dashes and underscores only.")
    return host


def user_of_host(host: str) -> str:
    """The user that a host has in identity; on the broker its name goes on with the virtual host."""
    return f"{_USER}{checked_host(host)}"


def host_of(user: str) -> str | None:
    """The host whose user this is, in identity or on the broker; None for everybody else."""
    return user.removeprefix(_USER).partition("+")[0] if user.startswith(_USER) else None
