# SPDX-License-Identifier: Apache-2.0
"""A host's libvirtd: the machine's where one runs, else one of ours, that the privileged parent starts or adopts.

Ours is a *session* daemon that runs as the guest user: whoever may use its
socket can do what that user can, and nothing more. (The socket of a system
libvirtd is worth root, because a domain may name any file and any user.) All
that it keeps is below one directory, so it needs no mount namespace, leaves a
libvirtd of the machine alone, and several hosts fit on one machine.

Invariants: the daemon leads a process session of its own and outlives us; it is
adopted again by pid and start time and never started twice; and this code, which
runs as root, follows no link and trusts no name inside a directory that the
guest user can write.

Plain synchronous functions of one typed parameter, for the registry of
privileged operations. Setting XDG directories for a session daemon is
documented in libvirt's "libvirtd" manual page (FILES).
"""

from __future__ import annotations

import contextlib
import grp
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import quote

import msgspec

from cumulet.compute.drivers import reaper
from cumulet.kernel.host import HostError

_START_SECONDS = 15.0
_STOP_SECONDS = 10.0
_LOG_BYTES = 1 << 20
_LONGEST_DIRECTORY = 40  # QEMU's monitor socket must fit into 107 bytes below it
_TUN = "/dev/net/tun"
_KVM = "/dev/kvm"

_LIBVIRTD_CONF = """\
auth_unix_rw = "none"
unix_sock_rw_perms = "0770"
max_workers = 40
max_client_requests = 20
keepalive_interval = -1
log_level = 3
"""
# Console logs are written by QEMU itself: virtlogd would keep them from everybody but the guest user.
_QEMU_CONF = """\
stdio_handler = "file"
vnc_allow_host_audio = 0
"""


class StartLibvirtd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Have a libvirtd run in ``directory``."""

    directory: str
    """Absolute path of at most 40 characters; made when missing; belongs to root."""
    uid: int
    """The guest user: libvirtd and QEMU run as it."""
    gid: int
    """The group that the guest user shares with the compute agent; it may use the socket."""


class StopLibvirtd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End the libvirtd of ``directory``. Guests go on running."""

    directory: str


class LibvirtdInfo(msgspec.Struct, frozen=True):
    """A running libvirtd, as the driver needs it."""

    uri: str
    pid: int
    log_dir: str
    """Where it writes QEMU's own logs, one ``<domain>.log`` each; the group may remove them."""
    adopted: bool
    """Whether it ran already."""


class SystemLibvirtd(msgspec.Struct, frozen=True):
    """The libvirtd that this machine runs anyway."""

    socket: str
    group: str
    """Whose members may use it; empty: everybody may."""

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={quote(self.socket)}"


def find_system() -> SystemLibvirtd | None:
    """The machine's own libvirtd, monolithic or modular, if it answers and a group other than root's may use it.

    Paths: libvirt's documentation, "libvirt daemons", sockets.
    """
    for path in ("/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock"):
        if not os.path.exists(path) or not _answers(path):
            continue
        found = os.stat(path)
        if found.st_mode & 0o006 == 0o006:
            return SystemLibvirtd(path, "")
        if found.st_gid != 0 and found.st_mode & 0o060 == 0o060:
            return SystemLibvirtd(path, grp.getgrgid(found.st_gid).gr_name)
    return None


class LibvirtdError(HostError):
    """libvirtd could not be started; the text says what to do."""


class _Record(msgspec.Struct, frozen=True):
    """Which process we started."""

    pid: int
    started: int
    """Start time in clock ticks since boot (/proc/PID/stat, field 22)."""
    boot: str


def start_libvirtd(wanted: StartLibvirtd) -> LibvirtdInfo:
    """Adopt the libvirtd of this directory, or start one; returns when its socket answers."""
    directory = wanted.directory.rstrip("/")
    if not os.path.isabs(directory) or len(directory) > _LONGEST_DIRECTORY:
        raise LibvirtdError(f"libvirt's directory must be an absolute path of at most {_LONGEST_DIRECTORY} characters")
    path = f"{directory}/run/libvirt/libvirt-sock"
    log_dir = f"{directory}/cache/libvirt/qemu/log"
    uri = f"qemu+unix:///session?socket={quote(path)}"
    record = _read_record(directory)
    adopted = record is not None
    if record is None:
        _forget_last_boot(directory)
        _lay_out(directory, wanted)
        _open_devices(wanted)
        record = _launch(directory, wanted)
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(path):
        if not _is_alive(record):
            raise LibvirtdError(f"libvirtd ended: {_last_words(directory)}")
        if time.monotonic() > deadline:
            raise LibvirtdError(f"libvirtd runs (pid {record.pid}) but its socket does not answer")
        time.sleep(0.02)
    return LibvirtdInfo(uri=uri, pid=record.pid, log_dir=log_dir, adopted=adopted)


def stop_libvirtd(wanted: StopLibvirtd) -> None:
    """End libvirtd, and its process only; not running is success."""
    directory = wanted.directory.rstrip("/")
    record = _read_record(directory)
    if record is not None:
        try:
            process = os.pidfd_open(record.pid)
        except ProcessLookupError:
            process = -1
        if process >= 0:
            try:
                if _is_alive(record):  # asked after the handle was taken, so it can be no other process
                    _end(process)
            finally:
                os.close(process)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory}/libvirtd.json")


def _end(process: int) -> None:
    for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)
        ended, _, _ = select.select([process], [], [], seconds)
        if ended:
            return
    raise LibvirtdError("libvirtd does not end")


