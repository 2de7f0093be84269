# SPDX-License-Identifier: Apache-2.0
"""Operators' policy files: upstream's rule names → rules, YAML or JSON, one file per service.

Invariant: what is in force is always one whole valid file. A wrong file stops
the start; one that becomes wrong later is logged, and what was in force stays.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cumulet.kernel.loops import Loop
from cumulet.kernel.policy import Policy, PolicyError
from cumulet.kernel.settings import SettingsError

_log = logging.getLogger(__name__)
_LOOK = 2.0
_ENDINGS = ("yaml", "yml", "json")


class PolicyConfig(msgspec.Struct, forbid_unknown_fields=True):
    """The section ``[policy]``: where operators lay rules of their own over the published defaults."""

    directory: str = ""
    """A directory with ``identity.yaml``, ``compute.json`` …; empty: ``policy`` in the data directory."""
    files: dict[str, str] = {}
    """service → a file elsewhere."""


class Unreadable(PolicyError):
    """The file could not be read now, whatever is in it."""


class PolicyFiles:
    """The files of this process's services; looked at again every two seconds."""

    def __init__(self, config: PolicyConfig, data: Path, policies: Mapping[str, Policy]) -> None:
        self._policies = policies
        self._directory = Path(config.directory) if config.directory else data / "policy"
        self._named = {name: Path(file) for name, file in config.files.items()}
        if config.directory and not self._directory.is_dir():
            raise SettingsError(f"[policy] directory: {config.directory} is no directory")
        for name, file in self._named.items():
            if not file.is_file():
                raise SettingsError(f"[policy] files: {name}: there is no file {file}")
        self._seen: dict[str, Any] = {}
        self.loop = Loop("policy files", _LOOK, self.look)

    def load(self) -> None:
        """Read all files; raises SettingsError naming the file and the rule."""
        for name in self._policies:
            try:
                self._load(name)
            except PolicyError as error:
                raise SettingsError(str(error)) from None

    async def look(self) -> None:
        """Read again what changed; a wrong file changes nothing but the log."""
        for name in self._policies:
            try:
                if self._load(name):
                    _log.info("the policy of %s was read again", name)
            except PolicyError as error:
                _log.error("the policy of %s stays as it was: %s", name, error)

    def _load(self, name: str) -> bool:
        file = self._file(name)
        state = None if file is None else (file, file.stat().st_mtime_ns, file.stat().st_size)
        if state == self._seen.get(name):
            return False
        try:
            rules = read(file) if file is not None else {}
        except Unreadable as error:  # not seen: it is tried again
            raise PolicyError(f"{file}: {error}") from None
        except PolicyError as error:
            self._seen[name] = state
            raise PolicyError(f"{file}: {error}") from None
        self._seen[name] = state
        try:
            self._policies[name].override(rules)
        except PolicyError as error:
            raise PolicyError(f"{file}: {error}") from None
        return True

    def _file(self, name: str) -> Path | None:
        if name in self._named:
            return self._named[name]
        candidates = [self._directory / f"{name}.{ending}" for ending in _ENDINGS]
        return next((file for file in candidates if file.is_file()), None)


def read(file: Path) -> dict[str, str]:
    """The rules of a file (JSON is YAML too); raises PolicyError, Unreadable for what may be read later."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise Unreadable(str(error)) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise PolicyError(" ".join(str(error).split())) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise PolicyError("it must map names of rules to rules")
    for name, text in content.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise PolicyError(f"{name}: a rule is a text, not {type(text).__name__}")
    return content
