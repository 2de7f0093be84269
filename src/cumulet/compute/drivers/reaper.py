# SPDX-License-Identifier: Apache-2.0
"""Runs a daemon as another user and takes in the children that it leaves behind.

QEMU detaches itself from libvirtd, and libvirtd counts a guest as gone only
when its QEMU has been waited for. Init should do that, but in a container the
first process often waits late or never. This program stands between: every
orphan below it comes to it (prctl(2), PR_SET_CHILD_SUBREAPER), and it does
nothing but wait until none is left.

A program of its own, started by path by ``libvirtd``: it imports nothing of ours.
It is root when it starts and gives that up before it runs anything.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_CHILD_SUBREAPER = 36


def main(uid: int, gid: int, groups: list[int], argv: list[str]) -> None:
    """Detach, become ``uid``, run ``argv``, tell its pid on standard output, and wait for everybody."""
    if os.fork():
        os._exit(0)  # nobody has to wait for us
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.umask(0o007)
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        try:
            os.execvp(argv[0], argv)  # noqa: S606 - there is no shell
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(127)
    os.write(1, f"{child}\n".encode())
    os.dup2(2, 1)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), [int(group) for group in sys.argv[3].split(",") if group], sys.argv[4:])
