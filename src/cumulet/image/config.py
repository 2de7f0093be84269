# SPDX-License-Identifier: Apache-2.0
"""The section ``[image]``."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

NAME = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]{0,63}$")]


class StoreConfig(msgspec.Struct, forbid_unknown_fields=True):
    """One ``[[image.stores]]``."""

    id: NAME
    type: Literal["file", "object", "swift", "rbd", "web"] = "file"
    description: str = ""
    weight: int = 0
    """Copies in stores with more weight are read first."""
    path: str = ""
    """file: the directory (default: one of this name in the data directory)."""
    bucket: str = ""
    """object: the bucket of an S3-compatible server, and below it the prefix of this cloud's keys."""
    prefix: str = "images"
    """object, swift."""
    endpoint: str = ""
    region: str = ""
    """object: us-east-1 unless told; swift: any that the catalogue names unless told."""
    access_key: str = ""
    secret_key: str = ""
    """May be left out here and given as AWS_SECRET_ACCESS_KEY in the environment."""
    container: str = ""
    """swift: the container, which must be there."""
    auth_url: str = ""
    """swift: where to log in, at Keystone (…/v3) or at a server that hands out tokens by itself (…/auth/v1.0)."""
    username: str = ""
    """swift: who logs in; with version 1 ACCOUNT:USER, and none of the next four is needed."""
    password: str = ""
    """May be left out here and given as OS_PASSWORD in the environment."""
    project: str = ""
    user_domain: str = "Default"
    project_domain: str = "Default"
    interface: Literal["public", "internal", "admin"] = "public"
    segment_mib: Annotated[int, msgspec.Meta(ge=1, le=5120)] = 1024
    """swift: MiB of one segment, of which servers take 1000 per object."""
    pool: str = "images"
    """rbd: the pool, Ceph's configuration, its user (without ``client.``) and the file with the user's key."""
    conf: str = "/etc/ceph/ceph.conf"
    user: str = "cumulet"
    keyring: str = ""
    """Empty: where Ceph looks for it, e.g. /etc/ceph/ceph.client.USER.keyring."""
    python: str = "/usr/bin/python3"
    """The Python that has Ceph's bindings (Debian: python3-rados and python3-rbd)."""
    seconds: Annotated[int, msgspec.Meta(ge=1)] = 30
    """object, swift, rbd: how long the store may take to answer before it counts as away."""


class ImageConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Limits and timings of the image service."""

    size_cap_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1024**4
    """The largest image that is taken, in bytes."""
    count_quota: Annotated[int, msgspec.Meta(ge=-1)] = -1
    """Images that one project may own (-1: unlimited)."""
    total_mib_quota: Annotated[int, msgspec.Meta(ge=-1)] = -1
    """MiB of image data that one project may own (-1: unlimited)."""
    property_quota: Annotated[int, msgspec.Meta(ge=-1)] = 128
    """Custom properties of one image (-1: unlimited)."""
    tag_quota: Annotated[int, msgspec.Meta(ge=-1)] = 128
    """Tags of one image (-1: unlimited)."""
    member_quota: Annotated[int, msgspec.Meta(ge=-1)] = 128
    """Members of one shared image (-1: unlimited)."""
    page: Annotated[int, msgspec.Meta(ge=1)] = 25
    """Images of a list answer when the client names no limit."""
    page_max: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Images of a list answer at most."""
    stall_seconds: Annotated[float, msgspec.Meta(gt=0)] = 120.0
    """An upload that sends nothing for so long is broken."""
    lost_seconds: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """An upload whose process did not report for so long is broken."""
    keep_deleted_days: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """How long the records of deleted images are kept."""
    stores: list[StoreConfig] = msgspec.field(
        default_factory=lambda: [StoreConfig("file", description="Files of this cloud")]
    )
    """Where image data may be; the first is where an upload goes that names none."""
    staging: str = ""
    """The directory of data that waits for its import (default: in the data directory); several processes share it."""
    import_methods: list[Literal["glance-direct", "web-download", "copy-image", "glance-download"]] = msgspec.field(
        default_factory=lambda: ["glance-direct", "web-download", "copy-image", "glance-download"]
    )
    show_locations: bool = False
    """Whether documents show, and owners may change, where the data is."""
    hash_locations: bool = True
    """Whether data that a location names is read once to learn its digests."""
    check_formats: bool = True
    """Whether data must be of the format that its image declares."""
    convert_to: Literal["", "raw", "qcow2"] = ""
    """The format that imported disks are converted to ('': as they are)."""
    convert_memory_mib: Annotated[int, msgspec.Meta(ge=64)] = 1024
    """MiB of address space of a conversion."""
    convert_seconds: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    """The longest that a conversion may take."""
    web_schemes: list[str] = msgspec.field(default_factory=lambda: ["http", "https"])
    web_ports: list[int] = msgspec.field(default_factory=lambda: [80, 443])
    """Ports that may be fetched from (with 0: any)."""
    web_hosts: list[str] = []
    """Hosts that may be fetched from (none named: any)."""
    web_networks: list[str] = []
    """Address ranges that may be fetched from besides those of the Internet."""
    download_properties: list[str] = msgspec.field(
        default_factory=lambda: ["hw_", "trait:", "os_distro", "os_secure_boot", "os_type"]
    )
    """Beginnings of the custom properties that come along with an image of another cloud."""
    cache_max_mib: Annotated[int, msgspec.Meta(ge=0)] = 10_240
    """MiB that the cache may hold; pruning takes what was not read for longest."""
    task_hours: Annotated[float, msgspec.Meta(gt=0)] = 48.0
    """Hours that the record of a finished task is kept."""
    upload_count_quota: Annotated[int, msgspec.Meta(ge=-1)] = -1
    """Images that one project may upload at once, where identity registers no limit (-1: unlimited)."""
    stage_mib_quota: Annotated[int, msgspec.Meta(ge=-1)] = -1
    """MiB that one project may have staged, likewise."""
