# SPDX-License-Identifier: Apache-2.0
"""The import of an image: look, fetch, convert, store, activate.

What is fetched grows in the staging area and is taken up again where it broke.
The record changes twice: when the import begins and, in one transaction, when
all data is in its stores. A failed import leaves the image queued and no file.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select

from cumulet.image.convert import ConvertError, convert
from cumulet.image.logic import Image
from cumulet.image.logic.data import Pieces, declared, facts_of, pump, receive, restore, too_large
from cumulet.image.logic.images import check_quota, write_locations
from cumulet.image.models import images, properties
from cumulet.image.remote import Remote, RemoteError
from cumulet.image.sagas.params import Import
from cumulet.image.sagas.work import Tracked, empty, end_task, fill, held, say
from cumulet.image.states import IMAGE, IMPORTING
from cumulet.image.web import WebError
from cumulet.kernel import clock
from cumulet.kernel.db import Row, Transaction
from cumulet.kernel.disks import Refused, inspect_file
from cumulet.kernel.saga import Failed, Run, Saga, Step, Wait

_BREAKS = 8
"""How often a download may break before the import fails."""
_LONG = 6 * 3600.0
_CONVERTIBLE = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vhdx": "vhdx", "vhd": "vpc"}
"""Disk formats that are converted → what the converter calls them."""


async def look(run: Run) -> dict[str, Any]:
    """What will be fetched: its size and how to know it again, or another cloud's record of it."""
    image: Image = run.world
    params: Import = run.params
    await held(run)
    await say(run, "")
    if params.method == "web-download":
        try:
            fetch = await image.web.open(params.url)
            await fetch.close()
        except WebError as error:
            raise _final(run, error) from None
        _check_size(image, fetch.size)
        return {"validator": fetch.validator}
    if params.method == "glance-download":
        try:
            found = await _remote(run).look()
        except RemoteError as error:
            raise _final(run, error) from None
        _check_size(image, found["size"])
        return found
    return {}


def _remote(run: Run) -> Remote:
    image: Image = run.world
    params: Import = run.params
    token = run.caller.token if run.caller is not None else None
    return Remote(image.session, token, params.region, params.interface, params.remote_id)


def _check_size(image: Image, size: int | None) -> None:
    if size is not None and size > image.config.size_cap_bytes:
        raise too_large(image)


def _final(run: Run, error: WebError | RemoteError) -> Exception:
    """What a broken fetch means: the end, or another try in a while."""
    run.notes["breaks"] = run.notes.get("breaks", 0) + 1
    if error.final or run.notes["breaks"] > _BREAKS:
        return Failed(f"The data could not be fetched: {error}")
    return Wait(min(2.0 ** run.notes["breaks"], 60.0))


async def fetch(run: Run) -> str:
    """Ensure that the staging area holds the data; returns its key there."""
    image: Image = run.world
    params: Import = run.params
    key = params.staged_key
    await held(run)
    try:
        await image.staging.size(key)
        return key
    except FileNotFoundError:
        if params.method == "glance-direct":
            raise Failed("The staged data is gone.") from None
    resumable = params.method == "web-download" and run.outputs["look"]["validator"] is not None
    writer, already = await image.staging.resume(key)
    try:
        if params.method == "web-download":
            offset = already if resumable else 0
            source: Any = await image.web.open(params.url, offset=offset, validator=run.outputs["look"]["validator"])
            begins = source.offset
            _check_size(image, source.size)
        else:
            source, begins = await _remote(run).open(), 0
        if begins != already:  # it can't be gone on with: from the beginning, in a new file
            await writer.abort()
            writer = await image.staging.write(key)
        await pump(image, Tracked(run, Pieces(source), begins), writer.write, begins)
    except (WebError, RemoteError) as error:
        await writer.keep()
        raise _final(run, error) from None
    except BaseException:
        await writer.keep()
        raise
    await writer.commit()
    return key


async def unfetch(run: Run) -> None:
    await run.world.staging.delete(run.params.staged_key)


async def change(run: Run) -> dict[str, Any]:
    """Convert the staged data when the cloud wants one format; which key holds it then, and its format."""
    image: Image = run.world
    row = await _described(run)
    source, target = row["disk_format"], image.config.convert_to
    if not target or source == target or source not in _CONVERTIBLE or declared(row) is None:
        return {"key": run.outputs["fetch"], "format": source}
    await held(run)
    await say(run, f"Converting from {source} to {target}")
    path = image.staging.path(run.outputs["fetch"])
    try:
        await image.pool.run(inspect_file, str(path), source, timeout=_LONG)
        await convert(
            path, _CONVERTIBLE[source], image.staging.path(run.params.converted_key), target,
            memory_bytes=image.config.convert_memory_mib * 1024 * 1024, seconds=image.config.convert_seconds,
            size_cap_bytes=image.config.size_cap_bytes,
        )  # fmt: skip
    except (Refused, ConvertError) as error:
        raise Failed(str(error)) from None
    return {"key": run.params.converted_key, "format": target}


