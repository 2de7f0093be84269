# SPDX-License-Identifier: Apache-2.0
"""Who asks: the personas of the published policies, and the things that may be asked about."""

from __future__ import annotations

from typing import Any

from cumulet.kernel.context import Context

MY_USER, MY_PROJECT, MY_DOMAIN = "a" * 32, "b" * 32, "c" * 32
OTHER_USER, OTHER_PROJECT, OTHER_DOMAIN = "d" * 32, "e" * 32, "f" * 32
_ROLES = {"reader": ["reader"], "member": ["member", "reader"], "manager": ["manager", "member", "reader"]}
_ROLES |= {"admin": ["admin", *_ROLES["manager"]], "service": ["service"]}


def _on_project(role: str, project: str = MY_PROJECT, domain: str = MY_DOMAIN, user: str = MY_USER) -> Context:
    return Context(
        "", user_id=user, user_domain_id=domain, project_id=project, project_domain_id=domain, roles=_ROLES[role]
    )


def _on_domain(role: str) -> Context:
    return Context("", user_id=MY_USER, user_domain_id=MY_DOMAIN, domain_id=MY_DOMAIN, roles=_ROLES[role])


def _on_system(role: str) -> Context:
    return Context("", user_id=MY_USER, user_domain_id=MY_DOMAIN, system=True, roles=_ROLES[role])


PERSONAS = {
    "without a scope": Context("", user_id=MY_USER, user_domain_id=MY_DOMAIN),
    "another project's member": _on_project("member", OTHER_PROJECT, OTHER_DOMAIN, OTHER_USER),
    "reader": _on_project("reader"),
    "member": _on_project("member"),
    "manager": _on_project("manager"),
    "admin": _on_project("admin"),
    "domain reader": _on_domain("reader"),
    "domain manager": _on_domain("manager"),
    "domain admin": _on_domain("admin"),
    "system reader": _on_system("reader"),
    "system admin": _on_system("admin"),
    "service": _on_project("service"),
}

KINDS: dict[str, dict[str, Any]] = {
    "user": {"mine": MY_USER, "other": OTHER_USER},
    "project": {"mine": MY_PROJECT, "other": OTHER_PROJECT},
    "domain": {"mine": MY_DOMAIN, "other": OTHER_DOMAIN},
}


def kind_of(key: str) -> str:
    """What the value of a target's member is: a user, a project, a domain, or something by its own name."""
    if "domain" in key:
        return "domain"
    if "user" in key or "trustee" in key or "trustor" in key:
        return "user"
    return "project" if "project" in key or key in ("owner", "member_id") else key


def targets(keys: set[str]) -> list[dict[str, Any]]:
    """Things of the caller's, of somebody else's, and half of each, with every member that some rule looks at."""
    plain = {"visibility": "private", "target.role.name": "member"}

    def made(which: dict[str, str], otherwise: str, **over: Any) -> dict[str, Any]:
        target = {}
        for key in keys:
            kind = kind_of(key)
            target[key] = KINDS[kind][which.get(kind, otherwise)] if kind in KINDS else plain[key]
        return target | {key.replace("__", "."): value for key, value in over.items()}

    nowhere = {key: None for key in keys if kind_of(key) == "domain"} | {"target.limit.project_id": None}
    return [
        {},
        made({}, "mine"),
        made({}, "other"),
        made({"user": "mine"}, "other"),
        made({"project": "mine"}, "other"),
        made({"domain": "mine"}, "other", target__role__name="manager"),
        made({"domain": "mine"}, "other", target__role__name="admin", target__role__domain_id=None),
        made({}, "mine") | nowhere,
        made({}, "other") | nowhere,
        *(made({}, "other", visibility=visibility) for visibility in ("public", "community", "shared")),
        made({}, "other", visibility="shared", member_id=MY_PROJECT),
        made({"domain": "mine"}, "other", target__user__domain_id=OTHER_DOMAIN),
        made({"domain": "mine"}, "other", target__group__domain_id=OTHER_DOMAIN),
        made({"domain": "mine"}, "other", target__project__domain_id=OTHER_DOMAIN),
        made({"domain": "mine"}, "other", target__role__domain_id=OTHER_DOMAIN, target__role__name="reader"),
    ]
