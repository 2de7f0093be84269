# SPDX-License-Identifier: Apache-2.0
"""The privileged parent: what it allows, validates, passes on, and what it does when a process dies."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cumulet.kernel.host import ChannelHost, DirectHost, Fds, Host, HostError, name_of, run_privileged, serve
from cumulet.kernel.host.parent import CRASHED, Restarts
from cumulet.kernel.pools import Completed, Pool, ProgramFailed, run_program

USER = "nobody"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the privileged parent is root by definition")


class Pair(msgspec.Struct, forbid_unknown_fields=True):
    left: int
    right: int


class Text(msgspec.Struct):
    text: str


class Sum(msgspec.Struct):
    sum: int
    uid: int


def add(pair: Pair) -> Sum:
    return Sum(pair.left + pair.right, os.getuid())


def slow(text: Text) -> str:
    threading.Event().wait(float(text.text))
    return text.text


def refuse(text: Text) -> None:
    raise HostError(f"no {text.text}")


def break_down(text: Text) -> None:
    raise ValueError(text.text)


def missing_file(text: Text) -> bytes:
    return Path(text.text).read_bytes()


def open_pipe(text: Text) -> Fds:
    read, write = os.pipe()
    os.write(write, text.text.encode())
    os.close(write)
    return Fds([read])


def not_listed(text: Text) -> str:
    return text.text


def impostor(text: Text) -> str:
    """Allowed for a Text; called with something else below."""
    return text.text


def vanish(text: Text) -> None:
    os._exit(int(text.text))


ALLOWED = {name_of(f): name_of(f) for f in (add, slow, refuse, break_down, missing_file, open_pipe, impostor, vanish)}


@pytest.fixture(params=["direct", "channel"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    if request.param == "direct":
        direct = DirectHost(ALLOWED)
        yield direct
        direct.close()
        return
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(ours, ALLOWED))
    thread.start()
    channel = ChannelHost(theirs)
    yield channel
    channel.close()
    thread.join(10)
    assert not thread.is_alive()
    ours.close()


async def test_a_call_returns_the_typed_value(host: Host) -> None:
    assert await host.call(add, Pair(2, 3)) == Sum(5, os.getuid())


async def test_calls_run_at_the_same_time(host: Host) -> None:
    calls = [asyncio.create_task(host.call(slow, Text(wait))) for wait in ("1.5", "0")]
    assert [await one for one in asyncio.as_completed(calls)] == ["0", "1.5"]


async def test_large_values_pass(host: Host) -> None:
    text = "x" * 3_000_000
    assert await host.call(impostor, Text(text)) == text


async def test_descriptors_come_back_in_order(host: Host) -> None:
    async def one(text: str) -> str:
        (fd,) = await host.call_fd(open_pipe, Text(text))
        with os.fdopen(fd, "rb") as file:
            return file.read().decode()

    texts = [f"text {n}" for n in range(40)]
    assert await asyncio.gather(*map(one, texts)) == texts


async def test_only_listed_operations_run(host: Host) -> None:
    with pytest.raises(HostError, match="not allowed"):
        await host.call(not_listed, Text("x"))


async def test_parameters_are_validated_where_the_privilege_is(host: Host) -> None:
    class Other(msgspec.Struct):
        left: str
        right: int

    wrong: Any = Other("1", 2)
    with pytest.raises(HostError, match=r"Expected `int`, got `str`"):
        await host.call(add, wrong)


async def test_refusals_are_told_and_accidents_tell_no_values(host: Host) -> None:
    with pytest.raises(HostError, match="no bread"):
        await host.call(refuse, Text("bread"))
    with pytest.raises(HostError, match="ValueError") as caught:
        await host.call(break_down, Text("hunter2"))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(HostError, match=r"No such file or directory \(/nowhere\)"):
        await host.call(missing_file, Text("/nowhere"))


async def test_a_deadline_frees_the_caller(host: Host) -> None:
    with pytest.raises(TimeoutError):
        await host.call(slow, Text("0.4"), timeout=0.05)
    assert await host.call(add, Pair(1, 1)) == Sum(2, os.getuid())


async def test_descriptors_nobody_waits_for_are_closed() -> None:
    """An answer after its deadline must not leak the descriptor it carries."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=serve, args=(ours, ALLOWED), kwargs={"threads": 1})
    thread.start()
    host = ChannelHost(theirs)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        call = asyncio.ensure_future(host.call_fd(open_pipe, Text("late")))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await host.call(add, Pair(1, 1))
    assert len(os.listdir("/proc/self/fd")) == before
    host.close()
    thread.join(10)
    ours.close()
    with pytest.raises(HostError, match="gone"):
        await host.call(add, Pair(1, 1))


# -- the three processes ------------------------------------------------------------------------------


