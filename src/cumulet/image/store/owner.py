# SPDX-License-Identifier: Apache-2.0
"""By which id a shared store knows this cloud: each cloud deletes there what it does not know."""

from __future__ import annotations

from pathlib import Path

from cumulet.kernel import ids
from cumulet.kernel.files import chosen_once


def own_id(folder: Path, wanted: str = "") -> str:
    """The id of this cloud, kept in its data directory; blocking.

    ``wanted``: what it is to be unless there is one (empty: a new one). All image-api of a cloud must have the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return chosen_once(folder / "cloud-id", lambda: wanted or ids.new_uuid())
