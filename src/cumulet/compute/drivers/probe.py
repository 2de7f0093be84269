# SPDX-License-Identifier: Apache-2.0
"""Whether KVM works for the guest user, found out by doing.

A device that opens, or even a guest in real mode that runs, proves nothing:
under some nested hypervisors long mode never finishes. So a 64 KiB ROM (source
beside this file, ``kvmprobe.S``) enters long mode, works a little and leaves
through QEMU's exit port. Only its exit status makes the answer ``kvm``.

Synchronous, for the privileged parent (as the guest user may not be us) or a
thread; the caller keeps the answer, which holds until the next boot.
"""

from __future__ import annotations

import base64
import os
import subprocess
import zlib

import msgspec

from cumulet.compute.drivers.libvirtd import device_groups

_EXIT = 99  # (0x31 << 1) | 1, isa-debug-exit's status for the byte the ROM writes
_ROM = """\
eNrtzTFKQ0EQBuCJErQwbCoRGx85gKg3sfQC7wb2gYBgYRDtrOwtbCwSEXxdYmXKlMFOLSwMCKLEDWqhZ/i+YnZn99+d980y1VYn
kYqq7AxrqVWVT+uRYjnKXjO6427VHW1Xt9GM6MdKxMfrxaA+7xaLiLzLdXEr4jZy6XVinlqIOFyqR77qDJYfpr15OrXGqZh0hkVq
TfrtiCrtNKKWz7fy4EZ+1s6Tn07z4LXfwaObyMH++UEtdlMx3pvd7b/1tnO0vJ7Gy/T58+gq4jh+zGa5nN1/ryc/69llbESVPwUA
AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAOC/x8bf/gs880dY
"""


class ProbeAccelerator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Find out which accelerator guests of this user get."""

    uid: int | None = None
    """The guest user; None: whoever runs this."""
    gid: int | None = None
    seconds: float = 1.5
    """A working KVM needs a few hundredths of a second."""


def rom() -> bytes:
    """The probe's firmware image."""
    return zlib.decompress(base64.b64decode(_ROM))


def probe_accelerator(wanted: ProbeAccelerator) -> str:
    """``kvm`` or ``tcg``."""
    return "kvm" if runs_long_mode("kvm", wanted) else "tcg"


def runs_long_mode(accelerator: str, wanted: ProbeAccelerator) -> bool:
    """Whether the ROM reaches its end under this QEMU accelerator within the time."""
    image = os.memfd_create("kvmprobe", os.MFD_CLOEXEC)
    try:
        os.write(image, rom())
        argv = ["qemu-system-x86_64", "-accel", accelerator, "-machine", "pc", "-m", "16", "-nodefaults"]
        argv += ["-display", "none", "-no-reboot", "-no-user-config", "-bios", f"/proc/self/fd/{image}"]
        argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=wanted.seconds,
                cwd="/",
                pass_fds=(image,),
                user=wanted.uid,
                group=wanted.gid,
                extra_groups=device_groups() if wanted.uid is not None else None,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError):
            return False
        return done.returncode == _EXIT
    finally:
        os.close(image)