def _run(main: Callable[[ChannelHost], int | None], report: Path) -> subprocess.Popen[bytes]:
    """Start the privileged parent with ``main`` of this module as its worker, in an interpreter of its own."""
    report.touch()
    report.chmod(0o666)
    report.parent.chmod(0o777)
    for folder in report.parents:
        folder.chmod(folder.stat().st_mode | 0o011)
    code = (
        "import sys, functools; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "import test_host as t\n"
        "sys.exit(t.run_privileged(functools.partial(getattr(t, sys.argv[3]), sys.argv[4]),"
        " user=t.USER, operations=t.ALLOWED))"
    )
    source = str(Path(run_privileged.__code__.co_filename).parents[3])
    argv = [sys.executable, "-c", code, str(Path(__file__).parent), source, main.__name__, str(report)]
    with report.with_suffix(".err").open("wb") as errors:
        return subprocess.Popen(argv, stderr=errors, start_new_session=True)


def _said(report: Path) -> str:
    return report.with_suffix(".err").read_text()


def _lines(report: Path, count: int) -> list[str]:
    deadline = time.monotonic() + 20
    while len(lines := report.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, lines
        time.sleep(0.02)
    return lines


def _say(report: str, text: str) -> None:
    with open(report, "a") as file:
        file.write(text + "\n")


def once(report: str, host: ChannelHost) -> int:
    answer = asyncio.run(host.call(add, Pair(20, 22)))
    _say(report, f"{os.getuid()} {answer.uid} {answer.sum}")
    with open("/proc/self/status") as file:
        wanted = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
        found = dict(line.split(":\t") for line in file.read().splitlines() if line.startswith(wanted))
    _say(report, " ".join(f"{name}={value.lstrip('0') or '0'}" for name, value in found.items()))
    _say(report, f"{os.umask(0):o} {sorted(os.getgroups())}")
    return 7


def crash_twice(report: str, host: ChannelHost) -> int:
    _say(report, str(os.getpid()))
    with open(report) as file:
        turn = len(file.readlines())
    if turn == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if turn == 2:
        raise RuntimeError("the second turn")
    return asyncio.run(host.call(add, Pair(turn, 0))).sum


def lose_operator(report: str, host: ChannelHost) -> int:
    async def main() -> None:
        try:
            await host.call(vanish, Text("3"))
        except HostError as error:
            _say(report, str(error))
            await asyncio.sleep(60)

    with open(report) as file:
        if file.read():
            return 0
    asyncio.run(main())
    return 9


def until_told(report: str, host: ChannelHost) -> int:
    async def main() -> int:
        told: asyncio.Queue[str] = asyncio.Queue()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, told.put_nowait, number.name)
        _say(report, str(os.getpid()))
        while (name := await told.get()) == "SIGHUP":
            _say(report, name)
        _say(report, name)
        return (await host.call(add, Pair(1, 4))).sum

    return asyncio.run(main())


def forever_failing(report: str, host: ChannelHost) -> int:
    _say(report, "again")
    raise RuntimeError("as always")


def forever_killed(report: str, host: ChannelHost) -> int:
    _say(report, "again")
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@needs_root
def test_the_worker_has_no_privilege_and_its_status_is_returned(tmp_path: Path) -> None:
    process = _run(once, report := tmp_path / "report")  # type: ignore[arg-type]
    assert process.wait(20) == 7, _said(report)
    identity, capabilities, umask = _lines(report, 3)
    assert identity == f"{pwd.getpwnam(USER).pw_uid} 0 42"
    assert capabilities == "CapInh=0 CapPrm=0 CapEff=0 CapBnd=0 CapAmb=0 NoNewPrivs=1"
    assert umask == f"27 [{pwd.getpwnam(USER).pw_gid}]"


@needs_root
def test_a_worker_that_dies_is_started_again_with_a_channel_that_works(tmp_path: Path) -> None:
    process = _run(crash_twice, report := tmp_path / "report")  # type: ignore[arg-type]
    assert process.wait(20) == 3
    assert len(set(_lines(report, 3))) == 3
    said = _said(report)
    assert "the worker died: it was ended by SIGKILL" in said
    assert "RuntimeError: the second turn" in said


@needs_root
def test_a_lost_operator_starts_both_again(tmp_path: Path) -> None:
    process = _run(lose_operator, report := tmp_path / "report")  # type: ignore[arg-type]
    assert process.wait(20) == 0
    assert _lines(report, 1) == ["the privileged parent is gone"]


@needs_root
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on_for_a_graceful_stop(tmp_path: Path, told: signal.Signals) -> None:
    process = _run(until_told, report := tmp_path / "report")  # type: ignore[arg-type]
    _lines(report, 1)
    process.send_signal(signal.SIGHUP)
    _lines(report, 2)
    process.send_signal(told)
    assert process.wait(20) == 5  # the operator still answered during the stop
    assert _lines(report, 3)[1:] == ["SIGHUP", told.name]


@needs_root
def test_the_death_of_the_supervisor_ends_the_worker(tmp_path: Path) -> None:
    process = _run(until_told, report := tmp_path / "report")  # type: ignore[arg-type]
    worker = int(_lines(report, 1)[0])
    process.kill()
    assert _lines(report, 2)[1] == "SIGTERM"
    process.wait(20)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}/stat").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{worker}/stat").exists()


