# SPDX-License-Identifier: Apache-2.0
"""What takes longer than a transaction: a floating IP that begins or ceases to lead to a port."""

from __future__ import annotations

from cumulet.network.sagas.floatingips import ASSOCIATE, DISASSOCIATE, Associate, Disassociate

ALL = (ASSOCIATE, DISASSOCIATE)
__all__ = ["ALL", "ASSOCIATE", "DISASSOCIATE", "Associate", "Disassociate"]
