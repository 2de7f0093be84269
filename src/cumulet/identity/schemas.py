# SPDX-License-Identifier: Apache-2.0
"""The words of the Identity API: bodies and query strings as published."""

from __future__ import annotations

from typing import Any

from cumulet.kernel.http import Body, Field, Param, Query
from cumulet.kernel.http.fields import BOOL, OBJECT, Schema, array, nullable, one_of, record, text, truth

NAME = text(1, 255, pattern=r"\S")
SHORT_NAME = text(1, 64, pattern=r"\S")
ID = text(1, 64, pattern=r"^[a-zA-Z0-9-]+$")
TEXT: Schema = {"type": "string"}
DESCRIPTION = nullable(TEXT)
SHORT_DESCRIPTION = nullable(text(0, 255))
LOOSE: Schema = {
    "enum": [
        True, "True", "TRUE", "true", False, "False", "FALSE", "false", "1", "0", "y", "Y", "n", "N",
        "on", "ON", "off", "OFF", "yes", "no",
    ]
}  # fmt: skip
TAG = text(1, 255, pattern=r"^[^,/]*$")
TAG_LIMIT = 80
TAG_LIST = array(TAG, maxItems=TAG_LIMIT, uniqueItems=True)
PASSWORD: Schema = {"type": "string", "maxLength": 4096}
IMMUTABLE = record({"immutable": nullable(BOOL)})
USER_OPTIONS = record(
    {
        "ignore_change_password_upon_first_use": nullable(BOOL),
        "ignore_password_expiry": nullable(BOOL),
        "ignore_lockout_failure_attempts": nullable(BOOL),
        "lock_password": nullable(BOOL),
        "ignore_user_inactivity": nullable(BOOL),
        "multi_factor_auth_enabled": nullable(BOOL),
        "multi_factor_auth_rules": nullable(array(array(TEXT, minItems=1, uniqueItems=True), uniqueItems=True)),
    }
)


FEDERATED = array(
    record(
        {
            "idp_id": TEXT,
            "protocols": array(
                record({"protocol_id": TEXT, "unique_id": TEXT}, required=("protocol_id", "unique_id")), minItems=1
            ),
        },
        required=("idp_id", "protocols"),
    )
)


def _bodies(envelope: str, *fields: Field, at_least_one: bool = True) -> tuple[Body, Body]:
    """The bodies that create and update one kind of thing; unknown members are kept as extras."""
    create = Body(envelope, *fields, open=True)
    update = Body(envelope, *fields, open=True, verb="put", at_least_one=at_least_one)
    return create, update


def _enabled(**more: Any) -> Field:
    return Field("enabled", LOOSE, optional=True, convert=truth, **more)


