# SPDX-License-Identifier: Apache-2.0
"""What every volume back end keeps: all methods say *ensure*, nothing half-done is ever seen."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cumulet.kernel import ids
from cumulet.kernel.ceph import CephPlace
from cumulet.kernel.pools import Pool
from cumulet.volume.drivers.file import FileBackend
from cumulet.volume.drivers.model import BackendError, NoSpace, VolumeBackend
from cumulet.volume.drivers.rbd import RbdBackend
from cumulet.volume.drivers.simulated import Knobs, SimulatedBackend

GIB = 1024**3
Make = Callable[[], VolumeBackend]


@pytest.fixture(params=["raw", "qcow2", "simulated", pytest.param("rbd", marks=pytest.mark.ceph)])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes back ends on the same place, as restarts of one agent would."""
    pool = Pool("test", 2)
    gid = os.getgid()

    def made() -> VolumeBackend:
        if request.param == "simulated":
            return SimulatedBackend(tmp_path / "v" / "state.json", Knobs())
        if request.param == "rbd":  # the pool is shared: a host sees its own volumes only
            place = CephPlace(**request.getfixturevalue("ceph").rbd(request.getfixturevalue("ceph_pool")))
            return RbdBackend(place, tmp_path / "v", pool, host=f"h{tmp_path.name}")
        return FileBackend(tmp_path / "v", pool, host="here", format=request.param, gid=gid)

    yield made
    pool.close()


@pytest.fixture(params=["raw", "qcow2"])
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[FileBackend]:
    """The real back end alone: what only bytes and paths can show."""
    pool = Pool("test", 2)
    backend = FileBackend(tmp_path / "v", pool, host="here", format=request.param, gid=os.getgid())
    await backend.open()
    yield backend
    pool.close()


@pytest.fixture
async def backend(make: Make) -> VolumeBackend:
    made = make()
    await made.open()
    return made


def image(path: Path, mib: int = 3) -> tuple[str, bytes]:
    """A small qcow2 image with known content."""
    raw = path / "image.raw"
    content = os.urandom(65536)
    raw.write_bytes(content + bytes(mib * 1024 * 1024 - len(content)))
    disk = path / "image.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(disk)], check=True)
    return str(disk), content


async def look(backend: VolumeBackend, id_: str) -> dict[str, Any]:
    """Size in bytes and first bytes of a volume, by the way a guest would open it."""
    found = await backend.connect(id_, "here")
    if isinstance(backend, SimulatedBackend):
        size = backend.size_of(id_)
        assert size is not None
        return {"size": size * GIB, "head": backend.content_of(id_)}
    if isinstance(backend, RbdBackend):
        return look_into_pool(backend, found.path)
    out = Path(found.path).parent / ".look"
    subprocess.run(
        ["qemu-img", "convert", "-f", found.format, "-O", "raw", found.path, str(out)], check=True, timeout=60
    )
    with out.open("rb") as file:
        head = file.read(65536)
    size = out.stat().st_size
    out.unlink()
    return {"size": size, "head": head}


def look_into_pool(backend: RbdBackend, image_path: str) -> dict[str, Any]:
    """The same for a volume in a pool, by Ceph's own program."""
    place = backend._place
    access = ["rbd", "-c", place.conf, "-n", f"client.{place.user}", "--keyring", place.keyring]
    told = subprocess.run([*access, "info", "--format", "json", image_path], check=True, capture_output=True)
    export = subprocess.Popen([*access, "export", "--no-progress", image_path, "-"], stdout=subprocess.PIPE)
    with export:
        assert export.stdout is not None
        head = export.stdout.read(65536)
        export.kill()
    return {"size": json.loads(told.stdout)["size"], "head": head}


def leftovers(backend: VolumeBackend) -> list[str]:
    if not isinstance(backend, FileBackend):
        return []
    return [path.name for path in backend._folder.iterdir() if path.name.startswith(".")]


async def test_an_empty_volume(backend: VolumeBackend) -> None:
    id_ = ids.new_uuid()
    await backend.ensure_volume(id_, 1)
    await backend.ensure_volume(id_, 1)
    assert await backend.volumes() == [id_]
    assert (await look(backend, id_))["size"] == GIB
    with pytest.raises(BackendError):
        await backend.ensure_volume(id_, 2)
    for _ in range(2):
        await backend.ensure_absent(id_)
    assert await backend.volumes() == []
    assert leftovers(backend) == []


async def test_content_of_an_image(backend: VolumeBackend, tmp_path: Path) -> None:
    path, content = image(tmp_path)
    id_ = ids.new_uuid()
    for _ in range(2):
        await backend.ensure_from_image(id_, 1, path, "qcow2")
    seen = await look(backend, id_)
    assert seen["size"] == GIB
    assert seen["head"] == content or str(seen["head"]).startswith("image:")


