# SPDX-License-Identifier: Apache-2.0
"""The only source of ids and randomness, so that a simulation can be repeated from its seed."""

from __future__ import annotations

import random
import secrets
import uuid
from contextvars import ContextVar

_seeded: ContextVar[random.Random | None] = ContextVar("ids", default=None)


def use_seed(seed: int | None) -> None:
    """Make ids of the current context deterministic (None: random again). Never for secrets."""
    _seeded.set(None if seed is None else random.Random(seed))  # noqa: S311 - a simulation's ids, not secrets


def new_uuid() -> str:
    """A UUID version 4 with dashes."""
    seeded = _seeded.get()
    return str(uuid.uuid4() if seeded is None else uuid.UUID(int=seeded.getrandbits(128), version=4))


def new_hex() -> str:
    """32 hex digits, the id form of identity."""
    return new_uuid().replace("-", "")


def new_request_id() -> str:
    return "req-" + new_uuid()


def new_secret(octets: int = 32) -> str:
    """A URL-safe secret with ``octets`` bytes of entropy; always from the system's source.

    It begins with a letter or digit: `--os-password -x` would be read as an option.
    """
    while not (made := secrets.token_urlsafe(octets))[0].isalnum():
        pass
    return made


def derive_uuid(*parts: str) -> str:
    """The same UUID for the same parts: ids that a repeated step finds again."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "\x1f".join(parts)))


def choose(low: float, high: float) -> float:
    """A random number in [low, high), for jitter and random choice among equals."""
    seeded = _seeded.get()
    return (seeded or random).uniform(low, high)


def is_uuid(text: object) -> bool:
    """Whether ``text`` is a UUID, with or without dashes, in canonical lower or upper case."""
    if not isinstance(text, str):
        return False
    try:
        return str(uuid.UUID(text)).replace("-", "") == text.lower().replace("-", "") and len(text) in (32, 36)
    except ValueError:
        return False
