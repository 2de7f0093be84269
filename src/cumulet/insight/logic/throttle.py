# SPDX-License-Identifier: Apache-2.0
"""Wrong join tokens, counted by address for a minute: guessing is hopeless anyway, and shall not cost us much either.

Each process counts by itself. Who has a good token is held back only by what
his own address did.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from cumulet.kernel import clock
from cumulet.kernel.errors import TooMany

_WINDOW = 60.0
_SIZE = 10_000


class Throttle:
    """The refusals of the last minute."""

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._refused: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise TooMany (with Retry-After) when this address was refused too often for now."""
        times = self._refused.get(address)
        while times and times[0] <= clock.now() - _WINDOW:
            times.popleft()
        if times and len(times) >= self._limit:
            fault = TooMany("Too many wrong join tokens; try again later.")
            fault.headers["Retry-After"] = str(int(times[0] + _WINDOW - clock.now()) + 1)
            raise fault

    def refused(self, address: str) -> None:
        """Count one."""
        self._refused.setdefault(address, deque(maxlen=self._limit)).append(clock.now())
        self._refused.move_to_end(address)
        while len(self._refused) > _SIZE:
            self._refused.popitem(last=False)
