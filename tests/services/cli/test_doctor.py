# SPDX-License-Identifier: Apache-2.0
"""What a dead cloud left is named with the commands that remove it; what a living one has is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cumulet.assembly.leftovers import Seen, Untold, known_clouds, leftovers
from cumulet.cli import main
from cumulet.network.drivers.bridge.naming import Names

DEAD, LIVING = Names("dead"), Names("living")


def seen(*clouds: Names) -> Seen:
    """The output of the tools where these clouds have one of each, beside things of others."""
    return Seen(
        json.dumps(
            [{"ifname": "eth0"}, {"ifname": "tap1", "ifalias": "somebody's"}]
            + [{"ifname": one.bridge("n")} for one in clouds]
            + [{"ifname": f"tap{one.prefix}", "ifalias": one.alias("port", "p")} for one in clouds]
        ).encode(),
        json.dumps([{"name": "other"}, *({"name": one.dhcp_namespace("n")} for one in clouds)]).encode(),
        json.dumps(
            {"nftables": [{"metainfo": {}}, {"table": {"family": "inet", "name": "filter"}},
                          *({"table": {"family": "inet", "name": one.table}} for one in clouds)]}
        ).encode(),
        json.dumps(
            [{"type": "blackhole", "dst": "192.0.2.0/24", "metric": 5},
             *({"type": "blackhole", "dst": "172.24.4.0/24", "metric": one.metric} for one in clouds)]
        ).encode(),
    )  # fmt: skip


def test_what_is_left_and_how_it_goes() -> None:
    (one,) = leftovers(seen(DEAD, LIVING), {"living"})
    assert f"c{one.cloud}" == DEAD.prefix
    assert one.commands == [
        f"ip netns delete {DEAD.dhcp_namespace('n')}",
        f"ip link delete {DEAD.bridge('n')}",
        f"ip link delete tap{DEAD.prefix}",
        f"nft delete table inet {DEAD.table}",
        f"ip route delete blackhole 172.24.4.0/24 metric {DEAD.metric}",
    ]
    assert leftovers(seen(LIVING), {"living"}) == []
    assert leftovers(Seen(b"", b"", b"", b""), set()) == []


def test_a_directory_makes_its_cloud_known(tmp_path: Path) -> None:
    site = Site(tmp_path)
    assert site.known(site.cloud("a"), site.cloud("b"), tmp_path / "nowhere") == {"a", "b"}
    site.cloud("system")
    assert site.known() == {"system"}, "root's cloud is one of the machine's, whoever asks"


@dataclass
class Site:
    """A machine with no processes but those that a test starts; they are real ones."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "proc").mkdir()

    def cloud(self, name: str) -> Path:
        """A data directory."""
        made = self.folder / name
        made.mkdir(parents=True)
        (made / "cloud-id").write_text(f"{made.relative_to(self.folder)}\n")
        return made

    def known(self, *directories: Path) -> set[str]:
        system = self.folder / "system"
        return known_clouds(*directories, system=system, under_home="share/c", proc=self.folder / "proc")

    @contextmanager
    def process(self, *words: str, before: str = "", **environ: str) -> Iterator[int]:
        """A process with this command line and environment, until the end."""
        argv = [sys.executable, "-c", f"{before}import sys; print(flush=True); sys.stdin.read()", *words]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(argv, env=environ, cwd=self.folder, **pipes) as popen:
            assert popen.stdout is not None
            assert popen.stdin is not None
            popen.stdout.readline()
            seen = self.folder / "proc" / str(popen.pid)
            seen.symlink_to(f"/proc/{popen.pid}")
            yield popen.pid
            popen.stdin.close()
        seen.unlink()


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["/usr/bin/cumulet", "up", "--data", "{there}"], {}),
        (["-m", "cumulet.cli", "run", "front", "--data=c"], {}),
        (["cumulet", "up"], {"CUMULET_DATA": "{there}"}),
        (["cumulet", "up"], {"CUMULET_DATA": "c", "HOME": "/nowhere"}),
        (["sudo", "CUMULET_DATA={there}", "cumulet", "join"], {"HOME": "/nowhere"}),
    ],
)
def test_a_running_cloud_is_known_wherever_it_lives(tmp_path: Path, words: list[str], environ: dict[str, str]) -> None:
    site = Site(tmp_path)
    there = str(site.cloud("c"))
    told = {name: value.format(there=there) for name, value in environ.items()}
    with site.process(*(word.format(there=there) for word in words), **told):
        assert site.known() == {"c"}


def test_a_cloud_that_was_told_no_directory(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.cloud("home/share/c")
    with site.process("cumulet", "up", HOME=str(tmp_path / "home")):
        assert site.known() == {"home/share/c"}
    site.cloud("system")
    with site.process("cumulet", "up", HOME="/nowhere"):
        assert site.known() == {"system"}


def test_nothing_is_named_when_a_process_does_not_tell(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.process("cumulet", "up", "--data", "gone") as pid, pytest.raises(Untold, match=rf"process {pid} .* up"):
        site.known(site.cloud("other"))
    with site.process("cumulet", "logs", "--data", "gone"), site.process("vi", "notes/cumulet", HOME="/nowhere"):
        assert site.known() == set(), "these run no cloud"


def test_somebody_else_s_process_does_not_tell() -> None:
    """Who may not read root's environment names nothing."""
    hidden = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); "  # then only root may read it
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        site = Site(Path(folder))
        there = str(site.cloud("c"))
        with site.process("cumulet", "up", before=hidden, CUMULET_DATA=there) as pid:
            told = as_nobody(lambda: str(site.known()))
        assert told.startswith(f"Untold: where process {pid} (cumulet up)")
        site.cloud("hidden").chmod(0)
        assert as_nobody(lambda: str(site.known(Path(folder) / "hidden"))).startswith("Untold: which cloud lives in")


def as_nobody(ask: Callable[[], str]) -> str:
    """What a process without root's rights gets to hear, or how it fails."""
    near, far = os.pipe()
    if (child := os.fork()) == 0:
        try:
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            told = ask()
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        os.write(far, told.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(far)
    with open(near, "rb") as file:
        return file.read().decode()


def test_the_command_says_why_it_names_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def untold(*_: object, **__: object) -> set[str]:
        raise Untold("somebody runs")

    monkeypatch.setattr("cumulet.assembly.leftovers.known_clouds", untold)
    words = ["doctor", "--data", str(tmp_path), "--port", "0"]
    assert "SKIPPED  what dead clouds left is not told: somebody runs" in CliRunner().invoke(main, words).output
    rows = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert rows[-1] == {"name": "leftovers", "ok": True, "problem": "somebody runs", "remedy": None}
    assert not [row for row in rows if row["name"].startswith("leftovers of")]


def test_the_command_names_each_check(tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["doctor", "--data", str(tmp_path), "--port", "0", "--json"])
    names = [one["name"] for one in json.loads(told.stdout)]
    assert {"QEMU", "file systems", "disk space", "root"} <= set(names)
    (root,) = (one for one in json.loads(told.stdout) if one["name"] == "root")
    assert root["ok"] == (os.geteuid() == 0)
