#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Exports the published default policies as facts: rule name → check string, scopes, operations.

    .venv/bin/python tools/policy_facts.py        rewrites tests/rbac/keystone.json and glance.json

The services themselves are installed into an environment of their own under
build/ and only asked for their rules; deprecated forms are left out.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
ENVIRONMENT = ROOT / "build" / "policy-facts"
SERVICES = {
    "keystone": ("keystone==30.*", "keystone.common.policies"),
    "glance": ("glance==33.*", "glance.policies"),
}
ASK = """
import importlib, json, sys
rules = importlib.import_module(sys.argv[1]).list_rules()
json.dump({rule.name: {
    "check": rule.check_str,
    "scopes": rule.scope_types,
    "operations": sorted(
        {f"{method} {one['path']}" for one in getattr(rule, "operations", ())
         for method in ([one["method"]] if isinstance(one["method"], str) else one["method"])}),
} for rule in rules}, sys.stdout)
"""


def main() -> None:
    uv = str(BIN / "uv")
    python = ENVIRONMENT / "bin" / "python"
    subprocess.run(
        [uv, "venv", "-q", "--allow-existing", "--python", str(BIN / "python"), str(ENVIRONMENT)], check=True
    )
    wanted = [requirement for requirement, _ in SERVICES.values()]
    subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *wanted, "setuptools<81"], check=True)
    for service, (requirement, module) in SERVICES.items():
        told = subprocess.run([str(python), "-W", "ignore", "-c", ASK, module], check=True, capture_output=True)
        facts = {"source": requirement, "rules": json.loads(told.stdout)}
        file = ROOT / "tests" / "rbac" / f"{service}.json"
        file.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        print(f"{file.relative_to(ROOT)}: {len(facts['rules'])} rules")


if __name__ == "__main__":
    main()
