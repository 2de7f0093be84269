# SPDX-License-Identifier: Apache-2.0
"""The pure parts of create: zones, names, passwords, block devices, device names."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cumulet.compute.logic import devices
from cumulet.compute.logic.create import hostname_of, new_password, parse_zone
from cumulet.kernel.errors import Conflict, Invalid

IMAGE = "11111111-1111-4111-8111-111111111111"
VOLUME = "22222222-2222-4222-8222-222222222222"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, (None, None, None)), ("", (None, None, None)), ("nova", ("nova", None, None)),
        ("nova:h", ("nova", "h", None)), ("nova:h:n", ("nova", "h", "n")), ("nova::n", ("nova", None, "n")),
        (":h", (None, "h", None)),
    ],
)  # fmt: skip
def test_zones(text: str | None, parts: tuple[str | None, ...]) -> None:
    assert parse_zone(text) == parts


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("Web Server 1", "web-server-1"), ("a.b_c", "a-b-c"), ("--x--", "x"), ("日本", "server-id"),
        ("é" * 3, "server-id"),
        ("x" * 80, "x" * 63), ("a" * 62 + "-b", "a" * 62), ("ünder", "nder"),
    ],
)  # fmt: skip
def test_host_names(name: str, host: str) -> None:
    assert hostname_of(name, "id") == host


def test_passwords() -> None:
    made = {new_password() for _ in range(20)}
    assert len(made) == 20
    assert all(re.fullmatch(r"[A-Za-z2-9]{12}", one) for one in made)


def test_a_named_image_is_the_root_of_old_mappings() -> None:
    rows = devices.lift_legacy([{"device_name": "vdb", "volume_id": VOLUME}], IMAGE)
    assert [(row["boot_index"], row["source_type"], row["device_name"]) for row in rows] == [
        (0, "image", None), (None, "volume", "/dev/vdb"),
    ]  # fmt: skip


def test_the_root_volume_of_old_mappings_boots() -> None:
    rows = devices.lift_legacy([{"device_name": "vda", "volume_id": VOLUME, "delete_on_termination": "true"}], None)
    assert [(row["boot_index"], row["delete_on_termination"]) for row in rows] == [(0, True)]


def test_volumes_that_are_made_for_the_server_are_ours() -> None:
    sent: list[dict[str, Any]] = [
        {"source_type": "image", "uuid": IMAGE, "destination_type": "volume", "volume_size": "3", "boot_index": "0"},
        {"source_type": "volume", "uuid": VOLUME, "boot_index": -1},
        {"source_type": "blank", "destination_type": "local", "guest_format": "swap", "boot_index": None},
    ]
    rows = devices.lift(sent, None)
    assert [row["created_by_us"] for row in rows] == [True, False, False]
    assert [row["boot_index"] for row in rows] == [0, None, None]
    assert rows[0]["size_gib"] == 3
    assert rows[1]["volume_id"] == VOLUME


@pytest.mark.parametrize(
    "one",
    [
        {"source_type": "image", "uuid": IMAGE, "destination_type": "local", "boot_index": 1},
        {"source_type": "snapshot", "uuid": VOLUME, "destination_type": "local"},
        {"source_type": "volume", "uuid": VOLUME, "device_name": "/etc/passwd"},
        {},
    ],
)
def test_mappings_that_make_no_sense(one: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="Block Device Mapping is Invalid"):
        devices.lift([one], IMAGE)


def test_device_names_go_on_after_z() -> None:
    taken = [{"device_name": f"/dev/vd{letter}"} for letter in "bcdefghijklmnopqrstuvwxyz"]
    assert devices.next_name([], None) == "/dev/vdb"
    assert devices.next_name(taken, None) == "/dev/vdaa"
    assert devices.next_name([], "/dev/vdq") == "/dev/vdq"
    with pytest.raises(Conflict):
        devices.next_name(taken, "/dev/vdb")
    with pytest.raises(Invalid):
        devices.next_name([], "/dev/../x")
