# SPDX-License-Identifier: Apache-2.0
"""Receipts: what stands for the methods by which a user has proved who he is so far, until it is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from cumulet.identity.logic.claims import LOGIN, METHODS, method_bits, pack, unpack
from cumulet.identity.logic.keyring import Keyring
from cumulet.kernel import clock
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Unauthorized

_LONGEST = 1024


class _Inside(msgspec.Struct, array_like=True, frozen=True):
    user: bytes
    methods: int
    expires: int
    sequence: int


@dataclass
class MoreNeeded(Exception):
    """The proofs were right but are not enough; the receipt stands for them, ``document`` says what is missing."""

    receipt: str
    document: dict[str, Any]


def rules_of(user: Row) -> list[set[str]]:
    """The sets of methods of which one must be used up; empty: any will do. Methods that we lack don't count."""
    options = user["options"]
    if not options.get("multi_factor_auth_enabled", True):
        return []
    known = (set(rule) & set(LOGIN) for rule in options.get("multi_factor_auth_rules") or [])
    return [rule for rule in known if rule]


def is_enough(user: Row, used: set[str]) -> bool:
    rules = rules_of(user)
    return not rules or any(rule <= used for rule in rules)


class Receipts:
    """Makes receipts and reads them."""

    def __init__(self, keys: Keyring, lifetime: int) -> None:
        self._keys, self._lifetime = keys, lifetime

    def demand(self, user: Row, domain: Row, used: set[str], sequence: int) -> MoreNeeded:
        """What to answer to proofs that are right but not enough."""
        now = int(clock.now())
        inside = _Inside(pack(user["id"]), method_bits(list(used)), now + self._lifetime, sequence)
        methods = [name for name in METHODS if name in used]
        document = {
            "receipt": {
                "methods": methods,
                "user": {
                    "id": user["id"],
                    "name": user["name"],
                    "domain": {"id": domain["id"], "name": domain["name"]},
                },
                "expires_at": clock.iso_micro_z(inside.expires),
                "issued_at": clock.iso_micro_z(now),
            },
            "required_auth_methods": [sorted(rule) for rule in rules_of(user) if rule & used],
        }
        return MoreNeeded(self._keys.seal(msgspec.msgpack.encode(inside)), document)

    def methods(self, receipt: str, user: Row) -> list[str]:
        """The methods that a receipt stands for; raises Unauthorized unless it is this user's and still good."""
        sealed = self._keys.open(receipt) if len(receipt) <= _LONGEST and receipt.isascii() else None
        if sealed is None:
            raise Unauthorized
        inside = msgspec.msgpack.decode(sealed, type=_Inside)
        if unpack(inside.user) != user["id"] or inside.expires <= clock.now() or user["voided"] > inside.sequence:
            raise Unauthorized
        return [name for bit, name in enumerate(METHODS) if inside.methods >> bit & 1]
