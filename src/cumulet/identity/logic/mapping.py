# SPDX-License-Identifier: Apache-2.0
"""The mapping engine: what a foreign identity provider says about a person, turned into what we know.

Everything here is a pure function of a mapping's rules and one assertion. Both
come from outside: a template can only name a match by its number, never reach
into an object, and a text that looks like a list is parsed as data.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import orjson

from cumulet.kernel.errors import Internal, Invalid
from cumulet.kernel.http.fields import Schema, array, record

Assertion = Mapping[str, str]
Rules = list[dict[str, Any]]
Matches = list[list[str]]
VERSIONS: Final = ("1.0", "2.0", "3.0")
"""1.0 as first published; 2.0 gives a rule's domain to what has none; 3.0 takes projects from the assertion."""
_PLACE = re.compile(r"\{\{|\}\}|\{(\d*)\}")
_LONGEST = 65_536
"""Characters of a text that are looked at as a list."""


class BrokenMapping(Internal):
    """An unexpected error prevented the server from fulfilling your request."""


@dataclass
class Mapped:
    """What a person is here."""

    user: dict[str, Any]
    group_ids: list[str] = field(default_factory=list)
    group_names: list[dict[str, Any]] = field(default_factory=list)
    """Groups by ``name`` and ``domain``, for those whose id is not known to the mapping."""
    projects: list[dict[str, Any]] = field(default_factory=list)


# ---- the shape of rules

_TEXT: Schema = {"type": "string"}
_DOMAIN = record({"id": _TEXT, "name": _TEXT})
_ROLES = array(record({"name": _TEXT}, required=("name",)))
_USER = record(
    {"id": _TEXT, "name": _TEXT, "email": _TEXT, "domain": _DOMAIN, "type": {"enum": ["ephemeral", "local"]}}
)
_GROUP: Schema = {
    "type": "object",
    "oneOf": [
        record({"id": _TEXT}, required=("id",)),
        record({"name": _TEXT, "domain": _DOMAIN}, required=("name", "domain")),
    ],
}
_KEYWORDS = ("any_one_of", "not_any_of", "blacklist", "whitelist")
_REMOTE: Schema = {
    "type": "object",
    "oneOf": [
        record({"type": _TEXT}, required=("type",)),
        *(
            record({"type": _TEXT, word: {"type": "array"}, "regex": {"type": "boolean"}}, required=("type", word))
            for word in _KEYWORDS
        ),
    ],
}


def _projects(version: str) -> Schema:
    domain = {} if version == "1.0" else {"domain": _DOMAIN}
    return array(record({"name": _TEXT, "roles": _ROLES, **domain}, required=("name", "roles")))


def _schema(version: str) -> Schema:
    local = {"user": _USER, "projects": _projects(version), "group": _GROUP, "domain": _DOMAIN}
    local |= {"groups": _TEXT, "group_ids": _TEXT}
    if version == "3.0":
        local["projects_json"] = _TEXT
    rule = record({"local": array(record(local)), "remote": array(_REMOTE, minItems=1)}, required=("local", "remote"))
    return {
        "type": "object",
        "required": ["rules"],
        "properties": {"rules": array(rule, minItems=1), "schema_version": _TEXT},
    }


@lru_cache
def _validator(version: str, projects: bool) -> Any:
    import jsonschema_rs

    return jsonschema_rs.Draft7Validator(_projects("2.0") if projects else _schema(version))


def _refuse_errors(validator: Any, value: Any) -> None:
    try:
        messages = sorted(error.message for error in validator.iter_errors(value))
    except ValueError:
        raise Invalid("The rules are nested too deeply.") from None
    if messages:
        raise Invalid("".join(f"{message}\n" for message in messages))


def check_rules(mapping: dict[str, Any], version: str) -> None:
    """Raise Invalid unless the mapping has the shape that its version demands."""
    if version not in VERSIONS:
        raise Invalid(f"The schema version {version} of attribute mappings is not supported.")
    _refuse_errors(_validator(version, False), mapping)
    for rule in mapping["rules"]:
        for requirement in rule["remote"]:
            if requirement.get("regex"):
                _check_patterns(requirement)


def _check_patterns(requirement: dict[str, Any]) -> None:
    for word in _KEYWORDS:
        for pattern in requirement.get(word, ()):
            try:
                re.compile(pattern)
            except (re.error, TypeError, RecursionError, OverflowError):
                raise Invalid(f"{pattern!r} is not a valid regular expression") from None


# ---- evaluation


def evaluate(rules: Rules, version: str, assertion: Assertion) -> Mapped:
    """Who somebody is, of whom ``assertion`` says something (several values parted by semicolons).

    Raises Invalid when no rule fits or what comes out is no person, and
    BrokenMapping when a template names a match that is not there.
    """
    told = {name: value.split(";") for name, value in assertion.items() if isinstance(value, str)}
    found: list[dict[str, Any]] = []
    for rule in rules:
        matches = _matches(rule["remote"], told)
        if matches is not None:
            found += [_filled(local, matches, version) for local in rule["local"]] if matches else rule["local"]
    if not found:
        raise Invalid(
            "Could not map any federated user properties to identity values. Check debug logs or the mapping used for"
            " additional details."
        )
    return _joined(found, version)


