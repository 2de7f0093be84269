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


_REFERENCE = record(_NAMED, ("id", "name"))
_WITH_DOMAIN = record({**_NAMED, "domain": _REFERENCE}, ("id", "name", "domain"), open=True)
_ENTRY = record(
    {
        "id": _TEXT, "type": _TEXT, "name": _TEXT,
        "endpoints": array(
            record(
                {"id": _TEXT, "interface": _TEXT, "region_id": _MAYBE, "region": _MAYBE, "url": _TEXT},
                ("id", "interface", "region_id", "region", "url"), open=True,
            )
        ),
    },
    ("id", "type", "endpoints"),
    open=True,
)  # fmt: skip
_TOKEN = record(
    {
        "methods": array(_TEXT), "audit_ids": array(_TEXT), "expires_at": _TEXT, "issued_at": _TEXT,
        "user": record({**_NAMED, "domain": _REFERENCE, "password_expires_at": _MAYBE}, ("id", "domain"), open=True),
        "project": _WITH_DOMAIN, "domain": _REFERENCE, "system": record({"all": BOOL}, ("all",)), "is_domain": BOOL,
        "roles": array(_REFERENCE), "catalog": array(_ENTRY),
    },
    ("methods", "user", "audit_ids", "expires_at", "issued_at"),
    open=True,
)  # fmt: skip
_ASSIGNED = record({"role": _OBJECT, "user": _OBJECT, "group": _OBJECT, "scope": _OBJECT}, ("role", "scope"), open=True)
_TAGS = record({"tags": array(_TEXT), "links": _OBJECT}, ("tags",))
_CONFIG = record({"config": _OBJECT}, ("config",))
_LINKED = record({**_NAMED, "links": _OBJECT}, ("id", "name", "links"))
_INFERENCE = record({"prior_role": _LINKED, "implies": _LINKED}, ("prior_role", "implies"))
_INFERENCES = record({"prior_role": _LINKED, "implies": array(_LINKED)}, ("prior_role", "implies"))
_SHORT_ROLE = record({**_NAMED, "domain_id": _MAYBE, "links": _OBJECT, "options": _OBJECT}, ("id", "name"), open=True)
_EC2 = record(
    {"user_id": _TEXT, "tenant_id": _MAYBE, "access": _TEXT, "secret": _TEXT, "trust_id": _MAYBE, "links": _OBJECT},
    ("user_id", "tenant_id", "access", "secret", "trust_id", "links"),
)
_ACCESS = record(
    {
        "id": _TEXT, "consumer_id": _TEXT, "project_id": _TEXT, "authorizing_user_id": _TEXT, "expires_at": _MAYBE,
        "links": _OBJECT,
    },
    ("id", "consumer_id", "project_id", "authorizing_user_id", "expires_at", "links"),
)  # fmt: skip
_EVENT_NAMES = ("audit_id", "audit_chain_id", "user_id", "project_id", "domain_id", "role_id")
_EVENT = record(
    {**dict.fromkeys(_EVENT_NAMES, _TEXT), "issued_before": _TEXT, "revoked_at": _TEXT}, ("issued_before", "revoked_at")
)
_GROUP_OF_PROJECT = record(
    {"endpoint_group_id": _TEXT, "project_id": _TEXT, "links": _OBJECT}, ("endpoint_group_id", "project_id", "links")
)
_POLICY, _ENDPOINT_GROUP = (next(one for one in _NOUNS if one.one == name) for name in ("policy", "endpoint_group"))


def _only(name: str, shape: Schema, *more: str) -> Schema:
    """A document of one member, and of links where ``more`` names them."""
    return record({name: shape, **dict.fromkeys(more, _OBJECT)}, (name, *more))


