# SPDX-License-Identifier: Apache-2.0
"""The settings of placement: section ``[placement]``, named as published where the same thing exists there."""

from __future__ import annotations

import msgspec


class Config(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator may choose."""

    randomize_allocation_candidates: bool = False
    """Shuffle candidates, so that ``limit`` does not always return the same ones."""
    max_allocation_candidates: int = -1
    """Stop combining after this many candidates; -1: no bound."""
    incomplete_consumer_project_id: str = "00000000-0000-0000-0000-000000000000"
    """The project of consumers whose claim was written before version 1.8."""
    incomplete_consumer_user_id: str = "00000000-0000-0000-0000-000000000000"
