# SPDX-License-Identifier: Apache-2.0
"""Catalogue URLs: rendered for the address by which the client came, whatever that was."""

from __future__ import annotations

import pytest

from cumulet.identity.logic import Identity
from cumulet.identity.logic.catalogue import front_base, render


@pytest.mark.parametrize(
    ("base", "mount", "port", "front"),
    [
        ("http://h:8080", "/identity", 8080, "http://h:8080"),
        ("https://h/cloud", "/identity", 8080, "https://h/cloud"),
        ("http://h:5000", "", 8080, "http://h:8080"),
        ("http://h", "", 8080, "http://h:8080"),
        ("http://[::1]:5000", "", 8080, "http://[::1]:8080"),
        ("http://[::1]", "", 8080, "http://[::1]:8080"),
        ("http://h:5000/cloud", "", 8080, "http://h:8080/cloud"),
        ("http://h:5000", "", None, "http://h:5000"),
    ],
)
def test_the_front_door_is_found_from_every_address(base: str, mount: str, port: int | None, front: str) -> None:
    assert front_base(base, mount, port) == front


def test_a_template_is_filled_or_left_out() -> None:
    values = {"base": "http://h", "project_id": "p", "tenant_id": "p", "user_id": None}
    assert render("$(base)s/volume/v3/%(project_id)s", values) == "http://h/volume/v3/p"
    assert render("http://x/$(tenant_id)s", values) == "http://x/p"
    assert render("http://x/$(user_id)s", values) is None
    assert render("http://x/100%", values) == "http://x/100%"


async def test_every_own_service_has_three_interfaces(identity: Identity) -> None:
    entries = await identity.catalogue.entries("http://h", project_id="p", user_id="u")
    assert [(one["type"], one["name"]) for one in entries] == [("compute", "compute"), ("identity", "identity")]
    for one in entries:
        assert {endpoint["interface"] for endpoint in one["endpoints"]} == {"public", "internal", "admin"}
        assert {endpoint["region"] for endpoint in one["endpoints"]} == {"RegionOne"}
    assert {endpoint["url"] for endpoint in entries[0]["endpoints"]} == {"http://h/compute/v2.1"}