_GRANTS = [
    *(f"/v3/{place}/{actor}" for place in ("projects/{project_id}", "domains/{domain_id}", "system")
      for actor in ("users/{user_id}/roles", "groups/{group_id}/roles")),
    *(f"/v3/OS-INHERIT/domains/{{domain_id}}/{actor}/roles/inherited_to_projects"
      for actor in ("users/{user_id}", "groups/{group_id}")),
]  # fmt: skip
_CONFIGS = [f"/v3/domains/{place}" for place in (
    "{domain_id}/config", "{domain_id}/config/{group}", "{domain_id}/config/{group}/{option}",
    "config/default", "config/{group}/default", "config/{group}/{option}/default",
)]  # fmt: skip
_EC2_PLACE, _ACCESS_PLACE = "/v3/users/{user_id}/credentials/OS-EC2", "/v3/users/{user_id}/OS-OAUTH1/access_tokens"
_TRUST_PLACE, _GROUP_PLACE = "/v3/OS-TRUST/trusts/{trust_id}", "/v3/OS-EP-FILTER/endpoint_groups/{endpoint_group_id}"
_SPECIAL: dict[str, Schema] = {
    "POST /v3/auth/tokens": _only("token", _TOKEN),
    "GET /v3/auth/tokens": _only("token", _TOKEN),
    "GET /v3/auth/projects": _many(_PROJECT),
    "GET /v3/auth/domains": _many(_DOMAIN),
    "GET /v3/auth/catalog": _only("catalog", array(_ENTRY), "links"),
    "GET /v3/auth/system": _only("system", array(record({"all": BOOL}, ("all",))), "links"),
    "GET /v3/users/{user_id}/groups": _many(_GROUP),
    "GET /v3/users/{user_id}/projects": _many(_PROJECT),
    "GET /v3/groups/{group_id}/users": _many(_USER),
    "GET /v3/projects/{project_id}/tags": _TAGS,
    "PUT /v3/projects/{project_id}/tags": _TAGS,
    "GET /v3/roles/{role_id}/implies": _only("role_inference", _INFERENCES, "links"),
    **{f"{verb} /v3/roles/{{role_id}}/implies/{{implied_role_id}}": _only("role_inference", _INFERENCE, "links")
       for verb in ("GET", "PUT")},
    "GET /v3/role_inferences": _only("role_inferences", array(_INFERENCES)),
    "GET /v3/role_assignments": record(
        {"role_assignments": array(_ASSIGNED), "links": _LINKS, "truncated": BOOL}, ("role_assignments", "links")
    ),
    **{f"GET {place}": _many(_ROLE) for place in _GRANTS},
    "GET /v3/OS-EP-FILTER/projects/{project_id}/endpoints": _many(_ENDPOINT),
    "GET /v3/OS-EP-FILTER/endpoints/{endpoint_id}/projects": _many(_PROJECT),
    "GET /v3/OS-EP-FILTER/projects/{project_id}/endpoint_groups": _many(_ENDPOINT_GROUP),
    f"GET {_GROUP_PLACE}/endpoints": _many(_ENDPOINT),
    f"GET {_GROUP_PLACE}/projects": _many(_PROJECT),
    f"GET {_GROUP_PLACE}/projects/{{project_id}}": _only("project_endpoint_group", _GROUP_OF_PROJECT),
    "GET /v3/policies/{policy_id}/OS-ENDPOINT-POLICY/endpoints": _many(_ENDPOINT),
    "GET /v3/endpoints/{endpoint_id}/OS-ENDPOINT-POLICY/policy": _one(_POLICY),
    "GET /v3/limits/model": _only("model", record({"name": _TEXT, "description": _TEXT}, ("name",))),
    **{f"{verb} {place}": _CONFIG for verb in ("GET", "PUT", "PATCH") for place in _CONFIGS},
    "GET /v3/OS-FEDERATION/projects": _many(_PROJECT),
    "GET /v3/OS-FEDERATION/domains": _many(_DOMAIN),
    f"GET {_TRUST_PLACE}/roles": _only("roles", array(_SHORT_ROLE), "links"),
    f"GET {_TRUST_PLACE}/roles/{{role_id}}": _only("role", _SHORT_ROLE),
    f"GET {_EC2_PLACE}": _only("credentials", array(_EC2), "links"),
    f"POST {_EC2_PLACE}": _only("credential", _EC2),
    f"GET {_EC2_PLACE}/{{credential_id}}": _only("credential", _EC2),
    "POST /v3/ec2tokens": _only("token", _TOKEN),
    "POST /v3/s3tokens": _only("token", _TOKEN),
    "PUT /v3/OS-OAUTH1/authorize/{request_token_id}": _only(
        "token", record({"oauth_verifier": _TEXT}, ("oauth_verifier",))
    ),
    f"GET {_ACCESS_PLACE}": _only("access_tokens", array(_ACCESS), "links"),
    f"GET {_ACCESS_PLACE}/{{access_token_id}}": _only("access_token", _ACCESS),
    f"GET {_ACCESS_PLACE}/{{access_token_id}}/roles": _only("roles", array(_SHORT_ROLE), "links"),
    f"GET {_ACCESS_PLACE}/{{access_token_id}}/roles/{{role_id}}": _only("role", _SHORT_ROLE),
    "POST /v3/OS-OAUTH2/token": record(
        {"access_token": _TEXT, "token_type": {"const": "Bearer"}, "expires_in": COUNT},
        ("access_token", "token_type", "expires_in"),
    ),
    "GET /v3/OS-REVOKE/events": _only("events", array(_EVENT), "links"),
    "GET /v3/cumulet/revocations": record({"sequence": COUNT, "revoked": array(_OBJECT)}, ("sequence", "revoked")),
    "POST /v3/cumulet/token-keys": _only("keys", COUNT),
}  # fmt: skip


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
