# SPDX-License-Identifier: Apache-2.0
"""The privileged parent: forks the worker and the operator, watches both, starts them again.

Three processes. The *supervisor* (this module) stays single-threaded and
imports nothing more, so that it can fork again at any time. The *operator*
keeps root and carries out the allowed operations. The *worker* drops to an
ordinary user and runs the program. Worker and operator share one socket pair
and live and die together: a new worker gets a new channel, so no half-read
frame ever meets it. When the supervisor dies, the worker is told by SIGTERM
and the operator by the end of the channel.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

from cumulet.kernel.host.channel import ChannelHost, serve
from cumulet.kernel.host.model import HostError, Operations

CRASHED = os.EX_SOFTWARE
"""The status of a worker that ended by an exception; it is started again, as after a signal."""

_FIRST_DELAY, _LONGEST_DELAY = 0.2, 10.0
"""Seconds until a dead worker is started again: first after a quiet time, doubled at each death that follows soon."""
_SOON = 10.0
"""A worker that lived less than this many seconds died soon."""
_FINAL = 5
"""So many deaths in a row, each soon and by an exception, are final. One that is killed is always started again."""
_PATIENCE = 15.0
"""Seconds that the operator has to finish its operations once the worker is gone."""

_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

# prctl(2)
_SET_PDEATHSIG, _CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 1, 24, 38, 47, 4


def run_privileged(
    worker_main: Callable[[ChannelHost], int | None],
    *,
    user: str,
    operations: Operations,
    umask: int = 0o027,
    threads: int = 4,
    prepare: Callable[[], None] = lambda: None,
) -> int:
    """Run ``worker_main(host)`` as ``user`` under a privileged parent; return its exit status.

    Must be called as root, early: before event loops, threads and heavy
    imports. ``worker_main`` runs in a forked child without any capability; what
    it returns (None is 0) is its status. It is started again when a signal or
    an exception ends it; ``prepare`` runs in it just before it drops its
    privilege. SIGTERM, SIGINT and SIGHUP are passed on to it.
    """
    if os.geteuid() != 0:
        raise HostError("the privileged parent must be started as root")
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise HostError(f"there is no user {user!r}: create it with 'useradd --system {user}'") from None
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    restarts = Restarts(time.monotonic)
    try:
        while True:
            restarts.begun()
            status, stopped = _generation(worker_main, user, operations, umask, threads, unblocked, prepare)
            if stopped or 0 <= status != CRASHED:
                return status if status >= 0 else 128 - status
            delay = restarts.ended(crashed=status == CRASHED)
            if delay is None:
                _say(f"the worker failed {_FINAL} times in a row, each within {_SOON:g} s of its start; giving up")
                return CRASHED
            _say(f"{restarts.told(status)}; starting it again in {delay:g} s")
            if (told := _wait({signal.SIGTERM, signal.SIGINT}, delay)) is not None:
                return 128 + told
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)


class Restarts:
    """When a worker that died is started again: at once after a quiet time, ever later when it dies again soon."""

    def __init__(self, now: Callable[[], float]) -> None:
        """``now``: seconds that never go back."""
        self._now = now
        self._since = now()
        self._lived = 0.0
        self._soon = self._crashes = 0

    def begun(self) -> None:
        self._since = self._now()

    def ended(self, *, crashed: bool) -> float | None:
        """Seconds to wait before the next start; None: it is no use. ``crashed``: by an exception of its own."""
        self._lived = self._now() - self._since
        soon = self._lived < _SOON
        self._soon = self._soon + 1 if soon else 1
        self._crashes = (self._crashes + 1 if soon else 1) if crashed else 0
        return None if self._crashes >= _FINAL else min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(self._soon - 1, 10))

    def told(self, status: int) -> str:
        """The last death in words; ``status``: exit code, or minus the signal."""
        known = {one.value: one.name for one in signal.Signals}
        how = f"was ended by {known.get(-status, -status)}" if status < 0 else f"ended with status {status}"
        again = f", death {self._soon} in a row" if self._soon > 1 else ""
        return f"the worker died: it {how} after {self._lived:.1f} s{again}"


def _generation(
    worker_main: Callable[[ChannelHost], int | None],
    user: str,
    operations: Operations,
    umask: int,
    threads: int,
    unblocked: set[int | signal.Signals],
    prepare: Callable[[], None],
) -> tuple[int, bool]:
    """Run one worker with its operator to the end: (exit status or minus the signal, told to stop)."""
    ours, theirs = socket.socketpair()

    def operate() -> int:
        theirs.close()
        for told in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(told, signal.SIG_IGN)
        serve(ours, operations, threads=threads)
        return 0

    def work() -> int:
        ours.close()
        prepare()
        drop_privileges(user, umask)
        for needed in (os.__file__, __file__):
            if not os.access(needed, os.R_OK):
                _say(f"the user {user!r} can't read {needed}, so later imports will fail; install where all can read")
        return worker_main(ChannelHost(theirs)) or 0

    supervisor = os.getpid()
    operator = _fork(operate, unblocked, supervisor)
    worker = _fork(work, unblocked, supervisor)
    ours.close()
    theirs.close()
    ended: dict[int, int] = {}
    stopping = False
    while worker not in ended:
        told = _wait(_SIGNALS, None)
        if told in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            stopping = stopping or told != signal.SIGHUP
            os.kill(worker, told)
        _reap((worker, operator), ended)
        if operator in ended and not _ends(worker, ended, 1.0):  # an ending worker closes the channel first
            _say(f"the operator ended ({ended[operator]}); ending the worker")
            os.kill(worker, signal.SIGTERM)
            _end(worker, ended)
            return ended[worker] if stopping else -signal.SIGTERM, stopping
    _end(operator, ended)
    return ended[worker], stopping


def _fork(body: Callable[[], int], unblocked: set[int | signal.Signals], supervisor: int) -> int:
    """Fork a child in a process group of its own that runs ``body`` and never returns here."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    status = CRASHED
    try:
        os.setpgid(0, 0)  # a terminal's Ctrl-C reaches the supervisor only, which passes it on once
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        status = body() if os.getppid() == supervisor else CRASHED
    except SystemExit as asked:
        status = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status & 0xFF)