async def test_an_image_that_is_no_image(files: FileBackend, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(b"not a disk")
    with pytest.raises(BackendError):
        await files.ensure_from_image(ids.new_uuid(), 1, str(path), "qcow2")
    assert await files.volumes() == []
    assert leftovers(files) == []


async def test_content_that_is_too_big(backend: VolumeBackend) -> None:
    source, clone = ids.new_uuid(), ids.new_uuid()
    await backend.ensure_volume(source, 2)
    with pytest.raises(BackendError):
        await backend.ensure_clone(clone, 1, source)
    assert await backend.volumes() == [source]
    assert leftovers(backend) == []


async def test_clones_and_snapshots_stand_alone(backend: VolumeBackend, tmp_path: Path) -> None:
    path, _ = image(tmp_path)
    source, snapshot, clone, grown = (ids.new_uuid() for _ in range(4))
    await backend.ensure_from_image(source, 1, path, "qcow2")
    head = (await look(backend, source))["head"]
    for _ in range(2):
        await backend.ensure_snapshot(snapshot, source)
        await backend.ensure_clone(clone, 1, source)
        await backend.ensure_clone(grown, 2, snapshot)
    await backend.ensure_absent(source)
    await backend.ensure_absent(snapshot)
    assert sorted(await backend.volumes()) == sorted([clone, grown])
    assert await look(backend, clone) == {"size": GIB, "head": head}
    assert await look(backend, grown) == {"size": 2 * GIB, "head": head}


async def test_a_source_that_is_not_there(backend: VolumeBackend) -> None:
    with pytest.raises(BackendError):
        await backend.ensure_clone(ids.new_uuid(), 1, ids.new_uuid())
    with pytest.raises(BackendError):
        await backend.ensure_snapshot(ids.new_uuid(), ids.new_uuid())
    with pytest.raises(BackendError):
        await backend.ensure_size(ids.new_uuid(), 2)
    with pytest.raises(BackendError):
        await backend.connect(ids.new_uuid(), "here")
    assert await backend.volumes() == []


async def test_growing_never_shrinks(backend: VolumeBackend, tmp_path: Path) -> None:
    path, _ = image(tmp_path)
    id_ = ids.new_uuid()
    await backend.ensure_from_image(id_, 1, path, "qcow2")
    head = (await look(backend, id_))["head"]
    for size in (3, 3, 2):
        await backend.ensure_size(id_, size)
    assert await look(backend, id_) == {"size": 3 * GIB, "head": head}


async def test_connecting(backend: VolumeBackend) -> None:
    id_ = ids.new_uuid()
    await backend.ensure_volume(id_, 1)
    first, again = await backend.connect(id_, "here"), await backend.connect(id_, "here")
    assert first == again
    assert first.format in ("raw", "qcow2")
    assert not first.read_only
    for _ in range(2):
        await backend.disconnect(id_, "here")


async def test_files_belong_to_the_guests_group_and_to_this_host(files: FileBackend) -> None:
    id_ = ids.new_uuid()
    await files.ensure_volume(id_, 1)
    status = os.stat((await files.connect(id_, "here")).path)
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert status.st_gid == os.getgid()
    assert status.st_blocks * 512 < 10 * 1024 * 1024  # sparse
    with pytest.raises(BackendError):
        await files.connect(id_, "elsewhere")


async def test_everything_survives_a_restart(make: Make, tmp_path: Path) -> None:
    path, _ = image(tmp_path)
    first = make()
    await first.open()
    id_ = ids.new_uuid()
    await first.ensure_from_image(id_, 1, path, "qcow2")
    before = await look(first, id_)
    if isinstance(first, FileBackend):
        (first._folder / f".{ids.new_uuid()}.x.part").write_bytes(b"half a volume")
    second = make()
    await second.open()
    assert await second.volumes() == [id_]
    assert await look(second, id_) == before
    assert leftovers(second) == []


async def test_capacity_is_within_bounds(backend: VolumeBackend) -> None:
    await backend.ensure_volume(ids.new_uuid(), 1)
    found = await backend.capacity()
    assert 0 < found.free_gib < found.total_gib


@pytest.mark.parametrize("bad", ["", "..", "../x", "a/b", "x" * 36, "0" * 32])
async def test_an_id_is_never_a_path(files: FileBackend, bad: str) -> None:
    for call in (files.ensure_volume(bad, 1), files.ensure_absent(bad), files.connect(bad, "here")):
        with pytest.raises(BackendError):
            await call


async def test_a_simulated_back_end_fails_as_it_is_told(tmp_path: Path) -> None:
    backend = SimulatedBackend(tmp_path / "s.json", Knobs(total_gib=3))
    await backend.open()
    one = ids.new_uuid()
    await backend.ensure_volume(one, 2)
    with pytest.raises(NoSpace):
        await backend.ensure_volume(ids.new_uuid(), 2)
    with pytest.raises(NoSpace):
        await backend.ensure_size(one, 4)
    backend.knobs.failures["ensure_absent"] = "broken"
    with pytest.raises(BackendError, match="broken"):
        await backend.ensure_absent(one)
    backend.knobs.failures.clear()
    await backend.ensure_absent(one)
    assert await backend.volumes() == []


@pytest.mark.machine
async def test_a_full_file_system_leaves_nothing(tmp_path: Path) -> None:
    """A real, small file system: what does not fit is refused as full, and no part of it stays."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    pool = Pool("test", 1)
    try:
        for format_ in ("raw", "qcow2"):
            backend = FileBackend(folder / format_, pool, host="here", format=format_)
            await backend.open()
            noise = tmp_path / "noise.raw"
            noise.write_bytes(os.urandom(8 * 1024 * 1024))
            with pytest.raises(NoSpace):
                await backend.ensure_from_image(ids.new_uuid(), 1, str(noise), "raw")
            assert await backend.volumes() == []
            assert leftovers(backend) == []
    finally:
        pool.close()
        await asyncio.to_thread(subprocess.run, ["umount", str(folder)], check=True)


async def test_who_reads_an_images_content_sees_no_other_file(files: FileBackend, tmp_path: Path) -> None:
    """Should an image that names another file ever get this far, its reader can't open that file."""
    secret, image = tmp_path / "secret.raw", tmp_path / "image.qcow2"
    secret.write_bytes(b"a secret of the host" * 4096)
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(image), "1G"]
    subprocess.run(make, check=True)
    with pytest.raises(BackendError, match="can't read or write"):
        await files.ensure_from_image(ids.new_uuid(), 1, str(image), "qcow2")
    assert await files.volumes() == []
