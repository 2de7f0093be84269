# SPDX-License-Identifier: Apache-2.0
"""What an image of a volume-backed server holds instead of bytes: the block devices to start again from."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from cumulet.compute.logic import Compute
from cumulet.kernel.errors import Forbidden, Invalid, NotFound

_HIDDEN: Final = ("block_device_mapping", "bdm_v2", "root_device_name")


async def mappings_of(compute: Compute, image_id: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The published mappings that an image names (none: it has bytes), and its other properties. Raises Invalid."""
    try:
        image = await compute.image.image(image_id)
    except (NotFound, Forbidden):
        return [], {}  # said in the published words by whoever looks it up again
    told = image.properties.get("block_device_mapping")
    if not told:
        return [], {}
    try:
        mappings = msgspec.json.decode(told, type=list[dict[str, Any]])
    except msgspec.DecodeError:
        raise Invalid(
            "Block Device Mapping is Invalid: the image's is not readable.", kind="InvalidBDMFormat"
        ) from None
    return mappings, {name: value for name, value in image.properties.items() if name not in _HIDDEN}