@needs_root
def test_a_worker_that_always_fails_is_given_up(tmp_path: Path) -> None:
    process = _run(forever_failing, report := tmp_path / "report")  # type: ignore[arg-type]
    try:
        assert process.wait(60) == os.EX_SOFTWARE
    finally:
        process.kill()
    assert _lines(report, 5) == ["again"] * 5


@needs_root
def test_a_worker_that_is_killed_is_started_again_until_we_are_told_to_stop(tmp_path: Path) -> None:
    process = _run(forever_killed, report := tmp_path / "report")  # type: ignore[arg-type]
    try:
        _lines(report, 4)
        process.terminate()
        assert process.wait(20) in (128 + signal.SIGTERM, 128 + signal.SIGKILL)
    finally:
        process.kill()


def _restarts(lives: list[tuple[float, bool]]) -> list[float | None]:
    """The delays after workers that lived so many seconds, each ended by an exception or not."""
    now = 1000.0
    restarts, delays = Restarts(lambda: now), []
    for seconds, crashed in lives:
        restarts.begun()
        now += seconds
        delays.append(restarts.ended(crashed=crashed))
        now += delays[-1] or 0.0
    return delays


def test_a_worker_that_dies_again_soon_is_started_ever_later() -> None:
    assert _restarts([(1.0, False)] * 9) == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
    assert _restarts([(3600.0, False)] * 4) == [0.2] * 4
    assert _restarts([(1.0, False), (1.0, False), (60.0, False), (1.0, False)]) == [0.2, 0.4, 0.2, 0.4]
    assert _restarts([(0.1, False)] * 5000)[-1] == 10.0


def test_only_a_worker_that_fails_by_itself_is_given_up() -> None:
    assert _restarts([(1.0, True)] * 5) == [0.2, 0.4, 0.8, 1.6, None]
    assert _restarts([(1.0, True)] * 4 + [(1.0, False)] + [(1.0, True)] * 4)[-1] == 10.0
    assert None not in _restarts([(11.0, True)] * 20)


def test_a_death_is_told_in_words() -> None:
    now = 0.0
    restarts = Restarts(lambda: now)
    for seconds, status, told in (
        (2.5, -signal.SIGKILL, "the worker died: it was ended by SIGKILL after 2.5 s"),
        (0.1, CRASHED, "the worker died: it ended with status 70 after 0.1 s, death 2 in a row"),
    ):
        restarts.begun()
        now += seconds
        restarts.ended(crashed=status == CRASHED)
        assert restarts.told(status) == told


def test_unprivileged_start_and_unknown_user_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(HostError, match="useradd --system nobody-of-that-name"):
        run_privileged(lambda host: 0, user="nobody-of-that-name", operations={})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(HostError, match="as root"):
        run_privileged(lambda host: 0, user=USER, operations={})


# -- pools and programs ---------------------------------------------------------------------------------


async def test_a_pool_is_bounded_and_its_deadline_counts_the_queue() -> None:
    pool = Pool("test", 1)
    release = threading.Event()
    began: list[str] = []
    stuck = asyncio.create_task(pool.run(release.wait, 10, timeout=0.1))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await pool.run(began.append, "never", timeout=0.2)
    with pytest.raises(TimeoutError):
        await stuck
    assert pool.abandoned == 1
    release.set()
    await pool.run(began.append, "now", timeout=60)
    assert began == ["now"]
    assert pool.abandoned == 0
    pool.close()


async def test_an_inline_pool_needs_no_thread() -> None:
    assert await Pool("inline", 0).run(threading.get_ident) == threading.get_ident()


async def test_programs_get_input_and_give_output() -> None:
    assert await run_program(["cat"], input=b"x" * 200_000, timeout=60) == Completed(0, b"x" * 200_000, b"")
    failed = await run_program(["sh", "-c", "echo oops >&2; exit 3"], timeout=60, check=False)
    assert failed == Completed(3, b"", b"oops\n")
    with pytest.raises(ProgramFailed, match="sh ended with status 3: oops"):
        await run_program(["sh", "-c", "echo oops >&2; exit 3"], timeout=60)
    with pytest.raises(ProgramFailed, match="No such file"):
        await run_program(["/no/such/program"], timeout=60)


async def test_a_program_past_its_deadline_dies_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(TimeoutError):
        await run_program(["sh", "-c", f"sleep 300 & echo $! >{note}; wait"], timeout=3)
    status = Path(f"/proc/{int(note.read_text())}/status")
    deadline = time.monotonic() + 60
    while status.exists() and "State:\tZ" not in status.read_text() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert not status.exists() or "State:\tZ" in status.read_text()


async def test_programs_are_limited() -> None:
    limited = await run_program(["sh", "-c", "ulimit -t"], timeout=60, limits={"cpu": 7})
    assert limited.stdout == b"7\n"
    with pytest.raises(ProgramFailed, match="more than 1000 bytes"):
        await run_program(["cat", "/dev/zero"], timeout=60, output_limit=1000)
