# SPDX-License-Identifier: Apache-2.0
"""The shapes of identity's answers, by route: what its OpenAPI document says and the tests hold it to.

Most routes are of one form (a noun, its collection), so the table is of nouns;
their further members are the extras that clients may store.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cumulet.kernel.http.fields import BOOL, COUNT, Schema, array, nullable, record

_TEXT: Final[Schema] = {"type": "string"}
_MAYBE: Final = nullable(_TEXT)
_OBJECT: Final[Schema] = {"type": "object"}
_ANYTHING: Final[Schema] = {}
_LINKS: Final = record({"self": _TEXT, "next": _MAYBE, "previous": _MAYBE}, ("self",))


class Noun(NamedTuple):
    """One kind of thing: its path, its names in documents, its members."""

    path: str
    one: str
    many: str
    members: dict[str, Schema]
    optional: dict[str, Schema] = {}

    @property
    def shape(self) -> Schema:
        known = {**self.members, **self.optional, "links": _OBJECT}
        return record(known, tuple(self.members), open=True)


_NAMED = {"id": _TEXT, "name": _TEXT}
_OWNED = {**_NAMED, "domain_id": _TEXT}
_AT_FEDERATION = {"id": _TEXT, "enabled": BOOL, "description": _MAYBE}
_LIMITED = {"id": _TEXT, "service_id": _TEXT, "region_id": _MAYBE, "resource_name": _TEXT, "description": _MAYBE}
_USER = Noun("users/{user_id}", "user", "users", {**_OWNED, "enabled": BOOL, "options": _OBJECT},
             {"password_expires_at": _MAYBE, "default_project_id": _MAYBE})  # fmt: skip
_GROUP = Noun("groups/{group_id}", "group", "groups", {**_OWNED, "description": _TEXT})
_DOMAIN = Noun("domains/{domain_id}", "domain", "domains",
               {**_NAMED, "description": _MAYBE, "enabled": BOOL, "tags": array(_TEXT),
                "options": _OBJECT})  # fmt: skip
_PROJECT = Noun("projects/{project_id}", "project", "projects",
                {**_DOMAIN.members, "domain_id": _MAYBE, "parent_id": _MAYBE, "is_domain": BOOL},
                {"parents": _ANYTHING, "subtree": _ANYTHING})  # fmt: skip
_ROLE = Noun("roles/{role_id}", "role", "roles",
             {**_NAMED, "domain_id": _MAYBE, "description": _MAYBE, "options": _OBJECT})  # fmt: skip
_ENDPOINT = Noun("endpoints/{endpoint_id}", "endpoint", "endpoints",
                 {"id": _TEXT, "interface": {"enum": ["public", "internal", "admin"]}, "region_id": _MAYBE,
                  "region": _MAYBE, "service_id": _TEXT, "url": _TEXT, "enabled": BOOL})  # fmt: skip
_RULE = Noun("users/{user_id}/access_rules/{access_rule_id}", "access_rule", "access_rules",
             {"id": _TEXT, "service": _TEXT, "path": _TEXT, "method": _TEXT})  # fmt: skip
_REGISTERED_LIMIT = Noun("registered_limits/{registered_limit_id}", "registered_limit", "registered_limits",
                         {**_LIMITED, "default_limit": {"type": "integer"}})  # fmt: skip
_LIMIT = Noun("limits/{limit_id}", "limit", "limits",
              {**_LIMITED, "resource_limit": {"type": "integer"}, "project_id": _MAYBE,
               "domain_id": _MAYBE})  # fmt: skip
_NOUNS = (
    _USER, _GROUP, _DOMAIN, _PROJECT, _ROLE, _ENDPOINT, _RULE, _REGISTERED_LIMIT, _LIMIT,
    Noun("services/{service_id}", "service", "services", {"id": _TEXT, "type": _TEXT, "enabled": BOOL},
         {"name": _MAYBE}),
    Noun("regions/{region_id}", "region", "regions",
         {"id": _TEXT, "description": _MAYBE, "parent_region_id": _MAYBE}),
    Noun("users/{user_id}/application_credentials/{application_credential_id}", "application_credential",
         "application_credentials",
         {**_NAMED, "description": _MAYBE, "project_id": _TEXT, "roles": array(_OBJECT), "unrestricted": nullable(BOOL),
          "expires_at": _MAYBE}),
    Noun("credentials/{credential_id}", "credential", "credentials",
         {"id": _TEXT, "user_id": _TEXT, "type": _TEXT, "blob": _ANYTHING, "project_id": _MAYBE}),
    Noun("policies/{policy_id}", "policy", "policies", {"id": _TEXT, "type": _TEXT, "blob": _ANYTHING}),
    Noun("OS-EP-FILTER/endpoint_groups/{endpoint_group_id}", "endpoint_group", "endpoint_groups",
         {**_NAMED, "filters": _OBJECT, "description": _MAYBE}),
    Noun("OS-TRUST/trusts/{trust_id}", "trust", "trusts",
         {"id": _TEXT, "trustor_user_id": _TEXT, "trustee_user_id": _TEXT, "project_id": _MAYBE,
          "impersonation": BOOL, "expires_at": _MAYBE, "remaining_uses": nullable(COUNT), "deleted_at": _MAYBE}),
    Noun("OS-OAUTH1/consumers/{consumer_id}", "consumer", "consumers", {"id": _TEXT, "description": _MAYBE}),
    Noun("OS-FEDERATION/identity_providers/{idp_id}", "identity_provider", "identity_providers",
         {**_AT_FEDERATION, "domain_id": _MAYBE, "remote_ids": array(_TEXT)}),
    Noun("OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}", "protocol", "protocols",
         {"id": _TEXT, "mapping_id": _TEXT}),
    Noun("OS-FEDERATION/mappings/{mapping_id}", "mapping", "mappings", {"id": _TEXT, "rules": array(_OBJECT)}),
    Noun("OS-FEDERATION/service_providers/{sp_id}", "service_provider", "service_providers",
         {**_AT_FEDERATION, "auth_url": _TEXT, "sp_url": _TEXT, "relay_state_prefix": _TEXT}),
)  # fmt: skip


def _one(noun: Noun) -> Schema:
    return record({noun.one: noun.shape}, (noun.one,))


def _many(noun: Noun, name: str | None = None) -> Schema:
    name = name or noun.many
    return record({name: array(noun.shape), "links": _LINKS, "truncated": BOOL}, (name, "links"))


_TOKEN = record(
    {
        "methods": array(_TEXT), "user": _OBJECT, "audit_ids": array(_TEXT), "expires_at": _TEXT, "issued_at": _TEXT,
        "project": _OBJECT, "domain": _OBJECT, "system": _OBJECT, "is_domain": BOOL, "roles": array(_OBJECT),
        "catalog": array(_OBJECT),
    },
    ("methods", "user", "audit_ids", "expires_at", "issued_at"),
    open=True,
)  # fmt: skip
_ASSIGNED = record({"role": _OBJECT, "user": _OBJECT, "group": _OBJECT, "scope": _OBJECT}, ("role", "scope"), open=True)
_TAGS = record({"tags": array(_TEXT), "links": _OBJECT}, ("tags",))
_CONFIG = record({"config": _OBJECT}, ("config",))
_SPECIAL: dict[str, Schema] = {
    "POST /v3/auth/tokens": record({"token": _TOKEN}, ("token",)),
    "GET /v3/auth/tokens": record({"token": _TOKEN}, ("token",)),
    "GET /v3/auth/projects": _many(_PROJECT),
    "GET /v3/auth/domains": _many(_DOMAIN),
    "GET /v3/auth/catalog": record({"catalog": array(_OBJECT), "links": _LINKS}, ("catalog", "links")),
    "GET /v3/users/{user_id}/groups": _many(_GROUP),
    "GET /v3/users/{user_id}/projects": _many(_PROJECT),
    "GET /v3/groups/{group_id}/users": _many(_USER),
    "GET /v3/projects/{project_id}/tags": _TAGS,
    "PUT /v3/projects/{project_id}/tags": _TAGS,
    "GET /v3/role_inferences": record({"role_inferences": array(_OBJECT)}, ("role_inferences",), open=True),
    "GET /v3/role_assignments": record(
        {"role_assignments": array(_ASSIGNED), "links": _LINKS, "truncated": BOOL}, ("role_assignments", "links")
    ),
    "GET /v3/OS-EP-FILTER/projects/{project_id}/endpoints": _many(_ENDPOINT),
    "GET /v3/OS-EP-FILTER/endpoints/{endpoint_id}/projects": _many(_PROJECT),
    "GET /v3/limits/model": record({"model": record({"name": _TEXT, "description": _TEXT}, ("name",))}, ("model",)),
    "PUT /v3/domains/{domain_id}/config": _CONFIG,
    "GET /v3/domains/{domain_id}/config": _CONFIG,
    "PATCH /v3/domains/{domain_id}/config": _CONFIG,
    "GET /v3/domains/config/default": _CONFIG,
}


def shapes(at: list[str]) -> dict[str, Schema]:
    """The shape of each of the routes ``at`` (``Route.at``) that has a declared one."""
    found = dict(_SPECIAL)
    for noun in _NOUNS:
        collection = f"/v3/{noun.path.rpartition('/')[0]}"
        found |= {f"{verb} /v3/{noun.path}": _one(noun) for verb in ("GET", "PUT", "PATCH")}
        found |= {f"POST {collection}": _one(noun), f"GET {collection}": _many(noun)}
    for noun in (_REGISTERED_LIMIT, _LIMIT):  # several are made at once
        found[f"POST /v3/{noun.many}"] = record({noun.many: array(noun.shape)}, (noun.many,))
    return {route: shape for route, shape in found.items() if route in at}
