# SPDX-License-Identifier: Apache-2.0
"""From `cumulet up` to a serving process: the data directory, the users, the privileged parent.

As root with real guests three processes result: a supervisor and an operator
with privilege that parse nothing, and the worker that serves as an ordinary
user. Without root everything runs in one process, simulated.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from cumulet.assembly.machine import WORKER, check_machine, ensure_users
from cumulet.assembly.place import Place
from cumulet.assembly.readable import open_code
from cumulet.assembly.serve import Wish, run
from cumulet.assembly.space import ensure_room

if TYPE_CHECKING:
    from cumulet.compute.drivers.libvirtd import SystemLibvirtd

LIBVIRT_LONGEST = 40


def choose_hypervisor(wanted: str, data: Path) -> tuple[str, list[str]]:
    """The hypervisor to use and, for ``auto``, the reasons against real guests."""
    if wanted != "auto":
        return wanted, []
    reasons = [f"{check.name}: {check.problem} ({check.remedy})" for check in check_machine(data) if check.problem]
    return ("libvirt", []) if not reasons else ("simulated", reasons)


def up(wish: Wish, *, guest_image: Path | None, log: Callable[[], Any]) -> int:
    """Prepare the data directory and serve; ``log`` configures logging in the serving process.

    Raises Taken, OSError or SettingsError before anything is served.
    """
    ensure_room(wish.data)
    place = Place(wish.data)
    place.lock()
    wish.options.update(hypervisor=wish.hypervisor, cloud_id=_cloud_id(wish.data), sole=True)
    real = wish.hypervisor == "libvirt"
    wish.options["network_driver"] = "bridge" if real else "simulated"
    wish.options["volume_driver"] = "file" if real else "simulated"
    image = _guest_image(wish.data, guest_image) or (None if real else _stand_in(wish.data))
    if image is not None:
        wish.options["guest_image"] = {"name": "tiny", "path": str(image), "disk_format": image.suffix[1:]}
    if not real or os.geteuid() != 0:
        if real:
            raise PermissionError("real guests need root: run it with sudo, or with --hypervisor simulated")
        log()
        return run(wish)
    return as_root(wish, place, log, run)


def as_root(wish: Wish, place: Place, log: Callable[[], Any], serve: Callable[[Wish], int]) -> int:
    """Serve in a worker without privilege, beside an operator that has it."""
    from cumulet.kernel.host import run_privileged

    system = _system_libvirtd(wish, place)
    users = ensure_users(*([system.group] if system is not None and system.group else []))
    if users.made:
        place.write_made({"users": sorted({*place.made().get("users", []), *users.made})})
    libvirt = wish.data / "libvirt"
    if len(str(libvirt)) > LIBVIRT_LONGEST:
        libvirt = Path("/run") / f"cumulet-{wish.options['cloud_id'][:8]}"
        place.write_made({"libvirt": str(libvirt)})
    wish.options["routes"] = _routes()
    wish.options["libvirt_uri"] = system.uri if system is not None else None
    wish.options.update(
        guest_uid=users.guest_uid, guest_gid=users.guest_gid, guest_user="cumulet-guest", libvirt_dir=str(libvirt)
    )
    _copy_tls(wish)
    _own(wish.data, users.worker_uid, users.worker_gid)
    hosts = wish.data / "hosts" / wish.name
    for folder in (wish.data / "hosts", hosts):
        folder.mkdir(exist_ok=True)
        os.chown(folder, users.worker_uid, users.worker_gid)
        folder.chmod(0o711)  # QEMU's user walks through to its disks

    def worker(host: Any) -> int:
        log()
        wish.privileged = host
        return serve(wish)

    return run_privileged(worker, user=WORKER, operations=operations(), prepare=open_code)


def _system_libvirtd(wish: Wish, place: Place) -> SystemLibvirtd | None:
    """The machine's libvirtd if this cloud is to use it; what a cloud chose first holds as long as it lives.

    Raises OSError where it is asked for, or has this cloud's guests, and does not answer.
    """
    from cumulet.compute.drivers.libvirtd import find_system

    kept = place.made().get("libvirtd")
    choice = kept or {"auto": "system" if find_system() else "own"}.get(wish.libvirtd, wish.libvirtd)
    if kept is None:
        place.write_made({"libvirtd": choice})
    if choice == "own":
        return None
    if (found := find_system()) is None:
        raise OSError("the libvirtd of this machine does not answer at /run/libvirt: systemctl start libvirtd")
    return found


def _routes() -> list[str]:
    """The IPv4 ranges that this machine has a route for, in any table; the default route is none."""
    told = subprocess.run(["ip", "-j", "-4", "route", "show", "table", "all"], capture_output=True, check=True).stdout
    return [str(row["dst"]) for row in orjson.loads(told or b"[]") if row["dst"] != "default"]


def _copy_tls(wish: Wish) -> None:
    """Certificate and key, which often only root may read, into the data directory."""
    if wish.certificate is None or wish.key is None:
        return
    for given, name in ((wish.certificate, "tls.crt"), (wish.key, "tls.key")):
        with os.fdopen(os.open(wish.data / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copy:
            copy.write(given.read_bytes())
    wish.certificate, wish.key = wish.data / "tls.crt", wish.data / "tls.key"


def operations() -> dict[str, str]:
    """All that the privileged operator may be asked to do."""
    from cumulet.network.drivers.bridge import OPERATIONS

    own = ("cumulet.compute.drivers.libvirtd:start_libvirtd", "cumulet.compute.drivers.probe:probe_accelerator")
    return {**OPERATIONS, **{name: name for name in own}}


def _own(data: Path, uid: int, gid: int) -> None:
    """The directory and its files belong to the worker; what guests and libvirt own stays theirs."""
    data.chmod(0o711)
    os.chown(data, uid, gid)
    for path in data.iterdir():
        if path.is_file() and not path.is_symlink() and path.name != "lock":
            os.chown(path, uid, gid)
    for folder in ("image", "volume"):
        made = data / folder
        made.mkdir(exist_ok=True)
        os.chown(made, uid, gid)


def _cloud_id(data: Path) -> str:
    """The cloud's id, chosen once."""
    from cumulet.kernel import ids
    from cumulet.kernel.files import chosen_once

    return chosen_once(data / "cloud-id", ids.new_uuid)


def _guest_image(data: Path, given: Path | None) -> Path | None:
    """The guest image in the data directory, copied there from where it was built."""
    kept = data / "guest.qcow2"
    if given is not None and given.exists() and not (kept.exists() and kept.stat().st_mtime >= given.stat().st_mtime):
        shutil.copyfile(given, kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)
    return kept if kept.exists() else None


def _stand_in(data: Path) -> Path:
    """An empty disk as the image of a cloud whose guests are simulated."""
    blank = data / "stand-in.raw"
    if not blank.exists():
        with blank.open("wb") as file:
            file.truncate(1 << 20)
    return blank


def find_guest_image() -> Path | None:
    """A guest image that was built on this machine: named by the environment, or of this checkout."""
    named = os.environ.get("CUMULET_GUEST_IMAGE")
    candidates = [Path(named)] if named else []
    candidates += [Path(sys.prefix).parent / "build" / "guest.qcow2", Path("/usr/share/cumulet/guest.qcow2")]
    return next((path for path in candidates if path.exists()), None)
