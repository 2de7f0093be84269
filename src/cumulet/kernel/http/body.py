# SPDX-License-Identifier: Apache-2.0
"""Request bodies and query strings: tables compiled lazily to one JSON Schema validator per version.

Validation happens once, at the edge; what comes out is the inner shape: the
newest names, defaults applied, absent still absent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

from cumulet.kernel import ids
from cumulet.kernel.errors import Forbidden, Invalid
from cumulet.kernel.http.fields import ABSENT, Field, Param, Schema
from cumulet.kernel.http.versions import Version, within

Rule = Callable[[dict[str, Any]], None]
"""A named cross-field rule: takes the lifted body, raises Invalid."""


def _is_cidr(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
        return True
    except ValueError:
        return False


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
        return True
    except ValueError:
        return False


def _is_base64(text: str) -> bool:
    import base64
    import binascii

    try:
        base64.b64decode("".join(text.split()), validate=True)
        return True
    except (binascii.Error, ValueError):
        return False


_MAC = re.compile(r"^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$")

FORMATS: dict[str, Callable[[str], bool]] = {
    "uuid": ids.is_uuid,
    "cidr": _is_cidr,
    "ip": _is_ip,
    "mac": lambda text: _MAC.match(text) is not None,
    "base64": _is_base64,
}


class Violation(Invalid):
    """A body or query does not have the published shape."""

    def __init__(self, message: str, path: str, keyword: str, value: Any = None) -> None:
        super().__init__(message, kind="ValidationError", path=path, keyword=keyword, value=value)
        self.path, self.keyword, self.value = path, keyword, value


class QueryViolation(Violation):
    """A query string does not have the published shape."""


class _Schema:
    """A lazily compiled JSON Schema."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._validator: Any = None

    def check(self, value: Any, where: str) -> None:
        if self._validator is None:
            import jsonschema_rs

            self._validator = jsonschema_rs.Draft7Validator(self.schema, validate_formats=True, formats=FORMATS)
        try:
            error = next(iter(self._validator.iter_errors(value)), None)
        except ValueError:
            raise Violation(f"Invalid {where}: the document is nested too deeply.", "", "depth") from None
        if error is None:
            return
        path = "/".join(str(part) for part in error.instance_path)
        keyword = str(error.kind.name) if hasattr(error.kind, "name") else type(error.kind).__name__
        told = str(error.message)
        raise Violation(
            f"Invalid input for {where} {path}. Value: {_short(_at(value, error.instance_path))}. {told}"
            if path
            else f"Invalid {where}: {told}",
            path,
            keyword,
            _at(value, error.instance_path),
        )


def _at(value: Any, path: Iterable[str | int]) -> Any:
    for part in path:
        value = value[part]
    return value


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= 120 else text[:117] + "..."


class Body:
    """A request body: an envelope, its fields, and rules that see several of them.

    ``envelope`` is None where the fields are the body. ``beside`` holds fields
    next to the envelope. ``open`` allows unknown members (identity's extras);
    they are kept. ``raw`` replaces the generated schema altogether.
    """

    def __init__(
        self,
        envelope: str | None,
        *fields: Field,
        beside: tuple[Field, ...] = (),
        rules: tuple[Rule, ...] = (),
        open: bool = False,
        verb: str = "post",
        raw: Schema | None = None,
        at_least_one: bool = False,
    ) -> None:
        self.envelope, self.fields, self.beside = envelope, fields, beside
        self.rules, self.open, self.verb, self.raw, self.at_least_one = rules, open, verb, raw, at_least_one
        self._compiled: dict[Version | None, tuple[_Schema, list[Field], list[Field]]] = {}

    def schema(self, version: Version | None) -> Schema:
        """The JSON Schema of this body at ``version``."""
        return self._at(version)[0].schema

    def lift(self, sent: Any, version: Version | None, allows: Callable[[str], bool]) -> dict[str, Any]:
        """The inner body; raises Violation naming the field, or Forbidden for a field's own policy."""
        compiled, fields, beside = self._at(version)
        compiled.check(sent, "field/attribute")
        content = sent[self.envelope] if self.envelope is not None else sent
        if self.raw is not None:
            return dict(content) if isinstance(content, dict) else {"value": content}
        inner: dict[str, Any] = dict(content) if self.open and isinstance(content, dict) else {}
        self._take(fields, content if isinstance(content, dict) else {}, inner, allows)
        self._take(beside, sent, inner, allows)
        for rule in self.rules:
            rule(inner)
        return inner

    def _take(
        self, fields: list[Field], source: dict[str, Any], inner: dict[str, Any], allows: Callable[[str], bool]
    ) -> None:
        for field in fields:
            name = field.inner or field.name
            if field.name in source:
                value = source[field.name]
                if field.policy is not None and not allows(field.policy):
                    raise Forbidden(f"Policy doesn't allow {field.policy} to be performed.", rule=field.policy)
                if field.convert is not None:
                    try:
                        value = field.convert(value)
                    except ValueError as error:
                        raise Violation(
                            f"Invalid input for field/attribute {field.name}. Value: {_short(value)}. {error}",
                            field.name, "convert", value,
                        ) from None  # fmt: skip
                if name != field.name:
                    inner.pop(field.name, None)
                inner[name] = value
            elif field.default is not ABSENT and self.verb == "post":
                inner.setdefault(name, field.default() if callable(field.default) else field.default)

    def _at(self, version: Version | None) -> tuple[_Schema, list[Field], list[Field]]:
        if version not in self._compiled:
            fields = [field for field in self.fields if self._sent(field, version)]
            beside = [field for field in self.beside if self._sent(field, version)]
            self._compiled[version] = (_Schema(self._generate(fields, beside, version)), fields, beside)
        return self._compiled[version]

    def _sent(self, field: Field, version: Version | None) -> bool:
        if version is not None and not within(version, field.since, field.until):
            return False
        return field.post if self.verb == "post" else field.put

    def _required(self, field: Field, version: Version | None) -> bool:
        if self.verb != "post":
            return False
        if field.required_since is not None:
            return version is None or within(version, field.required_since, None)
        return not field.optional and field.default is ABSENT

    def _generate(self, fields: list[Field], beside: list[Field], version: Version | None) -> Schema:
        if self.raw is not None:
            inner = self.raw
        else:
            inner = {
                "type": "object",
                "properties": {field.name: field.type for field in fields},
                "required": [field.name for field in fields if self._required(field, version)],
                "additionalProperties": self.open,
            }
            if self.at_least_one:
                inner["minProperties"] = 1
        if self.envelope is None:
            return inner
        return {
            "type": "object",
            "properties": {self.envelope: inner, **{field.name: field.type for field in beside}},
            "required": [self.envelope],
            "additionalProperties": False,
        }


