# SPDX-License-Identifier: Apache-2.0
"""The published default policies (tools/policy_facts.py), evaluated by oslo.policy itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from oslo_config import cfg
from oslo_policy import policy as oslo

from cumulet.kernel.context import Context

SERVICES = {"identity": "keystone", "image": "glance"}
ANY_SCOPE = ("system", "domain", "project")


@cache
def facts(service: str) -> dict[str, dict[str, Any]]:
    """Published rule name → check, scopes, operations."""
    rules: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / f"{SERVICES[service]}.json").read_text())[
        "rules"
    ]
    return rules


@cache
def keys(service: str) -> frozenset[str]:
    """Every member of a target that some rule of the service looks at."""
    return frozenset(key for rule in facts(service).values() for key in re.findall(r"%\(([^)]+)\)s", rule["check"]))


@cache
def enforcer(service: str) -> oslo.Enforcer:
    conf = cfg.ConfigOpts()
    conf([], project="rbac-test", default_config_files=[], default_config_dirs=[])
    made = oslo.Enforcer(conf, use_conf=False)
    for name, rule in facts(service).items():
        made.register_default(oslo.RuleDefault(name, rule["check"], scope_types=rule["scopes"]))
    made.set_rules(oslo.Rules.from_dict({name: rule["check"] for name, rule in facts(service).items()}), use_conf=False)
    return made


def allows(service: str, rule: str, caller: Context, target: Mapping[str, Any]) -> bool:
    """What the real evaluator says to the published rule."""
    answer = enforcer(service).enforce(rule, dict(target), dict(caller.policy_view()))
    return bool(answer)
