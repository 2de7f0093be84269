# SPDX-License-Identifier: Apache-2.0
"""Times that a client sends: when something that it makes shall end."""

from __future__ import annotations

from cumulet.kernel import clock
from cumulet.kernel.errors import Invalid

_MALFORMED = (
    "The server could not comply with the request since it is either malformed or otherwise incorrect. The client is"
    " assumed to be in error."
)


def parse(sent: str) -> float:
    """Seconds since the epoch of a time; raises Invalid for what is none."""
    try:
        moment = clock.parse_iso(sent)
        clock.moment(moment)  # with its offset it may be beyond what a time can say
    except (ValueError, OverflowError):
        raise Invalid(f"Timestamp not in expected format. {_MALFORMED}") from None
    return moment


def expiry(sent: str | None) -> float | None:
    """Seconds since the epoch of a time to come; raises Invalid for anything else."""
    if sent is None:
        return None
    moment = parse(sent)
    if moment <= clock.now():
        raise Invalid(f"The 'expires_at' must not be before now. {_MALFORMED}")
    return moment
