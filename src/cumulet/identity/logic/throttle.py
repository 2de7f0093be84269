# SPDX-License-Identifier: Apache-2.0
"""Guessing slowed down: failed logins are counted by user and address together, and by each alone.

Invariant: who knows his password gets in. A user's own count over all addresses
holds back only addresses from which that user never came in lately, so nobody
locks another one out by guessing.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from cumulet.kernel import clock
from cumulet.kernel.errors import TooMany

_WINDOW = 60.0
_SIZE = 10_000
_BY_USER, _BY_ADDRESS = 5, 15
"""How many times more failures a user, or an address, may have alone than the two together."""
_REMEMBERED = 86_400.0


class Throttle:
    """The failures of the last minute; each process counts by itself."""

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._failures: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._friends: OrderedDict[tuple[str, str], float] = OrderedDict()

    def check(self, user: str, address: str) -> None:
        """Raise TooMany (with Retry-After) when this has failed too often for now."""
        if not self._limit:
            return
        limits = {(user, address): self._limit, ("", address): self._limit * _BY_ADDRESS}
        if clock.now() - self._friends.get((user, address), 0.0) > _REMEMBERED:
            limits[user, ""] = self._limit * _BY_USER
        waits = [wait for key, limit in limits.items() if (wait := self._wait(key, limit)) > 0]
        if waits:
            fault = TooMany("Too many failed logins; try again later.")
            fault.headers["Retry-After"] = str(int(max(waits)) + 1)
            raise fault

    def _wait(self, key: tuple[str, str], limit: int) -> float:
        """Seconds until fewer than ``limit`` failures are in the window."""
        times = self._failures.get(key)
        if times is None:
            return 0.0
        now = clock.now()
        while times and times[0] <= now - _WINDOW:
            times.popleft()
        return times[-limit] + _WINDOW - now if len(times) >= limit else 0.0

    def failed(self, user: str, address: str) -> None:
        for key in ((user, address), ("", address), (user, "")):
            times = self._failures.setdefault(key, deque(maxlen=self._limit * _BY_ADDRESS))
            times.append(clock.now())
            self._failures.move_to_end(key)
        while len(self._failures) > _SIZE:
            self._failures.popitem(last=False)

    def passed(self, user: str, address: str) -> None:
        self._failures.pop((user, address), None)
        self._friends[user, address] = clock.now()
        self._friends.move_to_end((user, address))
        if len(self._friends) > _SIZE:
            self._friends.popitem(last=False)
