# SPDX-License-Identifier: Apache-2.0
"""A backup taken while the cloud works, restored to an empty directory: a cloud whose invariants all hold."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cumulet.cli import main
from cumulet.cli.chaos.process import CloudProcess
from cumulet.cli.chaos.scenarios import Site, opened
from cumulet.cli.chaos.sweep import Swept, judge
from tests.cloud import new_database


async def said(*words: str) -> Result:
    """``cumulet WORDS``, in a thread: the clouds of the test go on meanwhile."""
    return await asyncio.to_thread(CliRunner().invoke, main, list(words), prog_name="cumulet")


@asynccontextmanager
async def running(data: Path, settings: Path | None) -> AsyncIterator[Site]:
    async with opened(CloudProcess(data, settings=settings)) as site:
        yield site


async def shown(site: Site, server: str) -> Any:
    told = (await site.user.need("GET", f"/compute/v2.1/servers/{server}"))["server"]
    return {key: told[key] for key in ("id", "name", "status", "addresses", "os-extended-volumes:volumes_attached")}


@asynccontextmanager
async def places(kind: str, folder: Path, request: pytest.FixtureRequest) -> AsyncIterator[list[Path | None]]:
    """Settings files of two clouds: each with an empty PostgreSQL database of its own, or none on SQLite."""
    if kind == "sqlite":
        yield [None, None]
        return
    server = request.getfixturevalue("postgres")
    async with new_database(server) as first, new_database(server) as second:
        files: list[Path | None] = []
        for number, dsn in enumerate((first, second)):
            path = folder / f"settings-{number}.toml"
            path.write_text(f'[cloud]\ndatabase = "{dsn}"\n')
            files.append(path)
        yield files


def named(settings: Path | None) -> list[str]:
    return ["--settings", str(settings)] if settings is not None else []


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def test_a_cloud_at_work_is_backed_up_and_comes_back_whole(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file, first, again = tmp_path / "cloud.tar", tmp_path / "first", tmp_path / "again"
    async with places(kind, tmp_path, request) as (old, new):
        async with running(first, old) as site:
            volume = await site.volume()
            server = await site.server({"volume": volume})
            before = await shown(site, server)
            building = [asyncio.create_task(site.post_server({})) for _ in range(12)]
            await asyncio.sleep(0.15)  # some of them are half-way
            words = ["backup", str(file), "--data", str(first), "--images", "--volumes", "--json"]
            result = await said(*words, *named(old))
            assert result.exit_code == 0, result.output
            assert json.loads(result.output)["database"] == kind
            await asyncio.gather(*building)
        assert file.stat().st_mode & 0o777 == 0o600
        restored = await said("restore", str(file), "--data", str(again), *named(new))
        assert restored.exit_code == 0, restored.output
        async with running(again, new) as site:
            found = Swept("restore", [])
            await judge(site, found)
            assert (found.unexplained, found.findings) == ([], [])
            assert await shown(site, server) == before
            servers = await site.user.servers()
            assert {one["status"] for one in servers} == {"ACTIVE"}
            assert 1 <= len(servers) <= 13
            await site.server({})  # images, networks and keys are those of the first cloud
    assert (again / "restored").exists()
    await said("restore", "--settled", "--data", str(again))
    assert not (again / "restored").exists()


async def test_nothing_is_restored_over_something(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    file = _archive(tmp_path, {"databases/compute.db": b""})
    refused = await said("restore", str(file), "--data", str(tmp_path / "full"))
    assert (refused.exit_code, "is not empty" in refused.output) == (1, True)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious"]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "hosts/../../evil", "databases/../x.db", "evil", "lock"])
async def test_a_hostile_archive_writes_nothing_elsewhere(tmp_path: Path, name: str) -> None:
    file = _archive(tmp_path, {name: b"evil"})
    refused = await said("restore", str(file), "--data", str(tmp_path / "into"))
    assert (refused.exit_code, "which no backup has" in refused.output) == (1, True)
    assert not (tmp_path / "evil").exists()
    assert list((tmp_path / "into").rglob("*")) == []


async def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not a tar file at all")
    refused = await said("restore", str(tmp_path / "x"), "--data", str(tmp_path / "into"))
    assert (refused.exit_code, "can't be read as a backup" in refused.output) == (1, True)
    assert not (tmp_path / "into").exists()


def _archive(folder: Path, files: dict[str, bytes]) -> Path:
    manifest = json.dumps({"format": 1, "database": "sqlite", "made_at": 1.0}).encode()
    path = folder / "made.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in {"manifest.json": manifest, **files}.items():
            head = tarfile.TarInfo(name)
            head.size = len(content)
            archive.addfile(head, io.BytesIO(content))
    return path
