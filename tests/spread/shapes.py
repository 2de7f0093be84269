# SPDX-License-Identifier: Apache-2.0
"""What one release says to another: the fields of its messages and the steps of its sagas, as JSON.

Runs in a process of its own, on whatever release its PYTHONPATH names; so it uses nothing of this repository.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import msgspec

SERVICES = ("identity", "image", "placement", "network", "volume", "compute", "insight")


def modules() -> Iterator[ModuleType]:
    """The modules that define messages or sagas."""
    for service in SERVICES:
        package = importlib.import_module(f"cumulet.{service}")
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            last = found.name.rpartition(".")[2]
            if last in ("rpc", "feed") or ".sagas." in found.name or last == "sagas":
                yield importlib.import_module(found.name)


def fields(model: Any, seen: frozenset[Any] = frozenset()) -> Any:
    """The fields of a Struct: name → [must be there, the fields of a Struct inside]."""
    if not (isinstance(model, type) and issubclass(model, msgspec.Struct)):
        inner = [fields(one, seen) for one in typing.get_args(model)]
        return next((one for one in inner if one), None)
    if model in seen:
        return None
    seen |= {model}
    return {one.encode_name: [one.required, fields(one.type, seen)] for one in msgspec.structs.fields(model)}


def shapes() -> dict[str, Any]:
    """Everything of this release."""
    from cumulet.kernel.bus import Method
    from cumulet.kernel.bus.model import Envelope, Reply
    from cumulet.kernel.saga import Saga

    methods: dict[str, Any] = {"every message": [fields(Envelope), fields(Reply)]}
    sagas: dict[str, Any] = {}
    for module in modules():
        for thing in vars(module).values():
            if isinstance(thing, Method):
                methods[f"{thing.topic} {thing.name}"] = [fields(thing.request), fields(thing.reply)]
            elif isinstance(thing, Saga):
                steps = [step.name for step in thing.steps]
                sagas[f"{thing.name} version {thing.version}"] = [steps, fields(thing.params)]
    return {"methods": methods, "sagas": sagas}


if __name__ == "__main__":
    json.dump(shapes(), sys.stdout)
