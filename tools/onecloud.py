# SPDX-License-Identifier: Apache-2.0
"""A fresh simulated cloud for a tool: a process of its own on a free port, gone at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"

sys.path.insert(0, str(ROOT))
from tests.scratch import use_memory  # noqa: E402 - the tests are not installed

use_memory()


class Cloud:
    """While the context lasts the cloud runs; ``settings`` is the text of its settings file (TOML)."""

    def __init__(self, data: Path, settings: str, environ: Mapping[str, str] | None = None) -> None:
        self.data, self._settings = data, settings
        self._environ = {**os.environ, **(environ or {})}
        self.url = self.password = ""

    def __enter__(self) -> Cloud:
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "settings.toml").write_text(self._settings)
        up = [
            str(BIN / "cumulet"), "up", "--detach", "--json", "--hypervisor", "simulated", "--data", str(self.data),
            "--port", "0", "--settings", str(self.data / "settings.toml"),
        ]  # fmt: skip
        told = subprocess.run(up, capture_output=True, text=True, env=self._environ)
        if told.returncode != 0:
            sys.exit(f"The cloud does not start:\n{told.stdout}{told.stderr}")
        self.url = json.loads(told.stdout[told.stdout.index("{") :])["url"]
        self.password = json.loads((self.data / "secrets.json").read_text())["admin_password"]
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([str(BIN / "cumulet"), "down", "--data", str(self.data)], capture_output=True, check=False)
