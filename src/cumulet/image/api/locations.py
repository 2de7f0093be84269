# SPDX-License-Identifier: Apache-2.0
"""Where an image's data is: the older way (a patch of ``locations``, when they are shown) and the newer one.

Source: the Image API reference, "Image locations".
"""

from __future__ import annotations

from typing import Any

from cumulet.image.logic import Image
from cumulet.image.logic import images as logic
from cumulet.image.logic import imports as import_logic
from cumulet.image.logic.data import HASH
from cumulet.image.states import ACTIVE, QUEUED
from cumulet.kernel.db import Row
from cumulet.kernel.errors import Conflict, Fault, Forbidden, Invalid
from cumulet.kernel.http import Request


def url_of(image: Image, location: Row) -> str:
    place = image.stores.get(location["store"])
    return place.store.url(location["key"]) if place is not None else location["key"]


def view(image: Image, location: Row) -> dict[str, Any]:
    """A location's document."""
    return {"url": url_of(image, location), "metadata": {**location["details"], "store": location["store"]}}


# ---- the newer way


async def add(request: Request) -> None:
    body = request.body
    validation = body.get("validation_data") or {}
    await import_logic.begin_location(request.service, request.context, request.found, body["url"], validation)


async def index(request: Request) -> list[dict[str, Any]]:
    return [view(request.service, one) for one in request.found["locations"]]


# ---- the older way


async def change(request: Request, row: Row, operation: str, path: list[str], value: Any) -> None:
    """Apply one operation of a patch to ``row``; raises what is published for each mistake."""
    image: Image = request.service
    if operation == "replace" and not value:
        raise Forbidden("Cannot set locations to empty list.")
    if operation == "remove":
        request.enforce("delete_image_location", logic.target_of(row))
        request.enforce("get_image_location", logic.target_of(row))
    else:
        request.enforce("set_image_location", logic.target_of(row))
    if not image.config.show_locations:
        word = {"add": "add", "remove": "remove", "replace": "update"}[operation]
        raise Forbidden(f"It's not allowed to {word} locations if locations are invisible.")
    if row["status"] not in ((ACTIVE,) if operation == "remove" else (ACTIVE, QUEUED)):
        raise Conflict(f"It's not allowed to {operation} locations if image status is {row['status']}.")
    held: list[Row] = list(row["locations"])
    if operation == "remove":
        if len(held) == 1:
            raise Forbidden("Cannot remove last location in the image.")
        held.pop(_position(path[1], len(held) - 1, "removing"))
    elif operation == "add":
        learnt = _validated(row, [value])
        place = _position(path[1], len(held), "adding")
        held.insert(place, await _taken(image, row, value, held))
        row |= learnt
    else:
        learnt = _validated(row, value)
        held = await _replaced(image, row, value, held)
        row |= learnt
    row["locations"] = held
    row["status"] = ACTIVE


def _position(text: str, last: int, doing: str) -> int:
    if text == "-":
        return last
    if not text.isdigit() or (doing == "removing" and int(text) > last):
        raise Invalid(f"Invalid position for {doing} a location.")
    return int(text)


async def _replaced(image: Image, row: Row, value: list[dict[str, Any]], held: list[Row]) -> list[Row]:
    """The same locations with other metadata, or the first ones of an image without any."""
    known = {url_of(image, one): one for one in held}
    if held:
        if sorted(one["url"] for one in value) != sorted(known):
            raise Invalid(f"Original locations is not empty: {[view(image, one) for one in held]}")
        return [{**known[one["url"]], "details": _details(one)} for one in value]
    new: list[Row] = []
    for one in value:
        new.append(await _taken(image, row, one, new))
    return new


def _details(value: dict[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in value["metadata"].items() if name != "store"}


async def _taken(image: Image, row: Row, value: dict[str, Any], held: list[Row]) -> Row:
    """A new location, which must name something that is there; the image's size is learnt from the first."""
    url = value["url"]
    if any(url_of(image, one) == url for one in held):
        raise Invalid(f"The location {url} already exists")
    store = import_logic.web_store(image)
    if store is None:
        raise Invalid("Invalid location")
    try:
        await import_logic.check_url(image, url, "location")
        size = await image.stores[store].store.size(url)
    except (Fault, OSError):
        raise Invalid("Invalid location") from None
    if size <= 0:
        raise Invalid("Invalid location")
    if row["size"] is None:
        row["size"] = size
    return {"store": store, "key": url, "details": _details(value)}


def _validated(row: Row, given: list[dict[str, Any]]) -> dict[str, str]:
    """The digests that new locations bring along; raises Conflict for others than the image has."""
    told: dict[str, str] = {}
    for one in given:
        for name, value in one.get("validation_data", {}).items():
            if told.get(name, value) != value:
                raise Conflict(f"Conflicting values for {name}")
            told[name] = value
    new = {}
    for name, value in told.items():
        if row[name] and row[name] != value:
            raise Conflict(f"{name} is already set with a different value")
        if not row[name]:
            new[name] = value
    if not new:
        return {}
    if row["status"] != QUEUED:
        raise Conflict(f"New value(s) for {', '.join(new)} may only be provided when image status is 'queued'")
    if new.get("os_hash_algo", HASH) != HASH:
        raise Conflict(f"os_hash_algo must be {HASH}, not {new['os_hash_algo']}")
    for name, size in (("checksum", 16), ("os_hash_value", 64)):
        if name in new:
            try:
                right = len(bytes.fromhex(new[name])) == size
            except ValueError:
                raise Conflict(f"{name} ({new[name]}) is not a valid hexadecimal value") from None
            if not right:
                raise Conflict(f"{name} ({new[name]}) is not the correct size (should be {size} bytes)")
    return new
