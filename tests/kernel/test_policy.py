# SPDX-License-Identifier: Apache-2.0
"""The evaluator of policy rules agrees with oslo.policy, which every operator's override files were written for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from oslo_config import cfg
from oslo_policy import policy as oslo

from cumulet.kernel.context import Context
from cumulet.kernel.policy import Policy, Rule, compile_check

ANY_SCOPE = ("system", "domain", "project")

CHECKS = [
    "",
    "@",
    "!",
    "role:admin",
    "role:ADMIN",
    "not role:admin",
    "not not role:admin",
    "role:member and project_id:%(project_id)s",
    "role:member or role:reader and system_scope:all",
    "(role:member or role:reader) and system_scope:all",
    "role:admin or (role:reader and project_id:%(project_id)s) or user_id:%(user_id)s",
    "rule:named",
    "not rule:named",
    "rule:absent",
    "role:admin AND role:member",
    "role:admin Or role:member",
    "project_id:%(project_id)s",
    "tenant_id:%(tenant_id)s",
    "project_id:%(target.project.id)s",
    "domain_id:%(target.user.domain_id)s",
    "domain_id:None",
    "not domain_id:None",
    "None:%(target.role.domain_id)s",
    "not None:%(target.role.domain_id)s",
    "None:%(not.there)s",
    "'manager':%(target.role.name)s or 'member':%(target.role.name)s",
    '"member":%(target.role.name)s',
    "True:%(enabled)s",
    "False:%(enabled)s",
    "1:%(number)s",
    "member:%(target.role.name)s",
    "token.domain.id:%(target.user.domain_id)s",
    "token.project.domain.id:%(target.user.domain_id)s",
    "token.user.domain.id:d1",
    "is_admin:True",
    "roles:reader",
    "service_roles:service",
    "nothing:%(project_id)s",
    "system_scope:all and not role:member",
]

CALLERS = [
    Context("", user_id="u1", user_domain_id="d1", project_id="p1", project_domain_id="d1", roles=["admin"]),
    Context("", user_id="u1", user_domain_id="d1", project_id="p1", project_domain_id="d1", roles=["Member", "reader"]),
    Context("", user_id="u2", user_domain_id="d2", project_id="p2", project_domain_id="d2", roles=["reader"]),
    Context("", user_id="u2", user_domain_id="d2", domain_id="d2", roles=["manager", "member", "reader"]),
    Context("", user_id="u1", user_domain_id="d1", system=True, roles=["reader"]),
    Context("", user_id="u1", user_domain_id="d1", system=True, roles=["admin", "member"]),
    Context("", user_id="u3", user_domain_id="d1", roles=[]),
    Context("", user_id="u4", user_domain_id="d1", project_id="p1", roles=["service"], service_roles=["service"]),
]

TARGETS: list[dict[str, Any]] = [
    {},
    {"project_id": "p1", "tenant_id": "p1", "user_id": "u1", "enabled": True, "number": 1},
    {"project_id": "p2", "tenant_id": "p2", "user_id": "u2", "enabled": False, "number": "1"},
    {"project_id": None, "user_id": None, "enabled": None},
    {"target": {"project": {"id": "p1"}, "user": {"domain_id": "d1"}, "role": {"name": "member", "domain_id": None}}},
    {"target": {"project": {"id": "p2"}, "user": {"domain_id": "d2"}, "role": {"name": "admin", "domain_id": "d2"}}},
]


def flatten(target: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested members under dotted names, the way upstream hands its targets over."""
    flat: dict[str, Any] = {}
    for name, value in target.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


@pytest.fixture
def enforcer() -> oslo.Enforcer:
    conf = cfg.ConfigOpts()
    conf([], project="policy-test", default_config_files=[], default_config_dirs=[])
    made = oslo.Enforcer(conf, use_conf=False)
    return made


def cases() -> Iterator[tuple[Context, dict[str, Any]]]:
    return itertools.product(CALLERS, TARGETS)


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_agrees_with_the_real_one(enforcer: oslo.Enforcer, check: str) -> None:
    enforcer.set_rules(oslo.Rules.from_dict({"named": "role:member", "checked": check}), use_conf=False)
    policy = Policy([Rule("named", "role:member", ANY_SCOPE), Rule("checked", check, ANY_SCOPE)])
    for caller, target in cases():
        real = enforcer.enforce("checked", flatten(target), dict(caller.policy_view()))
        for shape in (target, flatten(target)):
            assert policy.allows("checked", caller, shape) == real, (check, caller, shape)


def test_the_table_tells_the_checks_apart() -> None:
    """Each check is true for some case and false for another, but for those that are constant by meaning."""
    policy = Policy([Rule("named", "role:member", ANY_SCOPE), *(Rule(check, check, ANY_SCOPE) for check in CHECKS)])
    constant = {"", "@", "!", "rule:absent", "None:%(not.there)s", "nothing:%(project_id)s"}
    constant |= {"member:%(target.role.name)s"}
    for check in CHECKS:
        answers = {policy.allows(check, caller, target) for caller, target in cases()}
        assert (len(answers) == 1) == (check in constant), check


@pytest.mark.parametrize("scopes", [("project",), ("system",), ("domain",), ("system", "project"), ANY_SCOPE])
def test_scopes_agree_with_the_real_one(enforcer: oslo.Enforcer, scopes: tuple[str, ...]) -> None:
    enforcer.register_default(oslo.RuleDefault("scoped", "", scope_types=list(scopes)))
    enforcer.set_rules(oslo.Rules.from_dict({"scoped": ""}), use_conf=False)
    policy = Policy([Rule("scoped", "", scopes)])
    for caller in CALLERS:
        real = enforcer.enforce("scoped", {}, dict(caller.policy_view()))
        assert policy.allows("scoped", caller, {}) == real, (scopes, caller)


def test_an_override_replaces_the_default() -> None:
    policy = Policy([Rule("a", "!"), Rule("b", "rule:a")], overrides={"a": "role:reader"})
    reader, admin = CALLERS[2], CALLERS[0]
    assert policy.allows("a", reader)
    assert policy.allows("b", reader)
    assert not policy.allows("a", admin)


@pytest.mark.parametrize("text", ["(role:admin", "role:admin)", "role:admin and", "not", "admin", "role:a role:b"])
def test_a_malformed_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        compile_check(text, lambda name: lambda creds, target: True)


def test_an_absent_target_is_the_caller_itself() -> None:
    policy = Policy([Rule("own", "user_id:%(user_id)s and project_id:%(project_id)s")])
    assert policy.allows("own", CALLERS[0])
