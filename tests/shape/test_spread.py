# SPDX-License-Identifier: Apache-2.0
"""What is left out of spread runs is there: a row that names nothing would hide that its test is gone or renamed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.together import ALONE

CONTRACT = Path(__file__).parents[1] / "contract"


@pytest.mark.parametrize("row", sorted(ALONE))
def test_it_is_there(row: str) -> None:
    path, _, name = row.partition("[")[0].partition("::")
    text = (CONTRACT / path).read_text()
    assert not name or f"def {name}(" in text
    assert ALONE[row]
