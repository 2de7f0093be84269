# SPDX-License-Identifier: Apache-2.0
"""What an image of a volume-backed server holds instead of bytes: the block devices to start again from.

Whoever owns the image may write them, so they are checked like those of a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from cumulet.compute.schemas import DEVICE_TYPED
from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Body, Field
from cumulet.kernel.http.body import Violation
from cumulet.kernel.http.fields import array, record

if TYPE_CHECKING:
    from cumulet.client.image import ImageRecord

_NAME: Final = "block_device_mapping"
_HIDDEN: Final = (_NAME, "bdm_v2", "root_device_name")
_SHAPE: Final = Body(None, Field(_NAME, array(record(DEVICE_TYPED))))


def mappings_of(image: ImageRecord) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The published mappings that an image names (none: it has bytes), and its other properties. Raises Invalid."""
    told = image.properties.get(_NAME)
    if not told:
        return [], {}
    try:
        found = msgspec.json.decode(told, type=list[dict[str, Any]])
        # absent members are written as null there, and some that no request has
        known = [
            {name: value for name, value in one.items() if name in DEVICE_TYPED and value is not None} for one in found
        ]
        _SHAPE.lift({_NAME: known}, None, lambda _: True)
    except (msgspec.DecodeError, TypeError):
        raise Invalid(
            "Block Device Mapping is Invalid: the image's is not readable.", kind="InvalidBDMFormat"
        ) from None
    except Violation as error:
        raise Invalid(f"Block Device Mapping is Invalid: {error.message}", kind="InvalidBDMFormat") from None
    return known, {name: value for name, value in image.properties.items() if name not in _HIDDEN}
