# SPDX-License-Identifier: Apache-2.0
"""Settings: one TOML file, one typed Struct per section, nothing global.

An unknown key, a wrong type or a value out of range names the key and stops
before anything is served. Environment variables `CUMULET_<SECTION>_<KEY>`
override the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

S = TypeVar("S", bound=msgspec.Struct)


class SettingsError(ValueError):
    """A setting is wrong; the text names the key."""


def read_sections(path: Path) -> dict[str, Any]:
    """What a TOML file says; raises SettingsError where it is none, and OSError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path.name}: {error}") from None


class Settings:
    """All sections of one file, each read by the service that owns it."""

    def __init__(self, values: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> None:
        self._values: dict[str, dict[str, Any]] = {}
        for section, content in (values or {}).items():
            if not isinstance(content, dict):
                raise SettingsError(f"[{section}] must be a section, not {type(content).__name__}")
            self._values[section] = dict(content)
        self._environ = os.environ if environ is None else environ
        self._asked: set[str] = set()

    @classmethod
    def read(cls, path: Path | None) -> Settings:
        """The settings of a TOML file (None or missing: all defaults); raises SettingsError."""
        if path is None or not path.exists():
            return cls()
        return cls(read_sections(path))

    def section(self, name: str, model: type[S]) -> S:
        """The section as ``model``; unknown keys and wrong types raise SettingsError naming the key."""
        self._asked.add(name)
        given = dict(self._values.get(name, {}))
        fields = {field.name: field for field in msgspec.structs.fields(model)}
        for key in fields:
            override = self._environ.get(f"CUMULET_{name}_{key}".upper())
            if override is not None:
                given[key] = override
        for key in given:
            if key not in fields:
                raise SettingsError(f"[{name}] {key}: no such setting; known: {', '.join(sorted(fields))}")
        try:
            return msgspec.convert(given, model, strict=False)
        except msgspec.ValidationError as error:
            told, _, place = str(error).partition(" - at `$.")
            raise SettingsError(f"[{name}] {place.rstrip('`')}: {told}" if place else f"[{name}] {told}") from None

    def given(self, name: str) -> dict[str, Any]:
        """What the file itself says in a section, unchecked."""
        return dict(self._values.get(name, {}))

    def without(self, section: str, key: str) -> Settings:
        """The same settings without one key, as if neither file nor environment named it."""
        values = {name: dict(content) for name, content in self._values.items()}
        values.get(section, {}).pop(key, None)
        variable = f"CUMULET_{section}_{key}".upper()
        return Settings(values, {name: value for name, value in self._environ.items() if name != variable})

    def check_all_asked(self) -> None:
        """Raise SettingsError for a section that no part of the program knows."""
        for section in self._values:
            if section not in self._asked:
                raise SettingsError(f"[{section}]: no such section; known: {', '.join(sorted(self._asked))}")
