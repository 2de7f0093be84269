# SPDX-License-Identifier: Apache-2.0
"""The types of the Compute API that several resources share, and the queries of paged lists.

Each is a JSON Schema fragment; the version in which a member exists stands in
the tables that use it. Source: Compute API reference and microversion history.
"""

from __future__ import annotations

from typing import Any, Final

from cumulet.kernel.http.fields import Param, Schema, array, nullable, record, text

PRINTABLE: Final = r"^[^\p{C}\p{Zl}\p{Zp}]*$"
NAME: Final = text(1, 255, pattern=r"^[^\s\p{C}\p{Zl}\p{Zp}]([^\p{C}\p{Zl}\p{Zp}]*[^\s\p{C}\p{Zl}\p{Zp}])?$")
"""Printable, neither starting nor ending with white space."""
LOOSE_NAME: Final = text(1, 255, pattern=r"\S")
ZONE_NAME: Final = text(1, 255, pattern=r"^[^\s\p{C}:]([^\p{C}:]*[^\s\p{C}:])?$")
DESCRIPTION: Final = nullable(text(0, 255, pattern=PRINTABLE))
HOSTNAME: Final = text(2, 63, pattern=r"^[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+$")
FQDN: Final = text(1, 255, pattern=r"^[a-zA-Z0-9._-]*$")
UUID: Final[Schema] = {"type": "string", "format": "uuid"}
BOOLEAN: Final[Schema] = {
    "enum": [True, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes",
             False, "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no"]
}  # fmt: skip
POSITIVE: Final[Schema] = {"type": ["integer", "string"], "pattern": "^[0-9]*$", "minimum": 1, "minLength": 1}
SIZE: Final[Schema] = {"type": ["integer", "string"], "pattern": "^[0-9]+$", "minimum": 1, "maximum": 0x7FFFFFFF}
COUNT: Final[Schema] = {**SIZE, "minimum": 0}
LIMIT: Final[Schema] = {"type": ["integer", "string"], "pattern": r"^-?[0-9]+$", "minimum": -1, "maximum": 0x7FFFFFFF}
TAG: Final = text(1, 60, pattern="^[^,/]*$")
TAGS: Final = array(TAG, maxItems=50)
METADATA: Final[Schema] = {
    "type": "object",
    "patternProperties": {r"^[a-zA-Z0-9\-_:. ]{1,255}$": text(0, 255)},
    "additionalProperties": False,
}
IP: Final[Schema] = {"type": "string", "format": "ip"}
IPV4: Final[Schema] = {"type": "string", "format": "ipv4"}
IPV6: Final[Schema] = {"type": "string", "format": "ipv6"}
DISK_CONFIG: Final[Schema] = {"enum": ["AUTO", "MANUAL"]}
BASE64: Final[Schema] = {"type": "string", "format": "base64", "maxLength": 65535}
ANYTHING: Final[Schema] = {}
NULL: Final[Schema] = {"type": "null"}
DATE: Final[Schema] = {"type": "string", "format": "date-time"}
REGEX: Final[Schema] = {"type": "string", "format": "regex"}
WORD: Final[Schema] = {"type": "string"}
PAGE_LIMIT: Final[Schema] = {"type": "integer", "minimum": 0}

DEVICE_V1: Final[dict[str, Schema]] = {
    "virtual_name": text(0, 255), "volume_id": UUID, "snapshot_id": UUID, "volume_size": SIZE,
    "device_name": text(1, 255, pattern=r"^[a-zA-Z0-9._/-]*$"), "delete_on_termination": BOOLEAN, "no_device": {},
    "connection_info": text(0, 16777215),
}  # fmt: skip
DEVICE_V2: Final[dict[str, Schema]] = {
    **DEVICE_V1,
    "source_type": {"enum": ["volume", "image", "snapshot", "blank"]},
    "uuid": text(1, 255, pattern=r"^[a-zA-Z0-9._-]*$"), "image_id": UUID,
    "destination_type": {"enum": ["local", "volume"]}, "guest_format": text(0, 255), "device_type": text(0, 255),
    "disk_bus": text(0, 255), "boot_index": {"type": ["integer", "string", "null"], "pattern": "^-?[0-9]+$"},
}  # fmt: skip
DEVICE_TAGGED: Final = {**DEVICE_V2, "tag": TAG}
DEVICE_TYPED: Final = {**DEVICE_TAGGED, "volume_type": nullable(text(0, 255))}
"""The members of a block device mapping: of the first form, of the second, and what later versions added to it."""

PAGING: Final = (Param("limit", PAGE_LIMIT), Param("marker", WORD))
STRICT: Final = "2.75"
"""From here on lists refuse query keys that they do not know …"""
STRICT_ALL: Final = "2.102"
"""… and from here on every other GET does too."""


def number(value: Any) -> int:
    """The integer that an integer or its text stands for."""
    return int(value)


def single(name: str, inner: Schema) -> Schema:
    """A body with exactly one member."""
    return record({name: inner}, (name,))
