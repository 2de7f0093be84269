# SPDX-License-Identifier: Apache-2.0
"""Which range a new cloud takes for its external network."""

from __future__ import annotations

from cumulet.network.logic.bootstrap import free_range


def test_the_first_range_without_a_route_is_taken() -> None:
    assert free_range([]) == "172.24.4.0/24"
    assert free_range(["10.0.0.0/8", "192.0.2.1"]) == "172.24.4.0/24"
    assert free_range(["172.24.4.0/25", "172.24.5.7"]) == "172.24.6.0/24"
    assert free_range(["172.16.0.0/12"]) == "172.24.4.0/24", "with nothing free it is the usual one"
