# SPDX-License-Identifier: Apache-2.0
"""Clients' expressions: said in SQL where SQL can, else run by an engine that can't be made to hang."""

from __future__ import annotations

import pytest

from cumulet.compute.logic.listing import Expression, in_sql, pattern_of
from cumulet.kernel.errors import Invalid


@pytest.mark.parametrize(
    ("expression", "pattern"),
    [
        ("web", "%web%"), ("^web", "web%"), ("web$", "%web"), ("^web$", "web"), ("w.b", "%w_b%"),
        ("^a.*b$", "a%b"), ("^a.+b$", "a_%b"), ("50%", r"%50\%%"), ("a_b", r"%a\_b%"), (r"a\.b", "%a.b%"),
        (r"1\$", r"%1$%"), ("", "%%"),
    ],
)  # fmt: skip
def test_patterns(expression: str, pattern: str) -> None:
    assert in_sql(expression)
    assert pattern_of(expression) == pattern


@pytest.mark.parametrize("expression", ["[ab]", "a+", "(a)", "a{2}", r"\d", "a$b", "a?", "b*"])
def test_what_sql_cannot_say(expression: str) -> None:
    assert not in_sql(expression)


def test_an_expression_is_run_in_linear_time() -> None:
    assert not Expression("^(a+)+$").matches("a" * 5000 + "b")  # else this would not end before the world does


def test_what_the_engine_cannot_run_is_refused() -> None:
    with pytest.raises(Invalid):
        Expression("(?=a)")


def test_null_matches_nothing() -> None:
    assert not Expression("[ab]").matches(None)
