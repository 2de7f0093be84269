# SPDX-License-Identifier: Apache-2.0
"""The options of a domain's directory, as the published group ``ldap`` names them.

Invariant: what is an attribute's name here is one: nothing else of a
configuration is put into a filter but the filters themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from cumulet.identity.drivers import DirectoryFailed

Attribute = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.;-]*$", max_length=255)]
_LISTS = (
    "user_attribute_ignore", "group_attribute_ignore", "user_additional_attribute_mapping",
    "group_additional_attribute_mapping",
)  # fmt: skip
_UNUSED = {
    "debug_level",
    "user_pass_attribute",
    "use_pool",
    "pool_retry_max",
    "pool_retry_delay",
    "use_auth_pool",
    "auth_pool_size",
    "auth_pool_connection_lifetime",
}
"""Published options without a meaning here: connections are always pooled, logins always have one of their own."""
_URL = re.compile(r"^ldaps?://[^\s,/?#]*/?$", re.IGNORECASE)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults are the published ones, but that referrals are followed only where that is asked for."""

    url: str = "ldap://localhost"
    randomize_urls: bool = False
    user: str | None = None
    password: str | None = None
    suffix: str = "cn=example,cn=com"
    query_scope: Literal["one", "sub"] = "one"
    page_size: Annotated[int, msgspec.Meta(ge=0)] = 0
    alias_dereferencing: Literal["default", "never", "searching", "always", "finding"] = "default"
    chase_referrals: bool | None = None
    user_tree_dn: str | None = None
    user_filter: str | None = None
    user_objectclass: Attribute = "inetOrgPerson"
    user_id_attribute: Attribute = "cn"
    user_name_attribute: Attribute = "sn"
    user_mail_attribute: Attribute = "mail"
    user_description_attribute: Attribute = "description"
    user_enabled_attribute: Attribute = "enabled"
    user_enabled_invert: bool = False
    user_enabled_mask: int = 0
    user_enabled_default: str | int | bool = "True"
    user_attribute_ignore: tuple[str, ...] = ("default_project_id",)
    user_default_project_id_attribute: Attribute | None = None
    user_enabled_emulation: bool = False
    user_enabled_emulation_dn: str | None = None
    user_enabled_emulation_use_group_config: bool = False
    user_additional_attribute_mapping: tuple[str, ...] = ()
    group_tree_dn: str | None = None
    group_filter: str | None = None
    group_objectclass: Attribute = "groupOfNames"
    group_id_attribute: Attribute = "cn"
    group_name_attribute: Attribute = "ou"
    group_members_are_ids: bool = False
    group_member_attribute: Attribute = "member"
    group_desc_attribute: Attribute = "description"
    group_attribute_ignore: tuple[str, ...] = ()
    group_additional_attribute_mapping: tuple[str, ...] = ()
    group_ad_nesting: bool = False
    tls_cacertfile: str | None = None
    tls_cacertdir: str | None = None
    use_tls: bool = False
    tls_req_cert: Literal["demand", "never", "allow"] = "demand"
    connection_timeout: float = -1
    pool_size: Annotated[int, msgspec.Meta(ge=1)] = 10
    pool_connection_timeout: float = -1
    pool_connection_lifetime: float = 600

    @property
    def urls(self) -> list[str]:
        return [url.strip() for url in self.url.split(",")]

    @property
    def timeout(self) -> float:
        """Seconds that one answer may take."""
        asked = [one for one in (self.connection_timeout, self.pool_connection_timeout) if one > 0]
        return min(asked[0], 60.0) if asked else 5.0

    @property
    def user_base(self) -> str:
        return self.user_tree_dn or f"ou=Users,{self.suffix}"

    @property
    def group_base(self) -> str:
        return self.group_tree_dn or f"ou=UserGroups,{self.suffix}"


def unknown(given: Mapping[str, Any]) -> list[str]:
    """The names among these that no option has."""
    known = {field.name for field in msgspec.structs.fields(Options)} | _UNUSED
    return sorted(set(given) - known)


def make_options(given: Mapping[str, Any]) -> Options:
    """The options of a configuration, whose values may be texts; raises DirectoryFailed naming a wrong one."""
    known = {field.name for field in msgspec.structs.fields(Options)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known or value is None:
            continue
        listed = name in _LISTS and isinstance(value, str)
        values[name] = [part.strip() for part in value.split(",") if part.strip()] if listed else value
    try:
        options = msgspec.convert(values, Options, strict=False)
    except msgspec.ValidationError as error:
        told, _, place = str(error).partition(" - at `$.")
        secret = place.startswith("password")
        raise DirectoryFailed(f"option {place.rstrip('`')}: {'wrong type' if secret else told}") from None
    if not all(_URL.match(url) for url in options.urls):
        raise DirectoryFailed("option url: only ldap://HOST:PORT and ldaps://HOST:PORT, with commas between them")
    if options.use_tls and any(url.lower().startswith("ldaps:") for url in options.urls):
        raise DirectoryFailed("option use_tls: an ldaps URL is TLS already")
    return options
