# SPDX-License-Identifier: Apache-2.0
"""The volume service as the others see it: volumes, snapshots, attachments.

The id of a volume, snapshot or attachment is chosen by the caller where a
repeated step must find its own work again. Such an id is used once: what comes
after a service deleted it does not make it again (`cumulet.kernel.fences`).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import orjson

from cumulet.client.session import ServiceSession
from cumulet.kernel import context, fences
from cumulet.kernel.errors import Conflict, Unauthorized

_TYPE = "block-storage"
_VERSION = "3.71"


class Attached(msgspec.Struct, frozen=True):
    """Where a volume is in use, as its record lists it."""

    attachment_id: str
    server_id: str | None = None
    device: str | None = None
    host_name: str | None = None


class Volume(msgspec.Struct, frozen=True):
    """A volume; ``size`` in GiB."""

    id: str
    status: str
    size: int
    name: str | None = None
    description: str | None = None
    bootable: bool = False
    multiattach: bool = False
    encrypted: bool = False
    availability_zone: str | None = None
    volume_type: str | None = None
    volume_type_id: str | None = None
    snapshot_id: str | None = None
    source_volid: str | None = None
    metadata: dict[str, str] = {}
    volume_image_metadata: dict[str, Any] | None = None
    attachments: list[Attached] = []
    created_at: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot; ``size`` of its volume in GiB."""

    id: str
    status: str
    volume_id: str
    size: int
    name: str | None = None
    metadata: dict[str, str] = {}


class Connection(msgspec.Struct, frozen=True):
    """How the host that asked opens the volume."""

    driver_volume_type: str
    path: str
    format: str
    """``raw`` or ``qcow2``; never probed from the content."""
    read_only: bool = False

    def file(self) -> str:
        """The path that a guest of this host opens; raises Conflict for a volume that is no file here."""
        if self.driver_volume_type not in ("file", "simulated"):
            raise Conflict(f"Guests can't be given volumes of the kind {self.driver_volume_type} yet.")
        return self.path


class Attachment(msgspec.Struct, frozen=True):
    """An attachment; ``status`` is reserved, attaching, attached or detached."""

    id: str
    status: str
    volume_id: str
    instance: str | None = None
    attach_mode: str | None = None
    connection_info: dict[str, Any] = {}


