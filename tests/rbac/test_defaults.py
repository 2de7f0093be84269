# SPDX-License-Identifier: Apache-2.0
"""Our rules decide as the published ones do: every rule × persona × target, with oslo.policy as the judge."""

from __future__ import annotations

import pytest

from cumulet.identity.policy import RULES as IDENTITY
from cumulet.image.policy import RULES as IMAGE
from cumulet.kernel.policy import Policy, Rule
from tests.rbac.personas import PERSONAS, targets
from tests.rbac.published import ANY_SCOPE, SERVICES, allows, facts, keys

RULES = {"identity": IDENTITY, "image": IMAGE}
OWN = ("cumulet:",)
"""Beginnings of the names of rules that are nobody else's."""


def shared(service: str) -> list[Rule]:
    return [rule for rule in RULES[service] if not rule.name.startswith(OWN)]


@pytest.mark.parametrize("service", SERVICES)
def test_every_rule_has_a_published_name(service: str) -> None:
    assert {rule.name for rule in shared(service)} - set(facts(service)) == set()


@pytest.mark.parametrize("service", SERVICES)
def test_every_rule_has_the_published_scopes(service: str) -> None:
    wrong = {
        rule.name: (sorted(rule.scopes), sorted(scopes))
        for rule in shared(service)
        if set(rule.scopes) != set(scopes := facts(service)[rule.name]["scopes"] or ANY_SCOPE)
    }
    assert wrong == {}


@pytest.mark.parametrize("service", SERVICES)
def test_every_decision_is_the_published_one(service: str) -> None:
    policy, things = Policy(RULES[service]), targets(set(keys(service)))
    differ = []
    answers: dict[str, list[bool]] = {persona: [] for persona in PERSONAS}
    for rule in shared(service):
        for persona, caller in PERSONAS.items():
            for number, target in enumerate(things):
                published = allows(service, rule.name, caller, target)
                answers[persona].append(published)
                if policy.allows(rule.name, caller, target) != published:
                    differ.append((rule.name, persona, number))
    assert differ == []
    # the rows mean something only when they tell the personas apart; images know neither domains nor the system
    apart = len({tuple(row) for row in answers.values()})
    assert apart >= (7 if service == "image" else len(PERSONAS))
