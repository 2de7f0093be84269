# SPDX-License-Identifier: Apache-2.0
"""A program in namespaces of its own: no network, no file but those it is given, no capability.

For programs that read what strangers sent (qemu-img). Run as a script of its own
(`python sandbox.py --read FILE --write FILE -- PROGRAM …`), it leaves the
machine behind and becomes the program; it imports nothing of ours, since that
has to be quick. Invariant: it becomes the program with everything in place, or
does not run it: status `REFUSED` where the machine forbids it, another one where
there is no room for it just now.

Source: user_namespaces(7), pivot_root(2), mount(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys

REFUSED = 125
"""The status when the machine allows no such namespaces."""
_SHORT = 124
"""The status when it may allow them at another time."""
_PASSING = (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE)
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT = 1, 2, 4, 8, 32
_NOATIME, _BIND, _REC, _PRIVATE, _RELATIME = 1024, 4096, 16384, 1 << 18, 1 << 21
_KEPT = ((os.ST_NOSUID, _NOSUID), (os.ST_NODEV, _NODEV), (os.ST_NOEXEC, _NOEXEC), (os.ST_NOATIME, _NOATIME),
         (os.ST_RELATIME, _RELATIME))  # fmt: skip
"""Flags of a mount that a user namespace may not take away."""
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NOBODY = 65534
_SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
"""What a program needs of the machine, read-only."""
_SPOT = "/tmp"  # noqa: S108 - only a place to mount on; nothing is written to the machine's own


def wrapped(argv: list[str], *, read: list[str], write: list[str]) -> list[str]:
    """``argv`` as a command that runs it so: it may read the files ``read`` and do anything with those of ``write``."""
    told = [word for path in read for word in ("--read", path)] + [word for path in write for word in ("--write", path)]
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), *told, "--", *argv]


# ---- the script


class _Libc:
    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __call__(self, name: str, *arguments: object) -> None:
        """Call a function that returns -1 and sets errno when it fails; raises OSError."""
        if getattr(self._libc, name)(*arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    def mount(self, source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
        words = [None if word is None else word.encode() for word in (source, target, kind, data)]
        self("mount", words[0], words[1], words[2], ctypes.c_ulong(flags), words[3])

    def bind(self, source: str, target: str, *, writable: bool) -> None:
        self.mount(source, target, None, _BIND | _REC)
        if not writable:
            have = os.statvfs(target).f_flag
            kept = sum(flag for bit, flag in _KEPT if have & bit)
            self.mount("none", target, None, _BIND | _REMOUNT | _RDONLY | kept)


def enter(read: list[str], write: list[str]) -> None:
    """Leave the machine behind: from here on this process sees nothing else. Raises OSError."""
    libc = _Libc()
    uid, gid = os.geteuid(), os.getegid()
    wanted = [(os.path.realpath(path), path, False) for path in read]
    wanted += [(os.path.realpath(path), path, True) for path in write]
    libc("unshare", _NEWUSER | _NEWNS | _NEWNET | _NEWIPC | _NEWUTS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{_NOBODY} {uid} 1"), ("gid_map", f"{_NOBODY} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    libc.mount("none", "/", None, _REC | _PRIVATE)
    held = [(os.open(real, os.O_PATH), path, writable) for real, path, writable in wanted]
    libc.mount("sandbox", _SPOT, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for path in _SYSTEM:
        _show(libc, path)
    for handle, path, writable in held:
        target = _SPOT + os.path.abspath(path)
        _place(target, os.path.isdir(f"/proc/self/fd/{handle}"))
        libc.bind(f"/proc/self/fd/{handle}", target, writable=writable)
        os.close(handle)
    os.chdir(_SPOT)
    libc("syscall", _PIVOT_ROOT[os.uname().machine], b".", b".")
    libc("umount2", b".", _DETACH)
    os.chdir("/")


def _show(libc: _Libc, path: str) -> None:
    """The machine's ``path``, read-only, where there is such."""
    target = _SPOT + path
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
    elif os.path.exists(path):
        _place(target, os.path.isdir(path))
        libc.bind(path, target, writable=False)


def _place(target: str, folder: bool) -> None:
    """Something to mount on."""
    os.makedirs(target if folder else os.path.dirname(target), exist_ok=True)
    if not folder:
        open(target, "x").close()


def main(words: list[str]) -> int:
    told: dict[str, list[str]] = {"--read": [], "--write": []}
    while words[0] != "--":
        told[words[0]].append(words[1])
        words = words[2:]
    program = shutil.which(words[1])
    if program is None:
        sys.stderr.write(f"{words[1]}: not found\n")
        return 127
    try:
        enter(told["--read"], told["--write"])
    except (OSError, KeyError) as error:
        sys.stderr.write(f"no sandbox: {error}\n")
        return _SHORT if isinstance(error, OSError) and error.errno in _PASSING else REFUSED
    os.execv(program, words[1:])  # noqa: S606 - no shell is what we want


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