async def unchange(run: Run) -> None:
    await run.world.staging.delete(run.params.converted_key)


async def _described(run: Run) -> Row:
    """The record with the formats that another cloud's image brings along."""
    row = await held(run)
    told = run.outputs["look"]
    return {**row, **{name: told[name] for name in ("disk_format", "container_format") if name in told}}


async def store(run: Run) -> dict[str, Any]:
    """Ensure that every store has the data; it is hashed and inspected once, on its way to the first."""
    image: Image = run.world
    row = await _described(run)
    changed = run.outputs["convert"]
    row["disk_format"] = changed["format"]
    size = await image.staging.size(changed["key"])
    facts: dict[str, Any] = run.notes.setdefault("facts", {})

    async def one(name: str) -> None:
        place = image.stores.get(name)
        if place is None:
            raise Failed(f"The store {name} is not there any more.")
        reader = await image.staging.read(changed["key"])
        try:
            source = Tracked(run, Pieces(reader))
            if facts:
                writer = await place.store.write(run.params.key)
                try:
                    await pump(image, source, writer.write)
                    await writer.commit()
                except BaseException:
                    await writer.abort()
                    raise
            else:
                facts.update(facts_of(await receive(image, place.store, run.params.key, source, declared(row))))
        finally:
            await reader.close()

    done, failed = await fill(run, run.params.stores, one)
    expected = run.outputs["look"].get("digest")
    if expected and changed["key"] == run.params.staged_key and facts["os_hash_value"] != expected:
        raise Failed("The data is not what the other cloud's record names.")
    return {"facts": facts, "stores": done, "failed": failed, "size": size}


async def activate(run: Run) -> None:
    """The image has its data: one transaction with the end of the task."""
    image: Image = run.world
    params: Import = run.params
    stored = run.outputs["store"]
    row = await held(run)
    limits = await image.limits.of(row["owner"])
    more_bytes = stored["size"] * len(stored["stores"])
    await image.database.run(lambda tx: check_quota(limits, tx, row["owner"], {}, more_bytes=more_bytes))
    await unfetch(run)
    await unchange(run)
    told = run.outputs["look"]
    values = {name: told[name] for name in ("container_format",) if name in told}
    values["disk_format"] = run.outputs["convert"]["format"]

    async def body(tx: Transaction) -> None:
        now = await tx.first(select(images).where(images.c.id == params.image_id))
        if now is None or now["status"] != IMPORTING or now["task_id"] != params.task_id:
            return  # deleted in this moment: what is in the stores is found as orphaned
        await write_locations(
            tx, params.image_id, [{"store": name, "key": params.key, "details": {}} for name in stored["stores"]]
        )
        if "properties" in told:
            await _take_properties(image, tx, params.image_id, told["properties"])
        await IMAGE.finish(
            tx, "import", params.image_id, staged_key=None, task_id=None, importing="",
            failed=",".join(stored["failed"]), **values, **stored["facts"],
        )  # fmt: skip
        copied = f"Copied {stored['size'] // (1024 * 1024)} MiB"
        await end_task(image, tx, params.task_id, "success", copied, {"image_id": params.image_id})

    run.commit(body)


async def _take_properties(image: Image, tx: Transaction, image_id: str, new: dict[str, str]) -> None:
    """Replace the custom properties that another cloud's image decides."""
    kinds = tuple(image.config.download_properties)
    for row in await tx.all(select(properties).where(properties.c.image_id == image_id)):
        if row["name"].startswith(kinds):
            same = (properties.c.image_id == image_id) & (properties.c.name == row["name"])
            await tx.run(delete(properties).where(same))
    for name, value in new.items():
        if name.startswith(kinds):
            await tx.insert(properties, {"image_id": image_id, "name": name, "value": value})


async def import_failed(run: Run, failed: Failed) -> None:
    """The image is as it was before, and says which stores were asked in vain."""
    image: Image = run.world
    params: Import = run.params

    async def body(tx: Transaction) -> None:
        row = await tx.first(select(images).where(images.c.id == params.image_id))
        if row is not None and row["status"] == IMPORTING and row["task_id"] == params.task_id:
            told = {"task_id": None, "importing": "", "failed": ",".join(params.stores)}
            if params.ends_image:
                await IMAGE.begin(tx, "delete", params.image_id, deleted_at=clock.now(), staged_key=None, **told)
            else:
                await restore(tx, params.image_id, **told)
        await end_task(image, tx, params.task_id, "failure", failed.message)

    run.commit(body)


IMPORT = Saga(
    "image.import",
    Import,
    (
        Step("look", look, within=900.0),
        Step("fetch", fetch, unfetch, within=_LONG),
        Step("convert", change, unchange, within=_LONG),
        Step("store", store, empty, within=_LONG),
        Step("activate", activate),
    ),
    on_failed=import_failed,
)