USER_CREATE, USER_UPDATE = _bodies(
    "user",
    Field("name", NAME),
    Field("domain_id", ID, optional=True),
    Field("default_project_id", nullable(TEXT), optional=True),
    Field("description", DESCRIPTION, optional=True),
    Field("password", nullable(PASSWORD), optional=True),
    Field("options", USER_OPTIONS, optional=True),
    Field("federated", FEDERATED, optional=True),
    _enabled(),
)
PASSWORD_CHANGE = Body("user", Field("original_password", PASSWORD), Field("password", PASSWORD))
GROUP_CREATE, GROUP_UPDATE = _bodies(
    "group",
    Field("name", NAME),
    Field("domain_id", ID, optional=True),
    Field("description", DESCRIPTION, optional=True),
)
PROJECT_CREATE, PROJECT_UPDATE = _bodies(
    "project",
    Field("name", SHORT_NAME),
    Field("domain_id", nullable(ID), optional=True),
    Field("parent_id", nullable(ID), optional=True),
    Field("description", SHORT_DESCRIPTION, optional=True),
    Field("is_domain", LOOSE, optional=True, convert=truth),
    Field("tags", TAG_LIST, optional=True),
    Field("options", IMMUTABLE, optional=True),
    _enabled(),
    at_least_one=False,
)
DOMAIN_CREATE, DOMAIN_UPDATE = _bodies(
    "domain",
    Field("name", SHORT_NAME),
    Field("description", SHORT_DESCRIPTION, optional=True),
    Field("explicit_domain_id", text(32, 32, pattern=r"^[0-9a-f]{32}$"), optional=True, put=False),
    Field("tags", TAG_LIST, optional=True),
    Field("options", IMMUTABLE, optional=True),
    _enabled(),
    at_least_one=False,
)
TAGS_REPLACE = Body(None, Field("tags", TAG_LIST))
ROLE_CREATE, ROLE_UPDATE = _bodies(
    "role",
    Field("name", NAME),
    Field("domain_id", nullable(ID), optional=True),
    Field("description", DESCRIPTION, optional=True),
    Field("options", IMMUTABLE, optional=True),
)
SERVICE_CREATE, SERVICE_UPDATE = _bodies(
    "service",
    Field("type", text(1, 255)),
    Field("name", text(1, 255), optional=True),
    Field("enabled", BOOL, optional=True),
)
ENDPOINT_CREATE, ENDPOINT_UPDATE = _bodies(
    "endpoint",
    Field("interface", one_of("admin", "internal", "public")),
    Field("service_id", TEXT),
    Field("url", text(1, 225, pattern=r"^[a-zA-Z0-9+.-]+:.+")),
    Field("region_id", nullable(text(1, 255)), optional=True),
    Field("region", nullable(text(1, 255)), optional=True),
    Field("name", TEXT, optional=True),
    Field("description", DESCRIPTION, optional=True),
    Field("enabled", BOOL, optional=True),
)
_REGION = (
    Field("id", text(0, 255), optional=True),
    Field("description", DESCRIPTION, optional=True),
    Field("parent_region_id", nullable(text(1, 255)), optional=True),
)
REGION_CREATE, REGION_UPDATE = _bodies("region", *_REGION)
ACCESS_RULE = {
    "type": "object",
    "properties": {
        "id": ID,
        "path": text(1, 225, pattern=r"^/"),
        "service": ID,
        "method": one_of("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"),
    },
    "anyOf": [{"required": ["path", "service", "method"]}, {"required": ["id"]}],
    "additionalProperties": False,
}
_ROLE_REFERENCE = {
    "type": "object",
    "properties": {"id": TEXT, "name": TEXT},
    "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
}
CREDENTIAL_CREATE = Body(
    "application_credential",
    Field("name", NAME),
    Field("description", DESCRIPTION, optional=True),
    Field("secret", nullable(PASSWORD), optional=True),
    Field("expires_at", nullable(TEXT), optional=True),
    Field("unrestricted", nullable(BOOL), optional=True),
    Field("roles", array(_ROLE_REFERENCE), optional=True),
    Field("access_rules", array(ACCESS_RULE), optional=True),
    Field("project_id", TEXT, optional=True),
    open=True,
)

# ---- limits

_RESOURCE_LIMIT: Schema = {"type": "integer", "minimum": -1, "maximum": 2147483647}
_UUID = text(32, 36, pattern=r"^[a-fA-F0-9-]+$")
_REGION_ID = nullable(text(1, 255))
_LIMITED = {"service_id": _UUID, "region_id": _REGION_ID, "resource_name": NAME, "description": SHORT_DESCRIPTION}
REGISTERED_LIMITS_CREATE = Body(
    None,
    Field(
        "registered_limits",
        array(
            record(
                {**_LIMITED, "default_limit": _RESOURCE_LIMIT},
                required=("service_id", "resource_name", "default_limit"),
            ),
            minItems=1,
        ),
    ),
)
REGISTERED_LIMIT_UPDATE = Body(
    "registered_limit",
    *(Field(name, kind, optional=True) for name, kind in _LIMITED.items()),
    Field("default_limit", _RESOURCE_LIMIT, optional=True),
    verb="put",
)
_LIMIT_OF = {**_LIMITED, "resource_limit": _RESOURCE_LIMIT, "project_id": nullable(ID), "domain_id": nullable(ID)}
LIMITS_CREATE = Body(
    None,
    Field(
        "limits",
        array(
            {
                **record(_LIMIT_OF, required=("service_id", "resource_name", "resource_limit")),
                "oneOf": [{"required": ["domain_id"]}, {"required": ["project_id"]}],
            },
            minItems=1,
        ),
    ),
)
LIMIT_UPDATE = Body(
    "limit",
    Field("resource_limit", _RESOURCE_LIMIT, optional=True),
    Field("description", SHORT_DESCRIPTION, optional=True),
    verb="put",
)

