# SPDX-License-Identifier: Apache-2.0
"""A libvirtd that the machine runs anyway is used, and left as it was."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cumulet.compute.drivers import reaper
from cumulet.compute.drivers.libvirtd import find_system
from tests.machine.realcloud import real_cloud, run, until

pytestmark = pytest.mark.machine

CONFIGURATION = 'auth_unix_rw = "none"\nunix_sock_group = "libvirt"\nunix_sock_rw_perms = "0770"\n'


@pytest.fixture
def system(tmp_path: Path) -> Iterator[None]:
    """The machine's libvirtd with its users; started as an init system would where none runs."""
    if find_system() is not None:
        yield
        return
    made: list[list[str]] = []
    if "libvirt" not in {group.gr_name for group in grp.getgrall()}:
        run("groupadd", "--system", "libvirt")
        made.append(["groupdel", "libvirt"])
    if "libvirt-qemu" not in {user.pw_name for user in pwd.getpwall()}:
        run("useradd", "--system", "--user-group", "--no-create-home", "libvirt-qemu")
        made.append(["userdel", "libvirt-qemu"])
    Path("/var/log/libvirt").mkdir(exist_ok=True)
    config = tmp_path / "libvirtd.conf"
    config.write_text(CONFIGURATION)
    daemons = [_daemon("virtlogd"), _daemon("libvirtd", "--config", str(config))]
    try:
        until("libvirtd answers", find_system, 180)
        yield
    finally:
        for pid in reversed(daemons):
            os.kill(pid, 15)
            until("the daemon ended", partial(_is_gone, pid), 180)
        for argv in reversed(made):
            run(*argv, check=False)


def _is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def _daemon(*argv: str) -> int:
    """Start it as root under a process that waits for its orphans, as PID 1 of a real machine does; returns its pid."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", reaper.__file__, "0", "0", "", *argv],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, check=True, timeout=30,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.usefixtures("system")
def test_the_machines_libvirtd_is_used_and_left_as_it_was() -> None:
    def domains() -> list[str]:
        return run("virsh", "-c", "qemu:///system", "list", "--all", "--name").split()

    before = domains()
    with real_cloud(18091) as cloud:
        assert not (cloud.data / "libvirt").exists(), "no libvirtd of our own"
        made = cloud.show(
            "server", "create", "--image", "tiny", "--flavor", "m1.nano", "--network", "private", "--wait", "one"
        )
        assert made["status"] == "ACTIVE"
        assert domains() == [*before, f"cumulet-{made['id']}"]
        owner = _owner_of_qemu(str(made["id"]))
        assert owner == pwd.getpwnam("cumulet-guest").pw_uid
        until("its console is read", lambda: "login" in cloud.openstack("console", "log", "show", "one"), 180)
        cloud.openstack("server", "delete", "--wait", "one")
        assert domains() == before
        cloud.openstack(
            "server", "create", "--image", "tiny", "--flavor", "m1.nano", "--network", "private", "--wait", "two"
        )
    assert domains() == before, "a purge takes the guests with it"


def _owner_of_qemu(server: str) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if words.startswith(b"/usr/bin/qemu-system") and server.encode() in words:
            return process.stat().st_uid
    raise AssertionError("no such QEMU")
