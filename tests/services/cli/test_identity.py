# SPDX-License-Identifier: Apache-2.0
"""`cumulet identity rotate` on a running cloud: tokens of before stay good, new ones are sealed with another key."""

from __future__ import annotations

import json

from tests.services.cli.conftest import Served


def test_rotate(cloud: Served) -> None:
    session = cloud.session()
    before = session.token()
    assert json.loads(cloud.said("identity", "rotate", "--json")) == {"keys": 2}
    assert "new key" in cloud.said("identity", "rotate")
    assert session.token() == before
    assert session.call("identity", "GET", "/auth/projects")["projects"]
    assert cloud.session().call("identity", "GET", "/auth/projects")["projects"]
    refused = cloud.run("identity", "rotate", cloud="cumulet-alt")
    assert refused.exit_code == 1
