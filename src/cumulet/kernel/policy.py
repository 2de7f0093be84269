# SPDX-License-Identifier: Apache-2.0
"""Policy as data: upstream's rule names and rule language, compiled once into closures.

A rule is ``(name, check, scopes)``. The language is the published one: `rule:x`,
`role:x`, `key:%(target)s`, `key:literal`, `literal:%(target)s`, network's
`field:resource:name=value` (`=~regex`), `@`, `!`, `and`, `or`, `not`,
parentheses. A test holds this evaluator equal to the real one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

from cumulet.kernel.context import Context
from cumulet.kernel.errors import Forbidden


class PolicyError(ValueError):
    """An operator's rule is wrong; the text names it."""


Target = Mapping[str, Any]
Check = Callable[[Mapping[str, Any], Target], bool]
_TOKENS = re.compile(r"\(|\)|[^\s()]+(?:\([^)]*\)[^\s()]*)*")
_TARGET = re.compile(r"%\(([^)]+)\)s")
_MISSING: Final = object()


@dataclass(frozen=True)
class Rule:
    """One published policy name with its default check and the token scopes it accepts."""

    name: str
    check: str
    scopes: tuple[str, ...] = ("project",)
    description: str = ""


@dataclass
class Policy:
    """A service's rules, with the operator's overrides laid over them."""

    rules: list[Rule]
    overrides: Mapping[str, str] = field(default_factory=dict)
    besides: Mapping[str, str] = field(default_factory=dict)
    """Published name → a rule of our own that allows it as well: what services and hosts may do with no user behind
    them. The published rule keeps its published meaning."""

    def __post_init__(self) -> None:
        self._rules = {rule.name: rule for rule in self.rules}
        self._checks: dict[str, Check] = {}
        if self.overrides:
            self.override(self.overrides)

    def override(self, texts: Mapping[str, str]) -> None:
        """Lay an operator's rules over the defaults, in place of any laid before: all of them, or none.

        Raises PolicyError for a text that is no rule, a reference to a rule that
        is not there, a rule that leads to itself, and a name that is neither
        published nor referred to by another rule of the operator's.
        """
        references: dict[str, list[str]] = {}
        for name, text in texts.items():
            referred = references.setdefault(name, [])
            try:
                compile_check(text, lambda other, referred=referred: referred.append(other) or _never)  # type: ignore[misc]
            except (ValueError, re.error) as error:
                raise PolicyError(f"{name}: {error}") from None
        used = {other for referred in references.values() for other in referred}
        for name, referred in references.items():
            if name not in self._rules and name not in used:
                raise PolicyError(f"{name}: no such rule{self._meant(name)}")
            for other in referred:
                if other not in self._rules and other not in texts:
                    raise PolicyError(f"{name}: it refers to {other}, and there is no such rule{self._meant(other)}")
        merged = {rule.name: rule.check for rule in self.rules} | dict(texts)
        for name in texts:
            _follow(name, merged, ())
        self.overrides, self._checks = dict(texts), {}

    def _meant(self, name: str) -> str:
        close = get_close_matches(name, self._rules, n=1)
        return f"; did you mean {close[0]}?" if close else ""

    def names(self) -> set[str]:
        return set(self._rules)

    def allows(self, name: str, context: Context, target: Target | None = None) -> bool:
        """Whether the caller may do ``name`` to ``target`` (default: its own project and user)."""
        if (also := self.besides.get(name)) is not None and self.allows(also, context, target):
            return True
        rule = self._rules[name]
        # an unscoped token counts as project-scoped, as published
        scope = "system" if context.system else "domain" if context.domain_id else "project"
        if scope not in rule.scopes:
            return False
        if target is None:
            target = {"project_id": context.project_id, "tenant_id": context.project_id, "user_id": context.user_id}
        return self._check(name)(context.policy_view(), target)

    def enforce(self, name: str, context: Context, target: Target | None = None) -> None:
        """Raise Forbidden in the published wording unless `allows`."""
        if not self.allows(name, context, target):
            raise Forbidden(f"Policy doesn't allow {name} to be performed.", kind="PolicyNotAuthorized", rule=name)

    def _check(self, name: str) -> Check:
        if name not in self._checks:
            text = self.overrides[name] if name in self.overrides else self._rules[name].check
            self._checks[name] = compile_check(text, self._check_named)
        return self._checks[name]

    def _check_named(self, name: str) -> Check:
        if name in self._rules or name in self.overrides:
            return lambda creds, target: self._check(name)(creds, target)
        return _never


def _never(creds: Mapping[str, Any], target: Target) -> bool:
    return False