def _matches(requirements: list[dict[str, Any]], told: Mapping[str, list[str]]) -> Matches | None:
    """The values that templates may name, one list for each requirement that is no condition; None: does not fit."""
    matches: Matches = []
    for wish in requirements:
        values = told.get(wish["type"])
        if not values:
            return None
        word = next((word for word in _KEYWORDS if word in wish), None)
        if word is None:
            matches.append(values)
            continue
        named = _named(wish[word], regex=wish.get("regex", False))
        fitting = [value for value in values if named(value)]
        if word == "whitelist":
            matches.append(fitting)
        elif word == "blacklist":
            matches.append([value for value in values if not named(value)])
        elif bool(fitting) != (word == "any_one_of"):
            return None
    return matches


def _named(wanted: list[str], *, regex: bool) -> Callable[[str], bool]:
    """Whether a value is one of those that a requirement names."""
    if not regex:
        return lambda value: value in wanted
    patterns = [re.compile(pattern) for pattern in wanted]
    return lambda value: any(pattern.search(value) for pattern in patterns)


def _filled(local: Any, matches: Matches, version: str) -> Any:
    """A local part with the matches in the places of its templates."""
    if isinstance(local, list):
        return [_filled(one, matches, version) for one in local]
    if not isinstance(local, dict):
        return _text(local, matches) if isinstance(local, str) else local
    filled: dict[str, Any] = {}
    for key, value in local.items():
        if key in ("projects", "projects_json") and isinstance(value, str) and version == "3.0":
            filled[key] = _sent_projects(value, matches)
        else:
            filled[key] = _filled(value, matches, version)
    return filled


def _text(template: str, matches: Matches) -> str:
    counted = iter(range(len(matches) + 1))

    def fill(place: re.Match[str]) -> str:
        if place[0] in ("{{", "}}"):
            return place[0][0]
        number = int(place[1]) if place[1] else next(counted)
        values = _match(matches, number)
        return values[0] if len(values) == 1 else str(values)

    return _PLACE.sub(fill, template)


def _match(matches: Matches, number: int) -> list[str]:
    if number >= len(matches):
        raise BrokenMapping
    return matches[number]


def _sent_projects(template: str, matches: Matches) -> list[dict[str, Any]]:
    """The projects that the assertion itself lists, as JSON."""
    place = re.match(r"\{?(\d{1,9})\}?", template)
    if place is None:
        raise Invalid(f"The rule [{template}] for key [projects] does not match the expected pattern.")
    values = _match(matches, int(place[1]))
    try:
        projects: list[dict[str, Any]] = orjson.loads(values[0] if len(values) == 1 else ";".join(values))
    except orjson.JSONDecodeError:
        raise Invalid("The projects of the assertion are not valid JSON.") from None
    _refuse_errors(_validator("2.0", True), projects)
    return projects


def _listed(text: str) -> list[Any]:
    """The list that a text spells, else the text alone."""
    if text.startswith("[") and len(text) <= _LONGEST:
        try:
            values = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [text]
        if isinstance(values, list):
            return values
    return [text]


def _joined(found: list[dict[str, Any]], version: str) -> Mapped:
    """What all fitting rules say together: the first user, all groups, the last projects."""
    user: dict[str, Any] = {}
    group_ids: dict[str, None] = {}
    names: list[dict[str, Any]] = []
    projects: list[dict[str, Any]] = []
    for one in found:
        user = user or dict(one.get("user", {}))
        group = one.get("group", {})
        if "id" in group:
            group_ids[group["id"]] = None
        elif "name" in group:
            names.append(group)
        if "groups" in one:
            names += _groups(one)
        if "group_ids" in one:
            group_ids |= dict.fromkeys(str(named) for named in _listed(one["group_ids"]))
        if "projects" in one or "projects_json" in one:
            projects = [dict(project) for project in (*one.get("projects", ()), *one.get("projects_json", ()))]
            if version != "1.0":
                projects = [{**project, "domain": project.get("domain") or one.get("domain")} for project in projects]
    user.setdefault("type", "ephemeral")
    if version != "1.0" and not user.get("domain"):
        user["domain"] = found[-1].get("domain")
    return Mapped(user, list(group_ids), _once(names), projects)


def _groups(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Groups by name: in the rule's domain, or as JSON objects that bring their own."""
    groups: list[dict[str, Any]] = []
    for name in _listed(one["groups"]):
        if isinstance(name, str) and name.startswith("JSON:"):
            try:
                name = orjson.loads(name.removeprefix("JSON:"))
            except orjson.JSONDecodeError:
                raise Invalid("A group of the assertion is not valid JSON.") from None
        group = name if isinstance(name, dict) else {"name": str(name)}
        if "domain" not in group:
            if "domain" not in one:
                raise Invalid(f"Invalid rule: {one}. Both 'groups' and 'domain' keywords must be specified.")
            group = {**group, "domain": one["domain"]}
        groups.append(group)
    return groups


def _once(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({orjson.dumps(group, option=orjson.OPT_SORT_KEYS): group for group in groups}.values())