# ---- endpoints by project, policies

_GROUP_FILTERS: Schema = {
    "type": "object",
    "properties": {
        "interface": one_of("admin", "internal", "public"),
        "service_id": TEXT,
        "region_id": nullable(TEXT),
        "enabled": BOOL,
    },
}
_ABOUT_GROUP = Field("description", DESCRIPTION, optional=True)
ENDPOINT_GROUP_CREATE = Body(
    "endpoint_group", Field("name", NAME), Field("filters", _GROUP_FILTERS), _ABOUT_GROUP, open=True
)
# the published client sends null for what it leaves as it is
ENDPOINT_GROUP_UPDATE = Body(
    "endpoint_group", Field("name", nullable(NAME)), Field("filters", nullable(_GROUP_FILTERS)), _ABOUT_GROUP,
    open=True, verb="put", at_least_one=True,
)  # fmt: skip
POLICY_CREATE, POLICY_UPDATE = _bodies("policy", Field("blob", TEXT), Field("type", text(0, 255)))

# ---- the configuration of a domain

DOMAIN_CONFIG = Body(None, raw={"type": "object", "properties": {"config": OBJECT}})

# ---- federation

_URL = text(0, 225, pattern=r"^[a-zA-Z0-9+.-]+:.+")
_SWITCH = nullable(LOOSE)
_REMOTE_ID = text(0, 64)
_PROVIDER = (
    Field("enabled", _SWITCH, optional=True, convert=truth),
    Field("description", DESCRIPTION, optional=True),
    Field("authorization_ttl", nullable({"type": "integer", "minimum": 0}), optional=True),
    Field("remote_ids", nullable(array(_REMOTE_ID, uniqueItems=True)), optional=True),
)
IDENTITY_PROVIDER_CREATE = Body("identity_provider", *_PROVIDER, Field("domain_id", nullable(ID), optional=True))
IDENTITY_PROVIDER_UPDATE = Body("identity_provider", *_PROVIDER, verb="put", at_least_one=True)
_MAPPING_ID = text(1, 64)
PROTOCOL_CREATE = Body(
    "protocol", Field("mapping_id", _MAPPING_ID), Field("remote_id_attribute", nullable(_REMOTE_ID), optional=True)
)
PROTOCOL_UPDATE = Body(
    "protocol", Field("mapping_id", _MAPPING_ID), Field("remote_id_attribute", _REMOTE_ID, optional=True)
)
_SERVICE_PROVIDER = (
    Field("auth_url", _URL),
    Field("sp_url", _URL),
    Field("description", DESCRIPTION, optional=True),
    Field("enabled", _SWITCH, optional=True, convert=truth),
    Field("relay_state_prefix", nullable(TEXT), optional=True),
)
SERVICE_PROVIDER_CREATE = Body("service_provider", *_SERVICE_PROVIDER)
SERVICE_PROVIDER_UPDATE = Body("service_provider", *_SERVICE_PROVIDER, verb="put", at_least_one=True)
MAPPING = Body(None, raw={"type": "object", "required": ["mapping"], "properties": {"mapping": OBJECT}})

