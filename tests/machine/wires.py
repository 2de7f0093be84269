# SPDX-License-Identifier: Apache-2.0
"""A host of cardboard: namespaces that stand for a machine, its uplink, and guests on its taps.

Everything lives in namespaces of this test run; no packet can reach a network
of the real machine. The privileged side of the driver runs as a process of its
own inside the machine's namespace and is spoken to over the real channel.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cumulet
from cumulet.kernel.host import ChannelHost
from cumulet.network.drivers.bridge import links

_numbers = itertools.count(1)
_ETHERNET, _ALL = 1514, 0x0003


def run(*argv: str, check: bool = True, timeout: float = 60.0) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def within(seconds: float, what: Callable[[], object]) -> bool:
    """Whether ``what`` becomes true in time (a real process or kernel is being waited for)."""
    deadline = time.monotonic() + seconds
    while not (done := what()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(done)


def eventually(what: Callable[[], object], seconds: float = 60.0) -> None:
    assert within(seconds, what)


def reached(*pings: tuple[Space, str]) -> list[str]:
    """Ping all at once; the targets that answered."""
    running = [
        (to, subprocess.Popen(["ip", "netns", "exec", space.name, *_PING, to], stdout=subprocess.PIPE, text=True))
        for space, to in pings
    ]
    return [to for to, process in running if " 0% packet loss" in process.communicate(timeout=30)[0]]


_PING = ("busybox", "ping", "-c", "1", "-W", "1")


class Space:
    """A network namespace with ways to act in it."""

    def __init__(self, label: str) -> None:
        self.name = f"ct{os.getpid()}-{next(_numbers)}{label}"
        run("ip", "netns", "add", self.name)
        self("ip", "link", "set", "lo", "up")

    def __call__(self, *argv: str, check: bool = True, timeout: float = 60.0) -> str:
        return run("ip", "netns", "exec", self.name, *argv, check=check, timeout=timeout)

    def remove(self) -> None:
        run("ip", "netns", "delete", self.name, check=False)

    def ping(self, to: str, count: int = 1, *more: str) -> bool:
        return " 0% packet loss" in self(
            "busybox", "ping", "-c", str(count), "-W", "1", *more, to, check=False, timeout=60
        )

    def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        """A socket that lives in the namespace."""
        with links.inside(self.name):
            return socket.socket(family, kind, protocol)

    @contextmanager
    def listening(self, port: int, address: str = "") -> Iterator[socket.socket]:
        """Accept TCP connections and answer each with the peer's address, then echo."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.open_socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen()

            def echo(connection: socket.socket, peer: tuple[str, int]) -> None:
                with connection:
                    try:
                        connection.sendall(f"{peer[0]}\n".encode())
                        while data := connection.recv(4096):
                            connection.sendall(data)
                    except OSError:
                        return

            def serve() -> None:
                while True:
                    try:
                        connection, peer = listener.accept()
                    except OSError:
                        return
                    threading.Thread(target=echo, args=(connection, peer), daemon=True).start()

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            try:
                yield listener
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join(5)

    def connect(self, to: str, port: int, *, source: tuple[str, int] | None = None, patience: float = 3.0) -> Link:
        """Open a TCP connection; raises OSError when there is none in time."""
        link = self.open_socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
        link.settimeout(patience)
        try:
            if source:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                link.bind(source)
            link.connect((to, port))
            return Link(link)
        except OSError:
            link.close()
            raise

    def reaches(self, to: str, port: int, patience: float = 0.6) -> bool:
        try:
            self.connect(to, port, patience=patience).close()
        except OSError:
            return False
        return True


