# SPDX-License-Identifier: Apache-2.0
"""Secrets at rest and in text: one file of generated secrets per data directory, sealing, masking.

Nothing here ever prints a secret; the file has mode 0600 from its first byte.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from cumulet.kernel import ids
from cumulet.kernel.files import alone, write_whole

_SENSITIVE = re.compile(
    r"""(?ix) (["']?(?:x-auth-token|x-subject-token|x-service-token|password|adminpass|admin_pass|secret|token|
    user_data|authorization|original_password|fernet[_a-z]*)["']?\s*[:=]\s*)(["']?)([^"'\s,}&]+)\2"""
)
_TOKEN = re.compile(r"gAAAA[A-Za-z0-9_\-=]{20,}")


def mask(text: str) -> str:
    """The text with the values of passwords, tokens and user data replaced by ``***``."""
    return _TOKEN.sub("***", _SENSITIVE.sub(r"\1\2***\2", text))


def derive(secret: str, *parts: str) -> str:
    """A secret of its own for what ``parts`` name, made from ``secret``: the same one each time, and no way back."""
    named = b"".join(len(part.encode()).to_bytes(4) + part.encode() for part in parts)
    return base64.urlsafe_b64encode(hmac.digest(secret.encode(), named, "sha256")).rstrip(b"=").decode()


class SecretFile:
    """Named generated secrets in one JSON file of mode 0600: asked for by name, made on first asking."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = (0, 0, 0)
        self._values: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Take up what another process wrote; returns whether the file is another one than before."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return False
            self._values = orjson.loads(self.path.read_bytes())
        except FileNotFoundError:
            return False
        self._stamp = stamp
        return True

    def _look(self) -> tuple[int, int, int]:
        """What tells one state of the file from another; two writes may fall into one tick of its clock."""
        found = self.path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def get(self, name: str, octets: int = 32) -> str:
        """The secret of that name; a new one with ``octets`` bytes of entropy is written before it is returned."""
        if name not in self._values:
            with self._alone():
                if name not in self._values:
                    self._values[name] = ids.new_secret(octets)
                    self._write()
        return self._values[name]

    def put(self, name: str, value: str) -> None:
        with self._alone():
            self._values[name] = value
            self._write()

    def drop(self, *names: str) -> None:
        """Have no secrets of these names."""
        with self._alone():
            if [name for name in names if self._values.pop(name, None) is not None]:
                self._write()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only process that writes the file, and know what the others wrote."""
        with alone(self.path.with_suffix(".lock")):
            self._stamp = (0, 0, 0)
            self.refresh()
            yield

    def _write(self) -> None:
        write_whole(self.path, orjson.dumps(self._values, option=orjson.OPT_INDENT_2), durable=True)
        self._stamp = self._look()

    def known(self, name: str) -> bool:
        return name in self._values


class Seal:
    """Authenticated encryption of small texts (tokens in the saga journal) under one key."""

    def __init__(self, secret: str) -> None:
        import hashlib

        from cryptography.fernet import Fernet

        self._fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()))

    def close(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str | None:
        """The text, or None when it was sealed under another key or damaged."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            return None