SEALED_CREATE = Body(
    "credential",
    raw={
        "type": "object",
        "properties": {"blob": TEXT, "type": text(), "user_id": text(), "project_id": nullable(text())},
        "required": ["blob", "type", "user_id"],
        "if": {"properties": {"type": {"const": "ec2"}}},
        "then": {"required": ["project_id"]},
    },
)
SEALED_UPDATE = Body("credential", Field("blob", TEXT))
_ROLE_NAMED = {**record({"id": ID, "name": NAME}), "minProperties": 1, "maxProperties": 1}
TRUST_CREATE = Body(
    "trust",
    Field("trustor_user_id", TEXT),
    Field("trustee_user_id", TEXT),
    Field("impersonation", BOOL),
    Field("project_id", nullable(TEXT), optional=True),
    Field("remaining_uses", {"type": ["integer", "null"], "minimum": 1}, optional=True),
    Field("expires_at", nullable(TEXT), optional=True),
    Field("allow_redelegation", nullable(BOOL), optional=True),
    Field("redelegation_count", {"type": ["integer", "null"], "minimum": 0}, optional=True),
    Field("redelegated_trust_id", nullable(TEXT), optional=True),
    Field("roles", array(_ROLE_NAMED), optional=True),
    open=True,
)
EC2_CREATE = Body(None, Field("tenant_id", TEXT), open=True)
SIGNED = Body(None, raw=OBJECT)
CONSUMER_CREATE, CONSUMER_UPDATE = _bodies("consumer", Field("description", DESCRIPTION, optional=True))
AUTHORIZE = Body(None, Field("roles", array(_ROLE_NAMED)))

# ---- authentication

_REFERENCE = {
    "type": "object",
    "properties": {"id": TEXT, "name": TEXT},
    "anyOf": [{"required": ["id"]}, {"required": ["name"]}],
}
_IN_DOMAIN = {**_REFERENCE, "properties": {"id": TEXT, "name": TEXT, "domain": _REFERENCE}}
_LOGIN = {**_REFERENCE, "properties": {"id": TEXT, "name": TEXT, "domain": _REFERENCE, "password": TEXT}}
_PASSCODE = {**_REFERENCE, "properties": {"id": TEXT, "name": TEXT, "domain": _REFERENCE, "passcode": TEXT}}
_SECRET = {
    "type": "object",
    "properties": {"id": TEXT, "name": TEXT, "secret": TEXT, "user": _IN_DOMAIN},
}
AUTH = Body(
    None,
    raw={
        "type": "object",
        "required": ["auth"],
        "properties": {
            "auth": {
                "type": "object",
                "required": ["identity"],
                "properties": {
                    "identity": {
                        "type": "object",
                        "required": ["methods"],
                        "properties": {
                            "methods": array(TEXT),
                            "password": {"type": "object", "properties": {"user": _LOGIN}},
                            "token": {"type": "object", "required": ["id"], "properties": {"id": TEXT}},
                            "application_credential": _SECRET,
                            "totp": {"type": "object", "properties": {"user": _PASSCODE}},
                        },
                    },
                    "scope": {
                        "type": ["object", "string"],
                        "properties": {
                            "project": _IN_DOMAIN,
                            "domain": _REFERENCE,
                            "system": OBJECT,
                            "OS-TRUST:trust": {"type": "object", "properties": {"id": TEXT}},
                        },
                    },
                },
            }
        },
    },
)

# ---- query strings


def _flag(value: str) -> bool:
    """A boolean of a query string: anything but a spelling of no is yes, nothing too."""
    return value.lower() not in ("0", "false", "f", "no", "n", "off")


_FLAG: Schema = {"enum": [*(value for value in LOOSE["enum"] if isinstance(value, str)), ""]}
_PAGE = (
    Param("limit", {"type": "integer", "minimum": 0}),
    Param("marker", TEXT),
    Param("sort_key", TEXT),
    Param("sort_dir", one_of("asc", "desc")),
)


def listing(*names: str, flags: tuple[str, ...] = (), many: tuple[str, ...] = (), **typed: Schema) -> Query:
    """The query of a list, in pages: filtered by texts, by booleans, more than once by ``many``, and by ``typed``."""
    texts = [*(Param(name, TEXT) for name in names), *(Param(name, TEXT, many=True) for name in many)]
    texts += [Param(name, schema) for name, schema in typed.items()]
    return Query(*texts, *(Param(flag, _FLAG, convert=_flag) for flag in flags), *_PAGE)