class Link:
    """An open TCP connection to a ``listening`` port."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.seen_as = self._line()
        """The address that the other side saw."""

    def _line(self) -> str:
        text = b""
        while not text.endswith(b"\n"):
            part = self._socket.recv(100)
            if not part:
                break
            text += part
        return text.decode().strip()

    def alive(self, patience: float = 1.0) -> bool:
        self._socket.settimeout(patience)
        try:
            self._socket.sendall(b"hello\n")
            return self._line() == "hello"
        except OSError:
            return False

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wire:
    """Raw frames at one interface of a namespace."""

    def __init__(self, space: Space, link: str) -> None:
        self._socket = space.open_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self._socket.bind((link, _ALL))
        self.mac: bytes = self._socket.getsockname()[4]

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def frames(self, seconds: float = 0.3) -> list[bytes]:
        """What came in this time and before; not what was sent here."""
        found = []
        deadline = time.monotonic() + seconds
        while select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            frame, (_, _, kind, *_) = self._socket.recvfrom(65536)
            if kind != socket.PACKET_OUTGOING:
                found.append(frame)
        return found

    def sees(self, marker: bytes, seconds: float = 0.3) -> bool:
        return any(marker in frame for frame in self.frames(seconds))

    def close(self) -> None:
        self._socket.close()


class Guest(Space):
    """A namespace whose ``eth0`` is the far end of a link named like a port's tap."""

    def __init__(self, machine: Machine, tap: str, mac: str) -> None:
        super().__init__("guest")
        run(
            "ip",
            "-n",
            machine.space.name,
            "link",
            "add",
            tap,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.name,
        )
        self("ip", "link", "set", "eth0", "address", mac)
        self("ip", "link", "set", "eth0", "up")
        machine.spaces.append(self)
        self.mac = mac

    def have(self, address: str, gateway: str | None = None) -> Guest:
        """Configure the address by hand."""
        self("ip", "address", "replace", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        if gateway:
            self("ip", "route", "replace", "default", "via", gateway)
        return self

    def dhcp(self, folder: Path) -> dict[str, str]:
        """Ask for an address as a guest does; what came, as udhcpc names it. Raises when nothing came."""
        script, lease = folder / f"{self.name}.sh", folder / f"{self.name}.lease"
        script.write_text(f'#!/bin/sh\n[ "$1" = bound ] || exit 0\nenv > {lease}.new\nmv {lease}.new {lease}\n')
        script.chmod(0o755)
        lease.unlink(missing_ok=True)
        self(
            *("busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-t", "3", "-T", "1", "-s", str(script)),
            *("-O", "staticroutes", "-O", "mtu", "-O", "dns", "-O", "domain", "-O", "router"),
            *("-O", "tftp", "-O", "bootfile", "-O", "ntpsrv"),
        )
        found = dict(line.split("=", 1) for line in lease.read_text().splitlines() if "=" in line)
        self("ip", "address", "replace", f"{found['ip']}/{found['mask']}", "dev", "eth0")
        self("ip", "link", "set", "eth0", "mtu", found["mtu"])
        route = found.get("staticroutes", "").split()
        for to, via in itertools.zip_longest(route[::2], route[1::2]):
            self("ip", "route", "replace", to, "via", via)
        return found


class Machine:
    """One machine: its namespace, an uplink with somebody listening behind it, its privileged side."""

    def __init__(self, label: str = "host", operations: str = "cumulet.network.drivers.bridge") -> None:
        self.space = Space(label)
        self.outside = Space("outside")
        self.spaces: list[Space] = []
        run(
            *("ip", "-n", self.space.name, "link", "add", "up0", "type", "veth"),
            *("peer", "name", "far0", "netns", self.outside.name),
        )
        self.space("ip", "address", "add", "198.51.100.2/24", "dev", "up0")
        self.outside("ip", "address", "add", "198.51.100.1/24", "dev", "far0")
        self.space("ip", "link", "set", "up0", "up")
        self.outside("ip", "link", "set", "far0", "up")
        self.space("ip", "route", "add", "default", "via", "198.51.100.1")
        # The worst host there is: it routes everything, and its switch for bridge filters is off.
        self.space("busybox", "sysctl", "-w", "net.ipv4.ip_forward=1")
        self.space("busybox", "sysctl", "-w", "net.bridge.bridge-nf-call-iptables=0")
        self.space("busybox", "sysctl", "-w", "net.bridge.bridge-nf-call-ip6tables=0")
        self._operations = operations
        self.host, self._process = self._operator()

    def _operator(self) -> tuple[ChannelHost, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        code = (
            "import sys, socket, importlib; sys.path.insert(0, sys.argv[2])\n"
            "from cumulet.kernel.host import serve\n"
            "serve(socket.socket(fileno=int(sys.argv[1])), importlib.import_module(sys.argv[3]).OPERATIONS)"
        )
        source = str(Path(cumulet.__file__).parents[1])
        with links.inside(self.space.name), theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(theirs.fileno()), source, self._operations],
                pass_fds=[theirs.fileno()],
            )
        return ChannelHost(ours), process

    def kill_operator(self) -> None:
        """kill -9 the privileged side and start another."""
        self._process.kill()
        self._process.wait(10)
        self.host.close()
        self.host, self._process = self._operator()

    def uplink(self) -> Wire:
        """What can be seen of this machine from outside."""
        return Wire(self.outside, "far0")

    def guest(self, tap: str, mac: str) -> Guest:
        return Guest(self, tap, mac)

    def links(self) -> set[str]:
        return {
            line.split()[1].split("@")[0]
            for line in self.space("ip", "-o", "-br", "link").splitlines()
            for line in [f"0 {line}"]
        }

    def left_over(self) -> dict[str, object]:
        """Everything a driver might have left: for comparisons."""
        return {
            "links": self.links(),
            "rules": self.space("nft", "list", "ruleset"),
            "routes": self.space("ip", "route").replace(" linkdown", "")
            + self.space("ip", "-6", "route", "show", "type", "blackhole"),
            "namespaces": {line.split()[0] for line in run("ip", "netns").splitlines() if line.startswith("c")}
            - {space.name for space in [*self.spaces, self.space, self.outside]},
        }

    def close(self) -> None:
        self.host.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        for space in [*self.spaces, self.outside, self.space]:
            space.remove()