def drop_privileges(user: str, umask: int) -> None:
    """Become ``user`` for good: ids, groups, no capability in any set, no way to gain one, SIGTERM when orphaned."""
    entry = pwd.getpwnam(user)
    if entry.pw_uid == 0:
        raise HostError(f"{user!r} is root; the worker must be somebody else")
    libc = ctypes.CDLL(None, use_errno=True)
    last_capability = _read_number("/proc/sys/kernel/cap_last_cap")
    for capability in range(last_capability + 1):
        libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups(os.getgrouplist(user, entry.pw_gid))
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    libc.prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise HostError("the kernel refuses NO_NEW_PRIVS")
    libc.prctl(_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    os.umask(umask)
    os.environ.update(HOME=entry.pw_dir, USER=user, LOGNAME=user)
    if os.getresuid() != (entry.pw_uid,) * 3 or 0 in os.getgroups() or grp.getgrgid(os.getgid()).gr_gid == 0:
        raise HostError("the worker could not drop its privileges")


def _read_number(path: str) -> int:
    with open(path) as file:
        return int(file.read())


def _wait(signals: set[signal.Signals], seconds: float | None) -> signal.Signals | None:
    """The next of these (blocked) signals, None when ``seconds`` pass without one."""
    if seconds is None:
        return signal.Signals(signal.sigwaitinfo(signals).si_signo)
    info = signal.sigtimedwait(signals, seconds)
    return None if info is None else signal.Signals(info.si_signo)


def _reap(children: tuple[int, ...], ended: dict[int, int]) -> None:
    """Note the status of every child that has ended: its exit code, or minus its signal."""
    for pid in children:
        if pid not in ended and (status := os.waitpid(pid, os.WNOHANG))[0]:
            ended[pid] = os.waitstatus_to_exitcode(status[1])


def _ends(pid: int, ended: dict[int, int], patience: float) -> bool:
    """Whether a child ends by itself within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    _reap((pid,), ended)
    while pid not in ended and (left := deadline - time.monotonic()) > 0:
        _wait({signal.SIGCHLD}, left)
        _reap((pid,), ended)
    return pid in ended


def _end(pid: int, ended: dict[int, int]) -> None:
    """Let a child end by itself; kill it when our patience is over."""
    if not _ends(pid, ended, _PATIENCE):
        os.kill(pid, signal.SIGKILL)
        ended[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _say(text: str) -> None:
    sys.stderr.write(f"cumulet: {text}\n")
    sys.stderr.flush()
