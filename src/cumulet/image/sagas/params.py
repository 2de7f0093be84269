# SPDX-License-Identifier: Apache-2.0
"""What the sagas are told. All keys are chosen before the first step, so a repeated step finds its own work."""

from __future__ import annotations

import msgspec


class Import(msgspec.Struct, frozen=True):
    """Fill a queued image from staged data, from the web or from another cloud."""

    image_id: str
    task_id: str
    method: str
    stores: list[str]
    must_all: bool
    """Whether a store that can't be filled fails the whole."""
    key: str
    """Of the data in each store."""
    staged_key: str
    """Of the data in the staging area."""
    converted_key: str
    url: str = ""
    region: str = ""
    interface: str = ""
    remote_id: str = ""
    ends_image: bool = False
    """Whether the image was made for this import and goes with its failure."""


class Copy(msgspec.Struct, frozen=True):
    """Put the data of an active image into further stores."""

    image_id: str
    task_id: str
    stores: list[str]
    must_all: bool
    key: str


class Locate(msgspec.Struct, frozen=True):
    """Take data that is somewhere else as an image's data."""

    image_id: str
    task_id: str
    store: str
    url: str
    algorithm: str
    digest: str
    """What the data must have ('': it is active at once and learnt later)."""
    hash: bool
    """Whether the data is read to learn its digests."""
