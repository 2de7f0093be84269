# SPDX-License-Identifier: Apache-2.0
"""Fields: the words of an API, each with the versions in which it exists.

A type is a JSON Schema fragment (a plain dict), so a table reads like the
published reference. Absent is not null: a field that was not sent is not in
the lifted body unless it has a default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

Schema = dict[str, Any]
ABSENT: Final = object()
"""The default of a field that stays absent when it is not sent."""


@dataclass(frozen=True)
class Field:
    """One member of a request body.

    ``post``/``put`` say in which verbs it may be sent and ``visible`` whether an
    attribute is returned, for APIs that describe a resource once; ``convert``
    turns the sent value into the inner one and may raise ValueError.
    """

    name: str
    type: Schema
    since: str | None = None
    until: str | None = None
    optional: bool = False
    required_since: str | None = None
    default: Any = ABSENT
    post: bool = True
    put: bool = True
    visible: bool = True
    policy: str | None = None
    """A rule that the caller must satisfy to set (and, in views made from fields, to see) it."""
    convert: Callable[[Any], Any] | None = None
    inner: str | None = None
    """Its name below the edge, when the published one is no identifier or changed."""


@dataclass(frozen=True)
class Param:
    """One query parameter. ``many`` collects repetitions into a list.

    With ``pattern`` it stands for a family of keys (``resources``, ``resources1``, …):
    a regular expression whose first group is the member's suffix. What comes out
    under ``name`` is then a dict by suffix.
    """

    name: str
    type: Schema
    since: str | None = None
    until: str | None = None
    many: bool = False
    policy: str | None = None
    convert: Callable[[str], Any] | None = None
    pattern: str | None = None
    required: bool = False


@dataclass(frozen=True)
class Out:
    """One member of an answer; ``source`` is the inner key, or a function of the inner document."""

    name: str
    source: str | Callable[[dict[str, Any]], Any] | None = None
    since: str | None = None
    until: str | None = None
    policy: str | None = None


class View:
    """How an inner document is lowered to what one version, and one caller, may see."""

    def __init__(self, *outs: Out | str) -> None:
        self.outs = tuple(Out(out) if isinstance(out, str) else out for out in outs)
        self._by_version: dict[tuple[int, int] | None, tuple[Out, ...]] = {}

    def render(
        self,
        document: dict[str, Any],
        version: tuple[int, int] | None = None,
        allows: Callable[[str], bool] | None = None,
    ) -> dict[str, Any]:
        """The published document; members whose inner key is absent are left out."""
        answer: dict[str, Any] = {}
        for out in self._outs(version):
            if out.policy is not None and (allows is None or not allows(out.policy)):
                continue
            if callable(out.source):
                answer[out.name] = out.source(document)
            else:
                key = out.source or out.name
                if key in document:
                    answer[out.name] = document[key]
        return answer

    def _outs(self, version: tuple[int, int] | None) -> tuple[Out, ...]:
        from cumulet.kernel.http.versions import within

        if version not in self._by_version:
            self._by_version[version] = tuple(
                out for out in self.outs if version is None or within(version, out.since, out.until)
            )
        return self._by_version[version]


# ---- types that several services share (each service adds its own beside its tables)


def text(low: int = 0, high: int = 255, **more: Any) -> Schema:
    return {"type": "string", "minLength": low, "maxLength": high, **more}


def one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


def array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def nullable(schema: Schema) -> Schema:
    """The same type, or null."""
    if isinstance(kind := schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def record(properties: dict[str, Schema], required: tuple[str, ...] = (), *, open: bool = False) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": open,
    }


ANY: Final[Schema] = {}
TEXT: Final = text()
NAME: Final = text(1, 255)
UUID: Final[Schema] = {"type": "string", "format": "uuid"}
BOOL: Final[Schema] = {"type": "boolean"}
LOOSE_BOOL: Final[Schema] = {
    "enum": [True, False, "True", "TRUE", "true", "1", "ON", "On", "on", "YES", "Yes", "yes", "y", "t",
             "False", "FALSE", "false", "0", "OFF", "Off", "off", "NO", "No", "no", "n", "f"]
}  # fmt: skip
"""The spellings of a boolean that the older APIs accept; `truth` converts."""
INTEGER: Final[Schema] = {"type": "integer"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
LOOSE_COUNT: Final[Schema] = {"type": ["integer", "string"], "pattern": "^[0-9]+$", "minimum": 0}
OBJECT: Final[Schema] = {"type": "object"}
METADATA: Final[Schema] = {
    "type": "object",
    "patternProperties": {r"^[a-zA-Z0-9\-_:. ]{1,255}$": text(0, 255)},
    "additionalProperties": False,
}


def truth(value: Any) -> bool:
    """The boolean that a `LOOSE_BOOL` spelling stands for."""
    if isinstance(value, bool):
        return value
    return str(value).lower() in ("true", "1", "on", "yes", "y", "t")
