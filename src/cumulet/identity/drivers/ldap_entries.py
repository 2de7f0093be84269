# SPDX-License-Identifier: Apache-2.0
"""Entries of an LDAP server read as people and teams, and names compared as LDAP compares them.

Invariant: an entry that cannot be read as one (no identifier, no name, bytes that
are no text) is left out; it never breaks the list that it is in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cumulet.identity.drivers import Person, Team
from cumulet.identity.drivers.options import Options

Entry = tuple[str, dict[str, list[bytes]]]
NESTED = "1.2.840.113556.1.4.1941"
"""Active Directory's rule for membership through groups in groups."""
_LONGEST = 255


def escaped(value: str) -> str:
    """A value as it may stand in a filter."""
    import ldap.filter

    text: str = ldap.filter.escape_filter_chars(value)
    return text


def any_of(attribute: str, values: Iterable[str]) -> str:
    return "(|" + "".join(f"({attribute}={escaped(value)})" for value in values) + ")"


def same(dn: str) -> tuple[Any, ...] | None:
    """What two writings of one distinguished name have in common; None for no such name."""
    import ldap
    import ldap.dn

    try:
        parts = ldap.dn.str2dn(dn)
    except ldap.DECODING_ERROR:
        return None
    return tuple(
        tuple(sorted((name.lower(), " ".join(value.casefold().split())) for name, value, _ in part)) for part in parts
    )


def first_part(dn: str) -> tuple[str, str] | None:
    """The attribute and the value by which an entry is named in its place."""
    import ldap
    import ldap.dn

    try:
        parts = ldap.dn.str2dn(dn)
    except ldap.DECODING_ERROR:
        return None
    return (parts[0][0][0], parts[0][0][1]) if parts and parts[0] else None


def _texts(attributes: Mapping[str, list[bytes]]) -> dict[str, list[str]]:
    """The attributes by lower-case name, whose values are text."""
    found: dict[str, list[str]] = {}
    for name, values in attributes.items():
        for value in values:
            try:
                found.setdefault(name.lower(), []).append(value.decode())
            except UnicodeDecodeError:
                continue
    return found


def _extra(texts: Mapping[str, list[str]], mapping: Iterable[str], ignored: Iterable[str]) -> dict[str, str]:
    """What else is told of an entry; ``mapping`` has lines ``attribute:name``."""
    extra = {}
    for line in mapping:
        attribute, _, name = line.partition(":")
        if name and name not in ignored and (values := texts.get(attribute.lower())):
            extra[name] = values[0]
    return extra


def _named(texts: Mapping[str, list[str]], dn: str, id_attribute: str, name_attribute: str) -> tuple[str, str] | None:
    """Identifier and name; of several identifiers the one that the entry is named by."""
    ids, names = texts.get(id_attribute.lower(), []), texts.get(name_attribute.lower(), [])
    if not ids or not names:
        return None
    part = first_part(dn)
    chosen = part[1] if part and part[0].lower() == id_attribute.lower() and part[1] in ids else ids[0]
    return (chosen, names[0]) if len(chosen) <= _LONGEST and len(names[0]) <= _LONGEST else None


def is_enabled(options: Options, told: str | None) -> bool:
    """What the attribute says, or the default where an entry has none."""
    value = str(options.user_enabled_default) if told is None else told
    if options.user_enabled_mask:
        number = int(value) if value.lstrip("-").isdigit() else 0
        return number & options.user_enabled_mask != options.user_enabled_mask
    said = value.strip().lower() not in ("false", "0", "no", "off", "")
    return said != options.user_enabled_invert


def person(options: Options, entry: Entry, enabled: bool | None = None) -> Person | None:
    """The user of an entry; ``enabled`` where the entry itself does not say it."""
    dn, attributes = entry
    texts, ignored = _texts(attributes), options.user_attribute_ignore
    named = _named(texts, dn, options.user_id_attribute, options.user_name_attribute)
    if named is None:
        return None
    mapping = [
        f"{options.user_mail_attribute}:email", f"{options.user_description_attribute}:description",
        *options.user_additional_attribute_mapping,
    ]  # fmt: skip
    extra = _extra(texts, mapping, [*ignored, "id", "name", "enabled", "password", "domain_id", "options", "links"])
    if enabled is None:
        told = texts.get(options.user_enabled_attribute.lower(), [None])[0]
        enabled = "enabled" in ignored or is_enabled(options, told)
    project: str | None = extra.pop("default_project_id", None)
    if options.user_default_project_id_attribute and "default_project_id" not in ignored:
        project = texts.get(options.user_default_project_id_attribute.lower(), [None])[0]
    return Person(named[0], named[1], dn, enabled, project[:64] if project else None, extra)


def team(options: Options, entry: Entry) -> Team | None:
    """The group of an entry."""
    dn, attributes = entry
    texts, ignored = _texts(attributes), options.group_attribute_ignore
    named = _named(texts, dn, options.group_id_attribute, options.group_name_attribute)
    if named is None:
        return None
    told = [] if "description" in ignored else texts.get(options.group_desc_attribute.lower(), [])
    extra = _extra(
        texts, options.group_additional_attribute_mapping, [*ignored, "id", "name", "description", "domain_id", "links"]
    )
    members = tuple(texts.get(options.group_member_attribute.lower(), ()))
    return Team(named[0], named[1], dn, told[0] if told else "", members, extra)


def user_attributes(options: Options) -> list[str]:
    names = [
        options.user_id_attribute, options.user_name_attribute, options.user_mail_attribute,
        options.user_description_attribute, options.user_enabled_attribute, options.user_default_project_id_attribute,
        *(line.partition(":")[0] for line in options.user_additional_attribute_mapping),
    ]  # fmt: skip
    return [name for name in names if name]


def group_attributes(options: Options) -> list[str]:
    names = [
        options.group_id_attribute, options.group_name_attribute, options.group_desc_attribute,
        options.group_member_attribute,
        *(line.partition(":")[0] for line in options.group_additional_attribute_mapping),
    ]  # fmt: skip
    return [name for name in names if name]
