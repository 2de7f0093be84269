# SPDX-License-Identifier: Apache-2.0
"""How rows are shown: the published members, extras beside them, absent as null where that is published."""

from __future__ import annotations

from typing import Any

from cumulet.kernel import clock
from cumulet.kernel.db import Row


def user(row: Row) -> dict[str, Any]:
    shown = {**row["extra"], "id": row["id"], "name": row["name"], "domain_id": row["domain_id"]}
    shown |= {"enabled": row["enabled"], "password_expires_at": None, "options": row["options"]}
    if row.get("password_expires_at") is not None:
        shown["password_expires_at"] = clock.iso_micro(row["password_expires_at"])
    if row["default_project_id"] is not None:
        shown["default_project_id"] = row["default_project_id"]
    return shown


def group(row: Row) -> dict[str, Any]:
    return {**row["extra"], **{name: row[name] for name in ("id", "name", "domain_id", "description")}}


def group_of_user(row: Row) -> dict[str, Any]:
    return {**group(row), "membership_expires_at": None}


def project(row: Row) -> dict[str, Any]:
    return {
        **domain(row),
        "domain_id": row["domain_id"] or None,
        "parent_id": row["parent_id"] or None,
        "is_domain": row["is_domain"],
    }


def domain(row: Row) -> dict[str, Any]:
    names = ("id", "name", "description", "enabled", "tags", "options")
    return {**row["extra"], **{name: row[name] for name in names if name in row}}


def role(row: Row) -> dict[str, Any]:
    shown = {**row["extra"], "id": row["id"], "name": row["name"], "domain_id": row["domain_id"] or None}
    return shown | {"description": row["description"], "options": row["options"]}


def service(row: Row) -> dict[str, Any]:
    return {**row["extra"], **{name: row[name] for name in ("id", "name", "type", "enabled")}}


def endpoint(row: Row) -> dict[str, Any]:
    names = ("id", "interface", "region_id", "service_id", "url", "enabled")
    return {**row["extra"], **{name: row[name] for name in names}, "region": row["region_id"]}


def region(row: Row) -> dict[str, Any]:
    return {**row["extra"], **{name: row[name] for name in ("id", "description", "parent_region_id")}}


def access_rule(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "service", "path", "method")}


def credential(row: Row, roles: dict[str, Row]) -> dict[str, Any]:
    names = ("id", "name", "description", "user_id", "project_id")
    shown = {name: row[name] for name in names}
    shown |= {"system": None, "unrestricted": row["unrestricted"]}
    shown["expires_at"] = None if row["expires_at"] is None else clock.iso_micro(row["expires_at"])
    shown["roles"] = [role(roles[role_id]) for role_id in row["role_ids"] if role_id in roles]
    if row["access_rules"] is not None:
        shown["access_rules"] = [access_rule(rule) for rule in row["access_rules"]]
    return shown