class VolumeClient:
    """Typed calls of the volume API. ``as_service`` sends the service's own token alone."""

    def __init__(self, session: ServiceSession) -> None:
        self._session = session

    async def _call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        as_service: bool,
        timeout: float = 60.0,
        fence: int | None = None,
    ) -> Any:
        return await self._session.call(
            _TYPE, method, f"/v3{path}", json, headers=fences.header(fence), version=_VERSION, as_service=as_service,
            timeout=timeout,
        )  # fmt: skip

    async def _make(self, path: str, kind: str, body: dict[str, Any], *, as_service: bool) -> Any:
        fence = fences.making() if "id" in body else None
        return (await self._call("POST", path, {kind: body}, as_service=as_service, fence=fence))[kind]

    async def _delete(self, path: str, *, as_service: bool, timeout: float = 60.0) -> None:
        await self._call(
            "DELETE", path, as_service=as_service, timeout=timeout, fence=fences.LAST if as_service else None
        )

    # ---- volumes and snapshots

    async def volume(self, volume_id: str, *, as_service: bool = False) -> Volume:
        """One volume; raises NotFound."""
        return _volume((await self._call("GET", f"/volumes/{_q(volume_id)}", as_service=as_service))["volume"])

    async def volumes(
        self, *, metadata: dict[str, str] | None = None, as_service: bool = False, **filters: str
    ) -> list[Volume]:
        """All volumes that the caller sees and the filters let through (``metadata``: pairs they all have)."""
        query = dict(filters)
        if metadata:
            query["metadata"] = orjson.dumps(metadata).decode()
        found: list[Volume] = []
        while True:
            told = await self._call("GET", f"/volumes/detail?{urlencode(query)}", as_service=as_service)
            found += [_volume(one) for one in told["volumes"]]
            if not told.get("volumes_links"):
                return found
            query["marker"] = found[-1].id

    async def create_volume(self, body: dict[str, Any], *, as_service: bool = False) -> Volume:
        """A new volume from the members of the published ``volume`` object; it is `creating` at first.

        It is the user's also when the user's token is refused in accepted work. Raises Conflict for an ``id`` that is
        taken.
        """
        caller = context.current()
        if as_service or caller is None or not caller.accepted:
            return await self._create_volume(body, as_service=as_service)
        owned = {**body, "project_id": caller.project_id, "user_id": caller.user_id}
        if caller.token is None:  # it was not kept, or can't be opened: our own project is not meant
            return await self._create_volume(owned, as_service=True)
        context.use(msgspec.structs.replace(caller, accepted=False))
        try:
            return await self._create_volume(body, as_service=False)
        except Unauthorized:
            return await self._create_volume(owned, as_service=True)
        finally:
            context.use(caller)

    async def _create_volume(self, body: dict[str, Any], *, as_service: bool) -> Volume:
        return _volume(await self._make("/volumes", "volume", body, as_service=as_service))

    async def delete_volume(self, volume_id: str, *, as_service: bool = False) -> None:
        """Begin to delete; raises NotFound, and Invalid for a volume that may not be deleted now."""
        await self._delete(f"/volumes/{_q(volume_id)}", as_service=as_service)

    async def begin_detaching(self, volume_id: str, attachment_id: str, *, as_service: bool = False) -> None:
        """Show that a volume in use is being detached; raises Invalid when it is not in use by this attachment."""
        await self._act(volume_id, "os-begin_detaching", {"attachment_id": attachment_id}, as_service=as_service)

    async def roll_detaching(self, volume_id: str, *, as_service: bool = False) -> None:
        """Take `begin_detaching` back; nothing happens to a volume that is not being detached."""
        await self._act(volume_id, "os-roll_detaching", {}, as_service=as_service)

    async def _act(self, volume_id: str, action: str, told: dict[str, str], *, as_service: bool) -> None:
        await self._call("POST", f"/volumes/{_q(volume_id)}/action", {action: told}, as_service=as_service)

    async def snapshot(self, snapshot_id: str, *, as_service: bool = False) -> Snapshot:
        """One snapshot; raises NotFound."""
        told = await self._call("GET", f"/snapshots/{_q(snapshot_id)}", as_service=as_service)
        return msgspec.convert(told["snapshot"], Snapshot)

    async def create_snapshot(
        self, volume_id: str, name: str, *, snapshot_id: str | None = None, as_service: bool = False
    ) -> Snapshot:
        """A new snapshot of a volume, also of one in use; raises Conflict for a ``snapshot_id`` that is taken."""
        body = {"volume_id": volume_id, "name": name, "force": True, **({"id": snapshot_id} if snapshot_id else {})}
        return msgspec.convert(await self._make("/snapshots", "snapshot", body, as_service=as_service), Snapshot)

    async def delete_snapshot(self, snapshot_id: str, *, as_service: bool = False) -> None:
        """Begin to delete; raises NotFound."""
        await self._delete(f"/snapshots/{_q(snapshot_id)}", as_service=as_service)

    # ---- attachments

    async def attachment(self, attachment_id: str, *, as_service: bool = False) -> Attachment:
        """One attachment; raises NotFound."""
        told = await self._call("GET", f"/attachments/{_q(attachment_id)}", as_service=as_service)
        return _attachment(told["attachment"])

    async def attachments(self, server_id: str, *, as_service: bool = False) -> list[Attachment]:
        """All attachments of a server."""
        query = {"instance_id": server_id, **({"all_tenants": "1"} if as_service else {})}
        told = await self._call("GET", f"/attachments/detail?{urlencode(query)}", as_service=as_service)
        return [_attachment(one) for one in told["attachments"]]

    async def create_attachment(
        self,
        volume_id: str,
        server_id: str,
        *,
        attachment_id: str | None = None,
        connector: dict[str, Any] | None = None,
        mode: str | None = None,
        as_service: bool = False,
    ) -> Attachment:
        """Reserve a volume for a server; with ``attachment_id`` a repeated call finds the first one's work.

        Raises NotFound for the volume and Invalid when it can't be reserved.
        """
        body: dict[str, Any] = {"volume_uuid": volume_id, "instance_uuid": server_id}
        if connector is not None:
            body["connector"] = connector
        if mode is not None:
            body["mode"] = mode
        if attachment_id is not None:
            body["id"] = attachment_id
        try:
            return _attachment(await self._make("/attachments", "attachment", body, as_service=as_service))
        except Conflict:
            if attachment_id is None:
                raise
            known = await self.attachment(attachment_id, as_service=as_service)
            if (known.volume_id, known.instance) != (volume_id, server_id):
                raise
            return known

    async def update_attachment(
        self, attachment_id: str, connector: dict[str, Any], *, as_service: bool = False
    ) -> Connection:
        """Connect the volume to the host that ``connector`` describes; may be repeated."""
        body = {"attachment": {"connector": connector}}
        path = f"/attachments/{_q(attachment_id)}"
        told = await self._call("PUT", path, body, as_service=as_service, timeout=120.0)
        return msgspec.convert(told["attachment"]["connection_info"], Connection)

    async def complete_attachment(self, attachment_id: str, *, as_service: bool = False) -> None:
        """The guest has the volume: it is in use from here on; may be repeated."""
        path = f"/attachments/{_q(attachment_id)}/action"
        await self._call("POST", path, {"os-complete": {}}, as_service=as_service)

    async def delete_attachment(self, attachment_id: str, *, as_service: bool = False) -> None:
        """Disconnect and end an attachment; raises NotFound when there is none."""
        await self._delete(f"/attachments/{_q(attachment_id)}", as_service=as_service, timeout=120.0)


def _q(id_: str) -> str:
    return quote(id_, safe="")


def _volume(document: dict[str, Any]) -> Volume:
    return msgspec.convert({**document, "bootable": str(document.get("bootable")).lower() == "true"}, Volume)


def _attachment(document: dict[str, Any]) -> Attachment:
    return msgspec.convert({**document, "connection_info": document.get("connection_info") or {}}, Attachment)
