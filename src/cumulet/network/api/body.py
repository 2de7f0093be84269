# SPDX-License-Identifier: Apache-2.0
"""Bodies of attribute tables: one resource or, where published, several at once.

What comes out has every attribute in its canonical form under its published
name, and says which ones the client really sent: those have policies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cumulet.kernel.errors import Invalid
from cumulet.kernel.http import Body
from cumulet.kernel.http.fields import ABSENT
from cumulet.kernel.http.versions import Version
from cumulet.network.errors import http_bad
from cumulet.network.schemas import Attribute
from cumulet.network.schemas.values import uuid

_PROJECT = ("tenant_id", "project_id")


@dataclass(frozen=True)
class Sent:
    """One resource as asked for."""

    values: dict[str, Any]
    explicit: frozenset[str]
    """Attributes that the client sent with another value than the default."""


class AttributeBody(Body):
    """``{"port": {…}}``, or ``{"ports": [{…}, …]}`` where ``plural`` is given."""

    def __init__(
        self,
        name: str,
        attributes: tuple[Attribute, ...],
        *,
        verb: str,
        plural: str | None = None,
        chosen_id: bool = False,
    ) -> None:
        super().__init__(name, *attributes, verb=verb)
        self.name, self.plural, self.chosen_id = name, plural, chosen_id
        self.attributes = {one.name: one for one in attributes}

    def lift(self, sent: Any, version: Version | None, allows: Callable[[str], bool]) -> dict[str, Any]:
        """``{"items": [Sent, …], "bulk": bool}``."""
        if not isinstance(sent, dict):
            raise http_bad("Body contains invalid data")
        if self.plural is not None and self.plural in sent:
            several = sent[self.plural]
            if not isinstance(several, list) or not several:
                raise http_bad("Resources required")
            # an item may stand alone or, as published, in an envelope of its own
            inner = [one[self.name] if isinstance(one, dict) and set(one) == {self.name} else one for one in several]
            return {"items": [self._lift_one(one) for one in inner], "bulk": True}
        if self.name not in sent:
            raise http_bad(f"Unable to find '{self.name}' in request body")
        return {"items": [self._lift_one(sent[self.name])], "bulk": False}

    def _lift_one(self, sent: Any) -> Sent:
        if not isinstance(sent, dict):
            raise http_bad(f"Object '{self.name}' contains invalid data")
        given = dict(sent)
        if "tenant_id" in given:
            if given.get("project_id", given["tenant_id"]) != given["tenant_id"]:
                raise http_bad("'project_id' and 'tenant_id' do not match")
            given["project_id"] = given.pop("tenant_id")
        unknown = [name for name in given if name not in self.attributes]
        if self.verb == "put":
            self._refuse_read_only(given)
        if unknown:
            raise http_bad(f"Unrecognized attribute(s) '{', '.join(unknown)}'")
        values: dict[str, Any] = {}
        for name, attribute in self.attributes.items():
            if name in given:
                values[name] = self._convert(attribute, given[name])
            elif self.verb == "post":
                self._default(attribute, values)
        explicit = frozenset(name for name in given if name != "id" and values[name] != self._default_of(name))
        return Sent(values, explicit if self.verb == "post" else frozenset(given))

    def _refuse_read_only(self, given: dict[str, Any]) -> None:
        for name in given:
            if name in self.attributes and not self.attributes[name].put:
                raise http_bad(f"Cannot update read-only attribute {name}")

    def _default(self, attribute: Attribute, values: dict[str, Any]) -> None:
        default = attribute.default
        if default is not ABSENT:
            values[attribute.name] = default() if callable(default) else default
        elif not attribute.optional and attribute.post:
            raise http_bad(f"Failed to parse request. Required attribute '{attribute.name}' not specified")

    def _default_of(self, name: str) -> Any:
        default = self.attributes[name].default
        return default() if default is not ABSENT and callable(default) else default

    def _convert(self, attribute: Attribute, value: Any) -> Any:
        if self.verb == "post" and not attribute.post and not (self.chosen_id and attribute.name == "id"):
            raise http_bad(f"Attribute '{attribute.name}' not allowed in POST")
        convert = uuid if attribute.name == "id" else attribute.convert
        if convert is None:
            return value
        try:
            return convert(value)
        except ValueError as error:
            raise http_bad(f"Invalid input for {attribute.name}. Reason: {error}.") from None


def own_project(values: dict[str, Any], *, project_id: str | None, elevated: bool) -> None:
    """Set ``project_id``; only an administrator or a service may name another project."""
    named = values.get("project_id")
    if named is None:
        if project_id is None:
            raise Invalid("Running without keystone AuthN requires that tenant_id is specified", kind="HTTPBadRequest")
        values["project_id"] = project_id
    elif named != project_id and not elevated:
        raise http_bad(
            "Specifying 'project_id' other than the authenticated project in request requires admin privileges"
        )
