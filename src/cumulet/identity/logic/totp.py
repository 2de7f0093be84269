# SPDX-License-Identifier: Apache-2.0
"""Passcodes that change with time (RFC 6238: six digits, SHA-1, 30 seconds)."""

from __future__ import annotations

import base64
import binascii
import hmac

from cumulet.kernel import clock

PERIOD, DIGITS = 30, 6


def is_passcode(seed: str, passcode: str, earlier: int) -> bool:
    """Whether this is the passcode of a base32 seed in the present period or one of ``earlier`` ones before."""
    try:
        key = base64.b32decode(seed.upper() + "=" * (-len(seed) % 8))
    except (binascii.Error, ValueError):
        return False
    now = int(clock.now()) // PERIOD
    good = [hmac.compare_digest(code(key, now - ago).encode(), passcode.encode()) for ago in range(earlier + 1)]
    return any(good)


def code(key: bytes, period: int) -> str:
    """The passcode of one period."""
    digest = hmac.digest(key, period.to_bytes(8, "big"), "sha1")
    start = digest[-1] & 15
    number = int.from_bytes(digest[start : start + 4], "big") & 0x7FFFFFFF
    return str(number % 10**DIGITS).zfill(DIGITS)
