# SPDX-License-Identifier: Apache-2.0
"""A real cloud as a user starts it: `cumulet up` in its own processes, driven by the unmodified `openstack`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
PREFIX = "cml-"
IMAGE = Path(os.environ.get("CUMULET_GUEST_IMAGE", ROOT / "build" / "guest.qcow2"))


def run(
    *argv: str | Path,
    check: bool = True,
    timeout: float = 180.0,
    env: dict[str, str] | None = None,
    input: str | None = None,
) -> str:
    """The standard output of a program; its error output is in the AssertionError."""
    done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, timeout=timeout, env=env, check=False
    )
    assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def until(what: str, look: Callable[[], Any], seconds: float, pause: float = 0.25) -> Any:
    """The first true answer of ``look``; AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds:g} s")


@dataclass
class RealCloud:
    """One cloud and its user."""

    data: Path
    port: int
    hypervisor: str
    secrets: Path
    """Where the user keeps what is his."""

    def cumulet(self, *argv: str, check: bool = True) -> str:
        return run(BIN / "cumulet", argv[0], "--data", self.data, *argv[1:], check=check)

    def up(self) -> None:
        self.cumulet(
            "up", "--port", str(self.port), "--hypervisor", self.hypervisor, "--name", "node-1", "--detach",
            "--guest-image", str(IMAGE),
        )  # fmt: skip

    def openstack(self, *argv: str, cloud: str = "cumulet", check: bool = True) -> str:
        env = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(self.data / "clouds.yaml"), "OS_CLOUD": cloud}
        return run(BIN / "openstack", *argv, env=env, check=check)

    def show(self, *argv: str, cloud: str = "cumulet") -> Any:
        return json.loads(self.openstack(*argv, "-f", "json", cloud=cloud))

    @property
    def worker(self) -> int:
        """The pid of the process that serves."""
        return int(json.loads((self.data / "run.json").read_text())["pid"])

    def kill_worker(self) -> None:
        """kill -9 of the process that serves; its parent starts it again."""
        pid = self.worker
        os.kill(pid, signal.SIGKILL)
        until("the worker is started again", lambda: self.worker != pid and self.is_up(), 180)

    def is_up(self) -> bool:
        done = subprocess.run([BIN / "cumulet", "status", "--data", self.data], capture_output=True, check=False)
        return done.returncode == 0

    @property
    def key(self) -> Path:
        path = self.secrets / "key"
        if not path.exists():
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
        return path

    def ssh(self, address: str, command: str, *, seconds: float = 60.0) -> str:
        """What a command in the guest prints, once the guest answers."""
        argv = [
            "ssh", "-i", str(self.key), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o",
            "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=3",
            f"cirros@{address}", command,
        ]  # fmt: skip
        last = ""

        def look() -> list[str] | None:
            nonlocal last
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
            last = done.stderr
            return [done.stdout] if done.returncode == 0 else None

        try:
            return str(until(f"ssh {address} {command!r}", look, seconds)[0]).strip()
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}") from None


def inventory(data: Path) -> dict[str, list[str]]:
    """What this machine has of what a cloud makes: to be equal before and after."""
    links = json.loads(run("ip", "-j", "link", "show"))
    spaces = json.loads(run("ip", "-j", "netns", "list") or "[]")
    tables = [line for line in run("nft", "list", "tables").splitlines() if line.strip()]
    routes = [line for line in run("ip", "route", "show", "table", "all").splitlines() if "blackhole" in line]
    words = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if command.split(" ")[0].rpartition("/")[2].startswith(("qemu-system", "dnsmasq", "libvirtd", "virtlogd")):
            words.append(command[:120])
    return {
        "links": sorted(link["ifname"] for link in links),
        "namespaces": sorted(space["name"] for space in spaces),
        "nft": sorted(tables),
        "blackholes": sorted(routes),
        "processes": sorted(words),
    }


def sweep() -> None:
    """Take away what runs of these tests left that were killed: dead clouds in directories with our prefix."""
    for data in Path("/var/tmp").glob(f"{PREFIX}*"):
        left = RealCloud(data, 0, "libvirt", data)
        if (data / "cloud-id").exists() and not left.is_up():
            left.cumulet("down", "--purge", check=False)


@contextmanager
def real_cloud(port: int, hypervisor: str = "libvirt") -> Iterator[RealCloud]:
    """A cloud in a fresh directory; everything of it is gone afterwards."""
    assert IMAGE.exists(), f"there is no guest image at {IMAGE}: make guest-image"
    data = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/var/tmp"))
    data.chmod(0o711)
    with tempfile.TemporaryDirectory(prefix="cumulet-user-") as secrets:
        cloud = RealCloud(data, port, hypervisor, Path(secrets))
        try:
            cloud.up()
            yield cloud
        except BaseException:
            sys.stderr.write(cloud.cumulet("logs", "-n", "150", check=False))
            raise
        finally:
            cloud.cumulet("down", "--purge", check=False)
