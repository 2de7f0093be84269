# SPDX-License-Identifier: Apache-2.0
"""Identity's rules: every persona × every rule × every target, decided as oslo.policy decides; and all are used."""

from __future__ import annotations

from typing import Any

import pytest
from oslo_config import cfg
from oslo_policy import policy as oslo

from cumulet.identity.api import ROUTES
from cumulet.identity.policy import RULES
from cumulet.kernel.context import Context
from cumulet.kernel.policy import Policy
from tests.kernel.test_policy import flatten

ROLES = {
    "admin": ["admin", "manager", "member", "reader"],
    "manager": ["manager", "member", "reader"],
    "member": ["member", "reader"],
    "reader": ["reader"],
    "service": ["service"],
}
SCOPES: dict[str, dict[str, Any]] = {
    "system": {"system": True},
    "domain": {"domain_id": "d1"},
    "project": {"project_id": "p1", "project_domain_id": "d1"},
}
PERSONAS = {
    f"{scope} {role}": Context("", user_id="u1", user_domain_id="d1", roles=roles, **where)
    for scope, where in SCOPES.items()
    for role, roles in ROLES.items()
}
PERSONAS["unscoped"] = Context("", user_id="u1", user_domain_id="d1")


def _thing(own: bool) -> dict[str, Any]:
    mark = "1" if own else "2"
    return {
        "user_id": f"u{mark}",
        "target": {
            "user": {"id": f"u{mark}", "domain_id": f"d{mark}"},
            "group": {"domain_id": f"d{mark}"},
            "project": {"id": f"p{mark}", "domain_id": f"d{mark}"},
            "domain": {"id": f"d{mark}"},
            "domain_id": f"d{mark}",
            "role": {"name": "member" if own else "admin", "domain_id": None if own else "d2"},
            "token": {"user_id": f"u{mark}"},
            "credential": {"user_id": f"u{mark}"},
            "trust": {"trustor_user_id": f"u{mark}", "trustee_user_id": "u3"},
            "limit": {"project_id": f"p{mark}", "project": {"domain_id": f"d{mark}"}},
        },
    }


TARGETS = {
    "own": _thing(True),
    "foreign": _thing(False),
    "nothing": {"target": {}},
    "a limit of the own domain": {"target": {"limit": {"project_id": None, "domain": {"id": "d1"}}}},
    "a limit of a domain": {"target": {"limit": {"project_id": None, "domain": {"id": "d2"}}}},
    "a domain as project": {"target": {"project": {"id": "d1", "domain_id": None}}},
}


@pytest.fixture(scope="module")
def enforcer() -> oslo.Enforcer:
    conf = cfg.ConfigOpts()
    conf([], project="policy-test", default_config_files=[], default_config_dirs=[])
    made = oslo.Enforcer(conf, use_conf=False)
    for rule in RULES:
        made.register_default(oslo.RuleDefault(rule.name, rule.check, scope_types=list(rule.scopes)))
    made.set_rules(oslo.Rules.from_dict({rule.name: rule.check for rule in RULES}), use_conf=False)
    return made


@pytest.mark.parametrize("persona", PERSONAS)
def test_every_decision_is_that_of_the_real_evaluator(enforcer: oslo.Enforcer, persona: str) -> None:
    policy, caller = Policy(RULES), PERSONAS[persona]
    for rule in RULES:
        for name, target in TARGETS.items():
            real = enforcer.enforce(rule.name, flatten(target), dict(caller.policy_view()))
            assert policy.allows(rule.name, caller, target) == real, (rule.name, persona, name)


def test_every_route_has_a_rule_and_every_rule_a_use() -> None:
    names = {rule.name for rule in RULES}
    used = {route.policy for route in ROUTES if route.policy is not None}
    assert used <= names
    public = {route.at for route in ROUTES if route.public}
    signed = {"POST /v3/OS-OAUTH1/request_token", "POST /v3/OS-OAUTH1/access_token"}
    refusals = {"GET /v3/OS-SIMPLE-CERT/ca", "GET /v3/OS-SIMPLE-CERT/certificates"}
    refusals |= {f"{verb} /v3/OS-OAUTH2/token" for verb in ("GET", "HEAD", "PUT", "PATCH", "DELETE")}
    proofs = {"POST /v3/auth/tokens", "POST /v3/users/{user_id}/password", "POST /v3/OS-OAUTH2/token"}
    assert public == {"GET /", "GET /v3"} | proofs | signed | refusals
    assert all((route.policy is None) == route.public for route in ROUTES)
    mentioned = {name for rule in RULES for name in names if f"rule:{name}" in rule.check}
    within = {name for name in names if "domain_role" in name}  # by handlers, on what they find
    within |= {"identity:list_trusts_for_trustor", "identity:list_trusts_for_trustee"}
    within |= {"identity:list_role_assignments_for_tree", "identity:get_security_compliance_domain_config"}
    assert names - used - mentioned - within == set()


@pytest.mark.parametrize(
    ("persona", "rule", "target", "allowed"),
    [
        ("project admin", "identity:create_user", "foreign", True),
        ("system admin", "identity:create_user", "foreign", True),
        ("domain manager", "identity:create_user", "own", True),
        ("domain manager", "identity:create_user", "foreign", False),
        ("domain member", "identity:create_user", "own", False),
        ("project manager", "identity:create_user", "own", False),
        ("system reader", "identity:list_users", "nothing", True),
        ("project reader", "identity:list_users", "nothing", False),
        ("project member", "identity:get_user", "own", True),
        ("project member", "identity:get_user", "foreign", False),
        ("project member", "identity:get_project", "own", True),
        ("project member", "identity:get_project", "foreign", False),
        ("project service", "identity:validate_token", "foreign", True),
        ("project service", "identity:check_token", "foreign", False),
        ("project service", "identity:list_revoke_events", "nothing", True),
        ("project member", "identity:list_revoke_events", "nothing", False),
        ("domain manager", "identity:create_grant", "own", True),
        ("domain manager", "identity:create_grant", "foreign", False),
        ("domain admin", "identity:create_domain", "nothing", False),
        ("system admin", "identity:create_application_credential", "own", False),
        ("project reader", "identity:create_application_credential", "own", True),
        ("unscoped", "identity:get_region", "nothing", True),
    ],
)
def test_the_decisions_that_matter_most(persona: str, rule: str, target: str, allowed: bool) -> None:
    assert Policy(RULES).allows(rule, PERSONAS[persona], TARGETS[target]) == allowed
