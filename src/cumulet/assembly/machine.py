# SPDX-License-Identifier: Apache-2.0
"""What this machine can do: the checks of `cumulet doctor`, and the system users of a real host.

A check is one line: what is wrong, and the command that mends it. Nothing here
changes the machine but `ensure_users`.
"""

from __future__ import annotations

import grp
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cumulet.assembly.space import almost_full

WORKER, GUEST = "cumulet", "cumulet-guest"
"""The user that serves requests, and the one that QEMU runs as."""
SPACE_GIB = 2.0


@dataclass(frozen=True)
class Check:
    """One fact that real guests need."""

    name: str
    problem: str | None
    """None when all is well."""
    remedy: str = ""


def check_machine(data: Path, ports: tuple[int, ...] = ()) -> list[Check]:
    """Check everything that real guests need on this machine; changes nothing."""
    return [check(data, ports) for check in _CHECKS]


def _programs(name: str, programs: tuple[str, ...], packages: str) -> Callable[[Path, tuple[int, ...]], Check]:
    def check(data: Path, ports: tuple[int, ...]) -> Check:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        missing = [program for program in programs if shutil.which(program, path=path) is None]
        problem = f"{', '.join(missing)} not found" if missing else None
        return Check(name, problem, f"apt-get install --no-install-recommends {packages}")

    return check


def _root(data: Path, ports: tuple[int, ...]) -> Check:
    return Check("root", None if os.geteuid() == 0 else "not started as root", "run it with sudo")


def _libvirt_binding(data: Path, ports: tuple[int, ...]) -> Check:
    found = importlib.util.find_spec("libvirt") is not None
    return Check(
        "libvirt for Python", None if found else "the module libvirt is missing", "pip install 'cumulet[libvirt]'"
    )


def _tun(data: Path, ports: tuple[int, ...]) -> Check:
    return Check("TUN", None if Path("/dev/net/tun").exists() else "/dev/net/tun is missing", "modprobe tun")


def _br_netfilter(data: Path, ports: tuple[int, ...]) -> Check:
    there = Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists()
    return Check("br_netfilter", None if there else "bridged packets are not filtered", "modprobe br_netfilter")


def _nftables(data: Path, ports: tuple[int, ...]) -> Check:
    nft = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if nft is None:
        return Check("nftables", "nft not found", "apt-get install --no-install-recommends nftables")
    done = subprocess.run([nft, "list", "tables"], capture_output=True, check=False, timeout=10)
    told = done.stderr.decode(errors="replace").strip().splitlines()
    problem = (told[0] if told else "nft list tables failed") if done.returncode else None
    return Check("nftables", problem, "modprobe nf_tables (as root)")


def _space(data: Path, ports: tuple[int, ...]) -> Check:
    place = next(path for path in (data, *data.parents) if path.exists())
    free = shutil.disk_usage(place).free / 2**30
    problem = f"{free:.1f} GiB free in {place}, at least {SPACE_GIB:g} GiB are needed" if free < SPACE_GIB else None
    if problem is None and (told := almost_full(place)):
        problem = "; ".join(told)
    return Check("disk space", problem, "free some space, or choose another place with --data DIR")


def _reachable(data: Path, ports: tuple[int, ...]) -> Check:
    """QEMU runs as a user of its own and must be able to walk to its disks."""
    for path in reversed(data.parents):
        if path.exists() and not path.stat().st_mode & 0o001:
            return Check("data directory", f"{path} can't be entered by other users", f"chmod o+x {path}")
    return Check("data directory", None)


def _ports(data: Path, ports: tuple[int, ...]) -> Check:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return Check("ports", f"port {port} is taken", "choose another with --port N")
    return Check("ports", None)


_CHECKS: tuple[Callable[[Path, tuple[int, ...]], Check], ...] = (
    _root,
    _programs("QEMU", ("qemu-system-x86_64", "qemu-img"), "qemu-system-x86 qemu-utils"),
    _programs("libvirtd", ("libvirtd",), "libvirt-daemon libvirt-daemon-driver-qemu"),
    _libvirt_binding,
    _tun,
    _nftables,
    _br_netfilter,
    _programs("dnsmasq", ("dnsmasq",), "dnsmasq-base"),
    _programs("iproute2", ("ip",), "iproute2"),
    _programs("file systems", ("mkfs.ext4", "mkfs.vfat", "mkswap"), "e2fsprogs dosfstools util-linux"),
    _space,
    _reachable,
    _ports,
)


@dataclass(frozen=True)
class Users:
    """The system users of a real host."""

    worker_uid: int
    worker_gid: int
    guest_uid: int
    guest_gid: int
    made: list[str]
    """Those that did not exist before; a purge removes them."""


def ensure_users(*groups: str) -> Users:
    """Make the two system users where they are missing; the worker joins their group and ``groups``. Needs root."""
    made = []
    for name in (GUEST, WORKER):
        try:
            pwd.getpwnam(name)
        except KeyError:
            argv = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
            subprocess.run(argv, check=True, capture_output=True, timeout=30)
            made.append(name)
    for group in (GUEST, *groups):
        if WORKER not in grp.getgrnam(group).gr_mem:
            argv = ["usermod", "--append", "--groups", group, WORKER]
            subprocess.run(argv, check=True, capture_output=True, timeout=30)
    worker, guest = pwd.getpwnam(WORKER), pwd.getpwnam(GUEST)
    return Users(worker.pw_uid, worker.pw_gid, guest.pw_uid, guest.pw_gid, made)


def drop_users(names: list[str]) -> None:
    """Remove system users that a start made."""
    for name in names:
        if name in (WORKER, GUEST):
            subprocess.run(["userdel", name], check=False, capture_output=True, timeout=30)
