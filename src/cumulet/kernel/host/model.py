# SPDX-License-Identifier: Apache-2.0
"""The words that both sides of the channel share: operations, descriptors, errors, and how one is performed."""

from __future__ import annotations

import importlib
import logging
import os
import typing
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R")

Operations = Mapping[str, str]
"""Allowed name -> where the function lives, both as ``module:function``."""

log = logging.getLogger(__name__)


class HostError(RuntimeError):
    """The privileged side refused or failed; the text is fit to be shown and holds no secret."""


class Fds(list[int]):
    """What an operation returns when it returns open descriptors; they are passed on and closed."""


class Host(Protocol):
    """The privileged side as everybody else sees it."""

    async def call(self, operation: Callable[[P], R], params: P, *, timeout: float = 30.0) -> R:
        """Have ``operation(params)`` carried out with privilege and return its value.

        Raises HostError with the reason, TimeoutError after ``timeout`` seconds.
        """
        ...

    async def call_fd(self, operation: Callable[[P], Fds], params: P, *, timeout: float = 30.0) -> Fds:
        """Like ``call`` for an operation that returns descriptors; the caller owns and closes them."""
        ...


def name_of(operation: Callable[..., Any]) -> str:
    """The name under which an operation is allowed: ``module:qualname``."""
    return f"{operation.__module__}:{operation.__qualname__}"


def returns(operation: Callable[..., Any]) -> Any:
    """The declared type of an operation's value."""
    return typing.get_type_hints(operation)["return"]


def perform(operations: Operations, name: str, raw: bytes) -> tuple[bytes, list[int]]:
    """Carry out the allowed operation ``name`` on the msgpack value ``raw``.

    Returns its value as msgpack and the descriptors that go with it. Raises
    HostError for everything that goes wrong, with a text that names no value
    of the parameters.
    """
    try:
        if (path := operations.get(name)) is None:
            raise HostError(f"operation {name!r} is not allowed")
        module, _, attribute = path.partition(":")
        function = getattr(importlib.import_module(module), attribute)
        hints = typing.get_type_hints(function)
        wanted = next(hint for argument, hint in hints.items() if argument != "return")
        value = function(msgspec.msgpack.decode(raw, type=wanted))
        if isinstance(value, Fds):
            return msgspec.msgpack.encode(None), list(value)
        return msgspec.msgpack.encode(value), []
    except HostError:
        raise
    except msgspec.ValidationError as error:
        raise HostError(f"{name}: {error}") from error
    except OSError as error:
        log.exception("operation %s", name)
        where = f" ({error.filename})" if error.filename else ""
        raise HostError(
            f"{name}: {os.strerror(error.errno) if error.errno else type(error).__name__}{where}"
        ) from error
    except Exception as error:
        log.exception("operation %s", name)
        raise HostError(f"{name}: {type(error).__name__}") from error
