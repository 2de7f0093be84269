# SPDX-License-Identifier: Apache-2.0
"""Everything of images that takes longer than a request: imports, copies to further stores, reading named locations."""

from __future__ import annotations

from cumulet.image.sagas.copying import COPY
from cumulet.image.sagas.importing import IMPORT
from cumulet.image.sagas.locating import LOCATE

ALL = (IMPORT, COPY, LOCATE)
__all__ = ["ALL", "COPY", "IMPORT", "LOCATE"]
