# SPDX-License-Identifier: Apache-2.0
"""The section ``[volume]``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Limit = Annotated[int, msgspec.Meta(ge=-1)]


class CephConfig(msgspec.Struct, forbid_unknown_fields=True):
    """The pool of the rbd back end, Ceph's configuration, its user (without ``client.``), the file with the key."""

    pool: str = "volumes"
    user: str = "cumulet"
    conf: str = "/etc/ceph/ceph.conf"
    keyring: str = ""
    """Empty: where Ceph looks for it."""
    python: str = "/usr/bin/python3"
    """The Python that has Ceph's bindings (Debian: python3-rados and python3-rbd)."""
    seconds: Annotated[int, msgspec.Meta(ge=1)] = 30
    """How long Ceph may take to answer."""


class VolumeConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Quotas, timings and the back end of the volume service."""

    quota_volumes: Limit = 10
    """Volumes of one project (-1: unlimited)."""
    quota_snapshots: Limit = 10
    """Snapshots of one project (-1: unlimited)."""
    quota_gigabytes: Limit = 1000
    """GiB of volumes and snapshots of one project (-1: unlimited)."""
    quota_per_volume_gigabytes: Limit = -1
    """GiB of one volume (-1: unlimited)."""
    zone: str = "nova"
    """Availability zone of this host's back end."""
    backend: str = ""
    """``file``, ``rbd`` or ``simulated``; empty: what this start chose."""
    format: Literal["raw", "qcow2"] = "raw"
    """How the file back end keeps volumes."""
    ceph: CephConfig = msgspec.field(default_factory=lambda: CephConfig())
    """``[volume.ceph]``: the rbd back end."""
    over_subscription: Annotated[float, msgspec.Meta(ge=1.0)] = 20.0
    """How many times its size a back end may promise: volumes are sparse."""
    report_seconds: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """How often an agent reports its capacity."""
    down_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """An agent that did not report for so long counts as down."""
    page_max: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Rows of a list answer at most."""
    keep_deleted_days: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """How long the records of deleted volumes are kept."""
