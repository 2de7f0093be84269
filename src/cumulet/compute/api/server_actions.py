# SPDX-License-Identifier: Apache-2.0
"""What can be done to a server by ``POST /servers/{id}/action``. Source: "Servers - run an action"."""

from __future__ import annotations

from typing import Any, Final

from cumulet.compute.api.targets import server
from cumulet.compute.logic import Compute, operations, servers
from cumulet.compute.logic import create_image as making
from cumulet.compute.schemas import ANYTHING, METADATA, NAME
from cumulet.kernel.http import Answer, Body, Field, Request, Route
from cumulet.kernel.http.fields import nullable, record, text

AT: Final = "POST /servers/{server_id}/action#"


def _plain(name: str) -> Body:
    """An action without parameters: null, or anything, as clients have always sent."""
    return Body(name, raw=ANYTHING)


async def start(request: Request) -> None:
    await operations.power(request.service, request.context, request.found["id"], "start")


async def stop(request: Request) -> None:
    await operations.power(request.service, request.context, request.found["id"], "stop")


async def reboot(request: Request) -> None:
    action = "reboot_hard" if request.body["type"].upper() == "HARD" else "reboot_soft"
    await operations.power(request.service, request.context, request.found["id"], action)


async def lock(request: Request) -> None:
    await operations.lock(request.service, request.context, request.found, request.body.get("locked_reason"))


async def unlock(request: Request) -> None:
    row = request.found
    if operations.locked_by_other(row, request.context):
        target = {"project_id": row["project_id"], "user_id": row["user_id"]}
        request.enforce("os_compute_api:os-lock-server:unlock:unlock_override", target)
    await operations.unlock(request.service, request.context, row)


async def force_delete(request: Request) -> None:
    await operations.delete(request.service, request.context, request.found["id"])


async def reset_state(request: Request) -> None:
    await operations.reset_state(request.service, request.context, request.found["id"], request.body["state"])


async def console_output(request: Request) -> dict[str, Any]:
    length = request.body.get("length")
    lines = int(length) if length not in (None, "") else None
    return {"output": await operations.console_log(request.service, request.found, lines)}


async def create_image(request: Request) -> Answer:
    compute: Compute = request.service
    row = request.found
    devices = await servers.devices_of(compute, row["id"])
    if making.is_volume_backed(devices):
        target = {"project_id": row["project_id"], "user_id": row["user_id"]}
        request.enforce("os_compute_api:servers:create_image:allow_volume_backed", target)
    metadata = request.body.get("metadata") or {}
    where = await compute.image.address()  # asked first: what was accepted must not be answered with a failure
    image_id = await making.create_image(compute, request.context, row, request.body["name"], metadata, devices)
    headers = {"Location": f"{where}/v2/images/{image_id}"}
    return Answer({"image_id": image_id} if request.since("2.45") else None, headers=headers)


async def add_group(request: Request) -> None:
    await operations.change_groups(request.service, request.context, request.found, request.body["name"], add=True)


async def remove_group(request: Request) -> None:
    await operations.change_groups(request.service, request.context, request.found, request.body["name"], add=False)


REBOOT: Final = Body("reboot", Field("type", {"enum": ["HARD", "Hard", "hard", "SOFT", "Soft", "soft"]}))
LOCK: Final = Body("lock", raw=nullable(record({"locked_reason": text(1, 255)})))
RESET: Final = Body("os-resetState", Field("state", {"enum": ["active", "error"]}))
IMAGE: Final = Body("createImage", Field("name", NAME), Field("metadata", METADATA, optional=True))
CONSOLE: Final = Body(
    "os-getConsoleOutput",
    Field("length", {"type": ["integer", "string", "null"], "minimum": -1, "pattern": "^-?[0-9]+$"}, optional=True),
)


def _group(name: str) -> Body:
    return Body(name, Field("name", NAME))


_SERVERS, _GROUPS = "os_compute_api:servers:", "os_compute_api:os-security-groups:"
ROUTES: Final = [
    Route(AT + "os-start", start, body=_plain("os-start"), policy=_SERVERS + "start", target=server, ok=202),
    Route(AT + "os-stop", stop, body=_plain("os-stop"), policy=_SERVERS + "stop", target=server, ok=202),
    Route(AT + "reboot", reboot, body=REBOOT, policy=_SERVERS + "reboot", target=server, ok=202),
    Route(
        AT + "lock", lock, body=_plain("lock"), until="2.72", policy="os_compute_api:os-lock-server:lock",
        target=server, ok=202,
    ),
    Route(
        AT + "lock", lock, body=LOCK, since="2.73", policy="os_compute_api:os-lock-server:lock", target=server, ok=202,
    ),
    Route(
        AT + "unlock", unlock, body=_plain("unlock"), policy="os_compute_api:os-lock-server:unlock", target=server,
        ok=202,
    ),
    Route(
        AT + "forceDelete", force_delete, body=_plain("forceDelete"), policy="os_compute_api:os-deferred-delete:force",
        target=server, ok=202,
    ),
    Route(
        AT + "os-resetState", reset_state, body=RESET, policy="os_compute_api:os-admin-actions:reset_state",
        target=server, ok=202,
    ),
    Route(
        AT + "os-getConsoleOutput", console_output, body=CONSOLE, policy="os_compute_api:os-console-output",
        target=server,
    ),
    Route(
        AT + "createImage", create_image, body=IMAGE, policy=_SERVERS + "create_image", target=server, ok=202,
    ),
    Route(
        AT + "addSecurityGroup", add_group, body=_group("addSecurityGroup"), policy=_GROUPS + "add", target=server,
        ok=202,
    ),
    Route(
        AT + "removeSecurityGroup", remove_group, body=_group("removeSecurityGroup"), policy=_GROUPS + "remove",
        target=server, ok=202,
    ),
]  # fmt: skip