class Query:
    """A query string. ``strict_since`` is the version from which unknown keys are refused ('' never, None always)."""

    def __init__(self, *params: Param, strict_since: str | None = "") -> None:
        self.params = params
        self.strict_since = strict_since
        self._compiled: dict[int, _Schema] = {}
        self._known: dict[Version | None, tuple[dict[str, Param], list[tuple[re.Pattern[str], Param]]]] = {}

    def lift(self, text: str, version: Version | None, allows: Callable[[str], bool]) -> dict[str, Any]:
        """The typed parameters; repeated ones as lists where the table says so; raises QueryViolation.

        Unknown keys that are let through appear under ``*`` as (name, value) pairs.
        """
        known, families = self._at(version)
        inner: dict[str, Any] = {}
        rest: list[tuple[str, str]] = []
        for name, value in parse_qsl(text, keep_blank_values=True):
            param, suffix = known.get(name), None
            if param is None:
                for pattern, family in families:
                    if (match := pattern.fullmatch(name)) is not None:
                        param, suffix = family, match[1] or ""
                        break
            if param is None:
                if self.strict_since is None or (
                    self.strict_since and version is not None and within(version, self.strict_since, None)
                ):
                    raise QueryViolation(
                        f"Additional properties are not allowed ('{name}' was unexpected)", name, "additionalProperties"
                    )
                rest.append((name, value))
                continue
            if param.policy is not None and not allows(param.policy):
                rest.append((name, value))
                continue
            typed = self._typed(param, name, value)
            slot, key = (inner, name) if suffix is None else (inner.setdefault(param.name, {}), suffix)
            if param.many:
                slot.setdefault(key, []).append(typed)
            else:
                slot[key] = typed
        for param in known.values():
            if param.required and param.name not in inner:
                raise QueryViolation(f"'{param.name}' is a required property", param.name, "required")
        inner["*"] = rest
        return inner

    def _at(self, version: Version | None) -> tuple[dict[str, Param], list[tuple[re.Pattern[str], Param]]]:
        if version not in self._known:
            here = [p for p in self.params if version is None or within(version, p.since, p.until)]
            self._known[version] = (
                {p.name: p for p in here if p.pattern is None},
                [(re.compile(p.pattern), p) for p in here if p.pattern is not None],
            )
        return self._known[version]

    def _typed(self, param: Param, name: str, value: str) -> Any:
        checked: Any = value
        kind = param.type.get("type")
        if kind == "integer" and re.fullmatch(r"-?\d{1,18}", value):
            checked = int(value)
        if kind == "boolean" and value.lower() in (
            "true",
            "false",
            "1",
            "0",
            "yes",
            "no",
            "t",
            "f",
            "on",
            "off",
            "y",
            "n",
        ):
            checked = value.lower() in ("true", "1", "yes", "t", "on", "y")
        schema = self._compiled.setdefault(id(param), _Schema(param.type))
        try:
            schema.check(checked, "query parameter")
        except Violation as error:
            raise QueryViolation(
                f"Invalid input for query parameters {name}. Value: {_short(value)}. {error.message}",
                name, error.keyword, value,
            ) from None  # fmt: skip
        if param.convert is not None:
            try:
                return param.convert(value)
            except ValueError as error:
                raise QueryViolation(
                    f"Invalid input for query parameters {name}. Value: {_short(value)}. {error}",
                    name, "convert", value,
                ) from None  # fmt: skip
        return checked
