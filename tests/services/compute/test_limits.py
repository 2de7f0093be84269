# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from cumulet.compute.limits import cost_of, exceeded, fits, message_of

COST = {"instances": 1, "cores": 2, "ram": 512}


@pytest.mark.parametrize(
    ("used", "limits", "most", "fitting"),
    [
        ({}, {"instances": 10, "cores": 20, "ram": 51200}, 3, 3),
        ({"instances": 9}, {"instances": 10, "cores": 20, "ram": 51200}, 3, 1),
        ({"cores": 19}, {"instances": 10, "cores": 20, "ram": 51200}, 3, 0),
        ({"cores": 99}, {"instances": -1, "cores": -1, "ram": -1}, 3, 3),
        ({"ram": 600}, {"instances": 10, "cores": 20, "ram": 512}, 3, 0),
    ],
)
def test_how_many_fit(used: dict[str, int], limits: dict[str, int], most: int, fitting: int) -> None:
    assert fits(COST, used, limits, most) == fitting


def test_the_message_names_all_that_is_over() -> None:
    over = exceeded({"instances": 2, "cores": 4}, {"instances": 9, "cores": 18}, {"instances": 10, "cores": 20})
    assert message_of(over) == (
        "Quota exceeded for instances, cores: Requested 2, 4, but already used 9, 18 of 10, 20 instances, cores"
    )


def test_the_cost_of_a_server() -> None:
    assert cost_of({"vcpus": 2, "ram": 512, "disk": 20}) == COST