def _follow(name: str, texts: Mapping[str, str], way: tuple[str, ...]) -> None:
    """Raise PolicyError when a rule leads back to itself."""
    if name in way:
        raise PolicyError(f"{name}: it leads to itself: {' → '.join((*way[way.index(name) :], name))}")
    referred: list[str] = []
    compile_check(texts.get(name, "!"), lambda other: referred.append(other) or _never)  # type: ignore[func-returns-value]
    for other in referred:
        _follow(other, texts, (*way, name))


def compile_check(text: str, named: Callable[[str], Check]) -> Check:
    """The closure of a rule text; ``named`` resolves ``rule:``. Raises ValueError on a syntax error."""
    tokens = _TOKENS.findall(text)
    if not tokens:
        return lambda creds, target: True
    check, rest = _either(tokens, named)
    if rest:
        raise ValueError(f"unexpected {rest[0]!r} in policy rule {text!r}")
    return check


def _either(tokens: list[str], named: Callable[[str], Check]) -> tuple[Check, list[str]]:
    left, tokens = _both(tokens, named)
    options = [left]
    while tokens and tokens[0].lower() == "or":
        right, tokens = _both(tokens[1:], named)
        options.append(right)
    return (left if len(options) == 1 else lambda creds, target: any(one(creds, target) for one in options)), tokens


def _both(tokens: list[str], named: Callable[[str], Check]) -> tuple[Check, list[str]]:
    left, tokens = _single(tokens, named)
    parts = [left]
    while tokens and tokens[0].lower() == "and":
        right, tokens = _single(tokens[1:], named)
        parts.append(right)
    return (left if len(parts) == 1 else lambda creds, target: all(one(creds, target) for one in parts)), tokens


def _single(tokens: list[str], named: Callable[[str], Check]) -> tuple[Check, list[str]]:
    if not tokens:
        raise ValueError("policy rule ends too early")
    head, rest = tokens[0], tokens[1:]
    if head.lower() == "not":
        inner, rest = _single(rest, named)
        return (lambda creds, target: not inner(creds, target)), rest
    if head == "(":
        inner, rest = _either(rest, named)
        if not rest or rest[0] != ")":
            raise ValueError("a parenthesis is not closed in a policy rule")
        return inner, rest[1:]
    return _atom(head, named), rest


def _atom(text: str, named: Callable[[str], Check]) -> Check:
    if text == "@":
        return lambda creds, target: True
    if text == "!":
        return lambda creds, target: False
    kind, colon, match = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} is not a policy check")
    if kind == "rule":
        return named(match)
    if kind == "role":
        role = match.lower()
        return lambda creds, target: role in (one.lower() for one in creds.get("roles", ()))
    if kind == "field":
        return _field(match)
    literal = _literal(kind)
    path = kind.split(".")

    def compare(creds: Mapping[str, Any], target: Target) -> bool:
        wanted = match
        for key in _TARGET.findall(match):
            value = _dig(target, key)
            if value is _MISSING:  # a member that is there and null compares as the text None
                return False
            wanted = wanted.replace(f"%({key})s", str(value))
        return literal == wanted if literal is not None else _holds(creds, path, wanted)

    return compare


def _literal(kind: str) -> str | None:
    """The text of a constant on the left side (a quoted text, a number, True, False, None), else None."""
    if len(kind) > 1 and kind[0] == kind[-1] and kind[0] in "'\"":
        return kind[1:-1]
    return kind if kind in ("True", "False", "None") or kind.isdigit() else None


def _holds(value: Any, path: list[str], wanted: str) -> bool:
    """Whether the member at ``path`` has the wanted text; lists on the way hold it when any of theirs does."""
    if isinstance(value, list):
        return any(_holds(one, path, wanted) for one in value)
    if not path:
        return str(value) == wanted
    return isinstance(value, Mapping) and path[0] in value and _holds(value[path[0]], path[1:], wanted)


def _field(match: str) -> Check:
    """``networks:shared=True``: whether the target's own field has that value (``=~`` matches a pattern)."""
    name, equals, wanted = match.partition(":")[2].partition("=")
    if not equals:
        raise ValueError(f"'field:{match}' is not a policy check")
    pattern = re.compile(wanted[1:]) if wanted.startswith("~") else None

    def check(creds: Mapping[str, Any], target: Target) -> bool:
        value = target.get(name)
        if value is None:
            return False
        return pattern.match(str(value)) is not None if pattern else str(value) == wanted

    return check


def _dig(values: Mapping[str, Any], path: str) -> Any:
    """The member of a target by its flat or nested name."""
    if path in values:
        return values[path]
    found: Any = values
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _MISSING
        found = found[part]
    return found
