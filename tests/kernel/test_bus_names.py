# SPDX-License-Identifier: Apache-2.0
"""Names, rights and addresses on a broker, without one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cumulet.kernel.bus import names
from cumulet.kernel.bus.names import CONTROLLER, Address, rights_of, user_of
from cumulet.kernel.errors import Invalid
from cumulet.kernel.hostnames import host_of

RIGHTS = rights_of("h1", calls=["a.conductor", "b.api"], serves=["a.agent"])


@pytest.mark.parametrize(
    ("right", "name", "allowed"),
    [
        ("configure", "cumulet/host/h1/a.agent", True),
        ("configure", "cumulet/host/h1x/a.agent", False),
        ("configure", "cumulet/host/h1.x/a.agent", False),
        ("configure", "x/cumulet/host/h1/a.agent", False),
        ("configure", "cumulet/role/a.conductor", False),
        ("configure", "cumulet/own/answers/x", False),
        ("write", "cumulet/role", True),
        ("write", "cumulet/answers", True),
        ("write", "cumulet/poison", True),
        ("write", "cumulet/host/h1/all/a.agent/1", True),
        ("write", "cumulet/role/a.conductor", False),
        ("write", "cumulet/all", False),
        ("write", "amq.default", False),
        ("write", "cumulet/host/h2/a.agent", False),
        ("read", "cumulet/all", True),
        ("read", "cumulet/host/h1/answers/1", True),
        ("read", "cumulet/role", False),
        ("read", "cumulet/answers", False),
        ("read", "cumulet/poison", False),
        ("read", "cumulet/host/h2/a.agent", False),
    ],
)
def test_rights_of_a_host(right: str, name: str, allowed: bool) -> None:
    # the broker searches, it does not match from the start
    assert bool(re.search(getattr(RIGHTS, right), name)) is allowed


@pytest.mark.parametrize(
    ("exchange", "direction", "key", "allowed"),
    [
        (names.ROLES, 0, "a.conductor", True),
        (names.ROLES, 0, "b.api", True),
        (names.ROLES, 0, "aXconductor", False),
        (names.ROLES, 0, "a.scheduler", False),
        (names.ROLES, 1, "a.conductor", False),
        (names.ALL, 1, "a.agent", True),
        (names.ALL, 1, "#", False),
        (names.ALL, 1, "a.conductor", False),
        (names.ALL, 0, "a.agent", False),
    ],
)
def test_topics_of_a_host(exchange: str, direction: int, key: str, allowed: bool) -> None:
    assert bool(re.search(RIGHTS.topics[exchange][direction], key)) is allowed


def test_a_users_name_tells_its_host() -> None:
    assert host_of(user_of("h1.example", "/")) == "h1.example"
    assert host_of(user_of("h1", "a+b")) == "h1"
    assert host_of("cumulet") is None
    assert user_of("h1", "one") != user_of("h1", "two")


def test_the_page_for_operators_says_what_is_set() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/rabbitmq.md").read_text().replace("\\|", "|")
    for expression in (RIGHTS.configure, RIGHTS.write, RIGHTS.read):
        assert f"`{expression}`" in page
    assert f"cumulet '{CONTROLLER.configure}' '{CONTROLLER.write}' '{CONTROLLER.read}'" in page


def test_addresses() -> None:
    one = Address.parse("amqp://me@mq/cloud")
    assert (one.hosts, one.user, one.vhost, one.tls, one.password) == ((("mq", 5672),), "me", "cloud", False, "")
    two = Address.parse("amqps://a%40b:s%2Fx@m1:5000,[::1]/?cafile=/ca.pem")
    assert two.hosts == (("m1", 5000), ("::1", 5671))
    assert (two.user, two.password, two.vhost, two.tls, two.ca_file) == ("a@b", "s/x", "/", True, "/ca.pem")
    assert Address.parse("amqp://me@mq/a%2Fb", "pw").vhost == "a/b"
    assert Address.parse("amqp://me:old@mq/", "new").password == "new"
    assert Address.parse("amqp://cumulet-host+h1+v@mq/v").user == "cumulet-host+h1+v"
    shown = f"{two} {two!r}"
    assert "s/x" not in shown
    assert "a@b@m1:5000" in shown


@pytest.mark.parametrize(
    "url",
    ["", "http://me:hunter2@mq/", "amqp://mq/", "amqp://:hunter2@mq/", "amqp://me:hunter2@/", "amqp://me:hunter2@mq:x/",
     "amqp://me:hunter2@mq:99999/", "amqp://me:hunter2@mq/?heartbeat=0", "amqp://me:hunter2@mq,/x"],
)  # fmt: skip
def test_wrong_addresses_are_told_without_the_password(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        Address.parse(url)
    assert "hunter2" not in str(caught.value)
