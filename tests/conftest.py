# SPDX-License-Identifier: Apache-2.0
"""Fixtures that all tests share, and the documented switches.

CUMULET_TEST_GUESTS=0 leaves real guests out; CUMULET_TEST_DATABASE=postgresql
runs every cloud of the suite on a PostgreSQL instead of SQLite;
CUMULET_TEST_SPREAD=1 runs them with their roles apart, on PostgreSQL and RabbitMQ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from cumulet.kernel import clock
from tests.ceph import ceph, ceph_alone, ceph_pool, ceph_session  # noqa: F401 - fixtures of all tests
from tests.cloud import Databases
from tests.directory import slapd, slapd_session  # noqa: F401 - fixtures of all tests
from tests.observed import (  # noqa: F401 - hooks and fixtures of all tests
    _answers_are_as_declared,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from tests.postgres import postgres_server
from tests.rabbit import rabbit, rabbit_alone, rabbit_broker, rabbit_shared  # noqa: F401 - fixtures of all tests
from tests.scratch import use_memory
from tests.together import ALONE, Buses

use_memory()

# How fast this machine is, is no property of the code.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Real guests are tested unless somebody says aloud that this machine is not for that."""
    if os.environ.get("CUMULET_TEST_GUESTS") == "0":
        off = pytest.mark.skip(reason="CUMULET_TEST_GUESTS=0: real guests are left out on this machine")
        for item in items:
            if "machine" in item.keywords:
                item.add_marker(off)
    if os.environ.get("CUMULET_TEST_SPREAD") == "1":
        names = tuple(f"tests/contract/{name}" for name in ALONE)
        items[:] = [item for item in items if not item.nodeid.startswith(names)]


@pytest.fixture(autouse=True)
def _the_real_clock() -> Iterator[None]:
    """A clock that a test put in goes with it."""
    yield
    clock.use(clock.SystemClock())


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The DSN of a real PostgreSQL that this session started."""
    with postgres_server() as dsn:
        yield dsn


@pytest.fixture(scope="session", autouse=True)
def _database_of_the_session(request: pytest.FixtureRequest) -> None:
    """Put all clouds on PostgreSQL when the environment says so."""
    if os.environ.get("CUMULET_TEST_DATABASE") == "postgresql":
        Databases.server = request.getfixturevalue("postgres")
    if os.environ.get("CUMULET_TEST_SPREAD") == "1":
        Databases.server = request.getfixturevalue("postgres")
        Buses.node = request.getfixturevalue("rabbit_broker")