def _forget_last_boot(directory: str) -> None:
    """Remove what a libvirtd of an earlier boot knew of running guests: their pids are other processes now."""
    try:
        with open(f"{directory}/libvirtd.json", "rb") as file:
            boot = msgspec.json.decode(file.read(), type=_Record).boot
    except (FileNotFoundError, msgspec.DecodeError):
        return
    if boot != _boot_id() and os.path.exists(f"{directory}/run/libvirt"):
        shutil.rmtree(f"{directory}/run/libvirt")


# -- its directory ----------------------------------------------------------------------------


def _lay_out(directory: str, wanted: StartLibvirtd) -> None:
    os.makedirs(directory, mode=0o755, exist_ok=True)
    with contextlib.ExitStack() as stack:
        top = stack.enter_context(_directory(None, directory, 0o755, 0, 0))

        def inside(parent: int, *names: str, mode: int) -> int:
            for name in names:
                parent = stack.enter_context(_directory(parent, name, mode, wanted.uid, wanted.gid))
            return parent

        # Parents that root owns: what the guest user can't swap, root may open by name.
        parents = {
            name: stack.enter_context(_directory(top, name, 0o755, 0, 0)) for name in ("config", "cache", "run", "data")
        }
        config = inside(parents["config"], "libvirt", mode=0o700)
        inside(parents["cache"], "libvirt", "qemu", "log", mode=0o2770)
        inside(parents["run"], "libvirt", mode=0o2750)
        inside(parents["data"], "libvirt", mode=0o700)
        inside(top, "home", mode=0o700)
        _write(config, "qemu.conf", _QEMU_CONF)
        _write(top, "libvirtd.conf", _LIBVIRTD_CONF)


@contextlib.contextmanager
def _directory(parent: int | None, name: str, mode: int, uid: int, gid: int) -> Iterator[int]:
    """Make (if missing) and open a directory without following a link; owner and mode as given."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fchown(handle, uid, gid)
        os.fchmod(handle, mode)
        yield handle
    finally:
        os.close(handle)


def _write(directory: int, name: str, text: str) -> None:
    """Replace a file by one that root owns and everybody may read."""
    partial = f".{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(partial, flags, 0o644, dir_fd=directory)
    try:
        os.fchmod(handle, 0o644)
        os.write(handle, text.encode())
    finally:
        os.close(handle)
    os.replace(partial, name, src_dir_fd=directory, dst_dir_fd=directory)


# -- devices ------------------------------------------------------------------------------------


def _open_devices(wanted: StartLibvirtd) -> None:
    """Where no udev has done so, open /dev/net/tun to everybody, which is its documented mode.

    A process without rights can then only attach to taps that were made for its user
    (kernel documentation, networking/tuntap).
    """
    try:
        found = os.stat(_TUN)
    except FileNotFoundError:
        raise LibvirtdError(f"{_TUN} is missing; load the kernel module tun") from None
    if not _may_use(found, wanted.uid, {wanted.gid}):
        os.chmod(_TUN, 0o666)  # noqa: S103 - udev's own rule for it


def device_groups() -> list[int]:
    """The group that may use /dev/kvm, if a group other than root's may."""
    try:
        found = os.stat(_KVM)
    except OSError:
        return []
    return [found.st_gid] if found.st_gid != 0 and found.st_mode & 0o060 == 0o060 else []


def _may_use(found: os.stat_result, uid: int, gids: set[int]) -> bool:
    read_write = (stat.S_IRUSR | stat.S_IWUSR) >> (0 if found.st_uid == uid else 3 if found.st_gid in gids else 6)
    return found.st_mode & read_write == read_write


# -- its process --------------------------------------------------------------------------------


def _launch(directory: str, wanted: StartLibvirtd) -> _Record:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": f"{directory}/home",
        "XDG_CONFIG_HOME": f"{directory}/config",
        "XDG_CACHE_HOME": f"{directory}/cache",
        "XDG_RUNTIME_DIR": f"{directory}/run",
        "XDG_DATA_HOME": f"{directory}/data",
    }
    name = f"{directory}/libvirtd.log"
    if os.path.exists(name) and os.path.getsize(name) > _LOG_BYTES:
        os.replace(name, f"{name}.1")
    program = shutil.which("libvirtd", path=environment["PATH"])
    if program is None:
        raise LibvirtdError("libvirtd is not installed (Debian: libvirt-daemon, qemu-system-x86)")
    log = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        groups = ",".join(map(str, device_groups()))
        argv = [sys.executable, "-I", "-S", reaper.__file__, str(wanted.uid), str(wanted.gid), groups]
        done = subprocess.run(
            [*argv, program, "--config", f"{directory}/libvirtd.conf"],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            timeout=_START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LibvirtdError("libvirtd could not be started in time") from None
    finally:
        os.close(log)
    pid = int(done.stdout) if done.stdout.strip().isdigit() else 0
    started = _start_time(pid)
    if started is None:
        raise LibvirtdError(f"libvirtd ended: {_last_words(directory)}")
    record = _Record(pid, started, _boot_id())
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _write(top, "libvirtd.json", msgspec.json.encode(record).decode())
    finally:
        os.close(top)
    return record


def _read_record(directory: str) -> _Record | None:
    """The libvirtd that we started here, if it is still the same process."""
    try:
        with open(f"{directory}/libvirtd.json", "rb") as file:
            record = msgspec.json.decode(file.read(), type=_Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return record if record.boot == _boot_id() and _is_alive(record) else None


def _is_alive(record: _Record) -> bool:
    return _start_time(record.pid) == record.started


def _start_time(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when it has ended (a zombie has)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _last_words(directory: str) -> str:
    try:
        with open(f"{directory}/libvirtd.log", "rb") as file:
            lines = file.read()[-4000:].decode(errors="replace").strip().splitlines()
    except OSError:
        return "it left no log"
    return lines[-1] if lines else "it said nothing"
