# SPDX-License-Identifier: Apache-2.0
"""What a program that reads strangers' files can reach: those files, and nothing else."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from pathlib import Path

import pytest

from cumulet.kernel import confined, sandbox
from cumulet.kernel.pools import ProgramFailed, run_program
from cumulet.kernel.sandbox import REFUSED, wrapped

LIMITS = {"as": 1 << 30}


@pytest.fixture(autouse=True)
async def _possible() -> None:
    if not await confined.is_possible():
        pytest.fail("this machine gives programs no namespaces: the sandbox can't be tested")


async def test_it_reads_and_writes_what_it_is_given(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("hello")
    await confined.run_confined(["cp", str(source), str(target)], read=source, write=target, timeout=60, limits=LIMITS)
    assert target.read_text() == "hello"


async def test_neighbours_and_the_machine_are_not_there(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text("hello")
    (tmp_path / "secret").write_text("of somebody else")
    argv = wrapped(["ls", "-A", str(tmp_path), "/etc", "/root", "/proc", "/var"], read=[str(source)], write=[])
    told = await run_program(argv, timeout=60, check=False)  # the status of ls says that some are missing
    assert sorted(told.stdout.decode().split()) == sorted(["/etc:", "ld.so.cache", f"{tmp_path}:", "in"])
    assert told.stderr.count(b"No such file or directory") == 3


@pytest.mark.parametrize("place", ["{source}", "/usr/written", "/etc/ld.so.cache"])
async def test_it_can_write_nothing_else(tmp_path: Path, place: str) -> None:
    source = tmp_path / "in"
    source.write_text("hello")
    with pytest.raises(ProgramFailed, match="Read-only file system"):
        await confined.run_confined(
            ["touch", place.format(source=source)], read=source, timeout=60, limits=LIMITS
        )  # fmt: skip
    assert source.read_text() == "hello"


async def test_it_has_no_network_and_no_capability(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text("hello")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        with pytest.raises(ProgramFailed, match=r"Network is unreachable|Cannot assign|Connection refused"):
            await confined.run_confined(["/usr/bin/python3", "-c", script], read=source, timeout=60, limits=LIMITS)
    script = "import os, socket; assert os.getuid() == 65534; socket.sethostname('x')"
    with pytest.raises(ProgramFailed, match="PermissionError"):
        await confined.run_confined(["/usr/bin/python3", "-c", script], read=source, timeout=60, limits=LIMITS)


def test_what_is_not_allowed_runs_nothing(tmp_path: Path) -> None:
    """Without namespaces the program is not run at all: whoever starts it decides what then."""
    argv = wrapped(["touch", str(tmp_path / "ran")], read=[str(tmp_path / "missing")], write=[])
    done = subprocess.run(argv, capture_output=True, env={"PATH": os.environ["PATH"]}, check=False)
    assert (done.returncode, done.stderr.startswith(b"no sandbox: ")) == (REFUSED, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["/nowhere/python"], ["sh", "-c", "kill -9 $$"], ["sh", "-c", "exit 124"]])
async def test_a_machine_that_could_not_be_asked_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Nothing of a stranger's is read without namespaces because there once was no room for a process."""
    monkeypatch.setattr(confined, "_works", None)
    source = tmp_path / "in"
    source.write_text("hello")
    with monkeypatch.context() as short:
        short.setattr(sandbox, "wrapped", lambda *_, **__: words)
        with pytest.raises(ProgramFailed):
            await confined.run_confined(["touch", str(tmp_path / "ran")], read=source, timeout=60, limits=LIMITS)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    told = await confined.run_confined(["ls", str(tmp_path)], read=source, timeout=60, limits=LIMITS)
    assert told.stdout == b"in\n"
    assert await confined.is_possible()


async def test_a_machine_that_refuses_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(confined, "_works", None)
    monkeypatch.setattr(sandbox, "wrapped", lambda *_, **__: ["sh", "-c", f"echo no >&2; exit {REFUSED}"])
    (tmp_path / "in").write_text("hello")
    for _ in range(2):
        done = await confined.run_confined(["ls", "/etc"], read=tmp_path / "in", timeout=60, limits=LIMITS)
        assert b"passwd" in done.stdout
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["no"]


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EPERM])
def test_no_room_is_no_refusal(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def enter(read: list[str], write: list[str]) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sandbox, "enter", enter)
    assert (sandbox.main(["--", "true"]) == REFUSED) == (number == errno.EPERM)
