# SPDX-License-Identifier: Apache-2.0
"""Links, addresses, routes and namespaces, each as an *ensure*: look, compare, change only what differs.

Runs on the privileged side only. A thread enters a namespace by ``inside`` and
is back in its own when the block ends, whatever happens; other threads are
not concerned.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import ipaddress
import os
import shutil
import struct
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cumulet.kernel.host.model import HostError
from cumulet.network.drivers.bridge.naming import Interface, Range

PROTOCOL = 218
"""The number that marks routes as ours (rtnetlink leaves 4 to 255 to user space; this one is in no registry)."""
_CLONE_NEWNET = 0x40000000
_NAMESPACES = Path("/run/netns")
_UNICAST, _BLACKHOLE = 1, 6
_LINK_SCOPE = 253
_UP = 1
_NODAD = 2


class Route(msgspec.Struct, frozen=True):
    """A route as we want it: through a gateway, or into nothing when ``via`` is None."""

    to: str
    via: str | None = None
    metric: int = 0


def program(*argv: str, text: str | None = None, accept: Collection[int] = (0,), timeout: float = 20.0) -> str:
    """Run a program (in the namespace of this thread) and return its output; raises HostError with its words."""
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=timeout, errors="replace")
    except FileNotFoundError:
        raise HostError(f"the program {argv[0]!r} is missing on this host") from None
    except subprocess.TimeoutExpired:
        raise HostError(f"{argv[0]} did not answer for {timeout:g} s") from None
    if done.returncode not in accept:
        words = " ".join((done.stderr.strip() or done.stdout.strip()).split())[:400]
        raise HostError(f"{argv[0]} ended with status {done.returncode}: {words}")
    return done.stdout


# -- namespaces ---------------------------------------------------------------------------------------


def is_namespace(name: str) -> bool:
    """Whether the name leads to a living namespace, not to the file that a crash has left."""
    try:
        return os.stat(_NAMESPACES / name).st_dev == os.stat("/proc/thread-self/ns/net").st_dev
    except FileNotFoundError:
        return False


def ensure_namespace(name: str) -> int:
    """Make the network namespace with its loopback up; return its inode, which tells a new one from the old."""
    if not is_namespace(name):
        (_NAMESPACES / name).unlink(missing_ok=True)
        program("ip", "netns", "add", name)
    with inside(name), netlink() as ip:
        ip.link("set", index=1, state="up")
    return os.stat(_NAMESPACES / name).st_ino


def drop_namespace(name: str) -> None:
    if is_namespace(name):
        program("ip", "netns", "delete", name)
    (_NAMESPACES / name).unlink(missing_ok=True)


def list_namespaces(prefix: str) -> list[str]:
    if not _NAMESPACES.is_dir():
        return []
    return sorted(entry.name for entry in _NAMESPACES.iterdir() if entry.name.startswith(prefix))


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Let this thread, and programs it starts, act in the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(_NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(there, _CLONE_NEWNET) != 0:
                raise HostError(f"cannot enter {namespace}: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(there)
        try:
            yield
        finally:
            if libc.setns(home, _CLONE_NEWNET) != 0:
                os._exit(os.EX_OSERR)  # this thread would act in the wrong place from now on
    finally:
        os.close(home)


@contextmanager
def netlink() -> Iterator[Any]:
    """A netlink socket of this thread's namespace; the kernel's refusals become HostError."""
    from pyroute2 import IPRoute, NetlinkError

    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        raise HostError(f"the kernel refused: {error.args[-1]} ({error.code})") from error


def sysctl(name: str, value: str) -> None:
    """Set a value below /proc/sys of this thread's namespace, if it differs. ``name`` has slashes."""
    path = Path("/proc/sys") / name
    if path.read_text().strip() != value:
        path.write_text(value)


# -- links --------------------------------------------------------------------------------------------


def find_link(ip: Any, name: str) -> Any:
    from pyroute2 import NetlinkError

    try:
        return ip.link("get", ifname=name)[0]
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def link_kind(link: Any) -> str | None:
    info = link.get_attr("IFLA_LINKINFO")
    return None if info is None else info.get_attr("IFLA_INFO_KIND")


def aliases(ip: Any, prefix: str) -> dict[str, str]:
    """alias -> name of every link in this namespace whose alias begins with ``prefix``."""
    found = {}
    for link in ip.get_links():
        alias = link.get_attr("IFLA_IFALIAS")
        if alias and alias.startswith(prefix):
            found[alias] = link.get_attr("IFLA_IFNAME")
    return found


def ensure_link(ip: Any, name: str, kind: str, **create: Any) -> Any:
    """Make a link of this kind if there is none of this name."""
    link = find_link(ip, name)
    if link is not None and link_kind(link) != kind:
        raise HostError(f"{name} exists already and is no {kind}")
    if link is None:
        ip.link("add", ifname=name, kind=kind, **create)
        link = find_link(ip, name)
    return link


def settle_link(
    ip: Any,
    link: Any,
    *,
    mtu: int,
    up: bool,
    alias: str | None = None,
    master: int | None = None,
    mac: str | None = None,
) -> None:
    """Bring a link's settings to what is wanted; touches only what differs."""
    wanted = {"IFLA_MTU": mtu, "IFLA_IFALIAS": alias, "IFLA_MASTER": master, "IFLA_ADDRESS": mac}
    words = {"IFLA_MTU": "mtu", "IFLA_IFALIAS": "ifalias", "IFLA_MASTER": "master", "IFLA_ADDRESS": "address"}
    change: dict[str, Any] = {
        words[key]: value for key, value in wanted.items() if value is not None and link.get_attr(key) != value
    }
    if bool(link["flags"] & _UP) != up:
        change["state"] = "up" if up else "down"
    if change:
        ip.link("set", index=link["index"], **change)


def drop_link(ip: Any, name: str) -> None:
    from pyroute2 import NetlinkError

    if (link := find_link(ip, name)) is not None:
        try:
            ip.link("del", index=link["index"])
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise


def ensure_veth(ip: Any, name: str, namespace: str, inner: str) -> Any:
    """Make a veth pair between here (``name``) and ``namespace`` (``inner``); return our end."""
    link = find_link(ip, name)
    if link is not None:
        with inside(namespace), netlink() as there:
            if find_link(there, inner) is not None:
                return link
        drop_link(ip, name)
    with open(_NAMESPACES / namespace, "rb") as target:
        ip.link("add", ifname=name, kind="veth", peer={"ifname": inner, "net_ns_fd": target.fileno()})
    return find_link(ip, name)


def ensure_tap(ip: Any, name: str, owner: int | None) -> Any:
    """Make a persistent tap that the user ``owner`` may open; an existing tap (or a test's veth) is taken as it is."""
    link = find_link(ip, name)
    if link is not None:
        if link_kind(link) not in ("tun", "veth"):
            raise HostError(f"{name} exists already and is no tap")
        return link
    # linux/if_tun.h
    set_iff, set_persist, set_owner, tap, no_packet_info = 0x400454CA, 0x400454CB, 0x400454CC, 0x0002, 0x1000
    try:
        with open("/dev/net/tun", "r+b", buffering=0) as tun:
            fcntl.ioctl(tun, set_iff, struct.pack("16sH22x", name.encode(), tap | no_packet_info))
            if owner is not None:
                fcntl.ioctl(tun, set_owner, owner)
            fcntl.ioctl(tun, set_persist, 1)
    except OSError as error:
        raise HostError(f"cannot make the tap {name}: {error.strerror}; is /dev/net/tun there?") from error
    return find_link(ip, name)


def quiet_ipv6(name: str) -> None:
    """Keep the host's own IPv6 off a link: nothing of the host may answer a guest there."""
    if Path("/proc/sys/net/ipv6").is_dir():
        sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1")


# -- addresses and routes -----------------------------------------------------------------------------


def ensure_addresses(ip: Any, index: int, wanted: Collection[Interface]) -> tuple[set[str], set[str]]:
    """Give a link exactly these addresses (IPv6 link-local ones are the kernel's); return (added, removed)."""
    want = {str(entry): entry for entry in wanted}
    have = {
        f"{entry.get_attr('IFA_LOCAL') or entry.get_attr('IFA_ADDRESS')}/{entry['prefixlen']}"
        for entry in ip.get_addr(index=index)
        if not (entry["family"] == 10 and entry["scope"] == _LINK_SCOPE)
    }
    for text in have - want.keys():
        address, _, length = text.partition("/")
        ip.addr("del", index=index, address=address, prefixlen=int(length))
    for text in want.keys() - have:
        entry = want[text]
        flags = {"flags": _NODAD} if entry.version == 6 else {}
        ip.addr("replace", index=index, address=str(entry.ip), prefixlen=entry.network.prefixlen, **flags)
    return want.keys() - have, have - want.keys()


def _our_routes(ip: Any) -> set[Route]:
    return {
        Route(
            f"{route.get_attr('RTA_DST') or ('::' if route['family'] == 10 else '0.0.0.0')}/{route['dst_len']}",  # noqa: S104
            route.get_attr("RTA_GATEWAY"),
            route.get_attr("RTA_PRIORITY") or 0,
        )
        for route in ip.get_routes(proto=PROTOCOL)
        if route["type"] in (_UNICAST, _BLACKHOLE)
    }


def _change_route(ip: Any, verb: str, route: Route) -> None:
    where = {"gateway": route.via} if route.via else {"type": "blackhole"}
    metric = {"priority": route.metric} if route.metric else {}
    ip.route(verb, dst=route.to, proto=PROTOCOL, **where, **metric)


def ensure_routes(ip: Any, wanted: Collection[Route]) -> None:
    """Make the routes of our protocol number in this namespace exactly these."""
    have = _our_routes(ip)
    want = set(wanted)
    # The kernel stores a metric of 1024 for IPv6 routes that were given none.
    same = {msgspec.structs.replace(r, metric=0) if ":" in r.to and r.metric == 1024 else r for r in have}
    for route in same - want:
        _change_route(ip, "del", route)
    for route in want - same:
        _change_route(ip, "replace", route)


def ensure_blackholes(ip: Any, ranges: Collection[Range], metric: int) -> None:
    """Make sure that packets to these ranges never follow a less specific route when nothing better is there."""
    have = {route.to for route in _our_routes(ip) if route.metric == metric}
    for entry in ranges:
        if str(entry) not in have:
            _change_route(ip, "replace", Route(str(entry), None, metric))


def drop_blackholes(ip: Any, metric: int, inside: Collection[Range] | None = None) -> None:
    """Remove the blackhole routes of this metric; with ``inside`` only those to a true part of these ranges."""
    for route in _our_routes(ip):
        to = ipaddress.ip_network(route.to)
        if route.metric != metric or route.via is not None:
            continue
        if inside is None or any(to != r and to.version == r.version and to.subnet_of(r) for r in inside):  # type: ignore[arg-type]
            _change_route(ip, "del", route)


def foreign_ranges(ip: Any, own: set[int]) -> list[tuple[Range, str]]:
    """(range, link) of every place this host reaches by other links than those with the indexes ``own``."""
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
    found: list[tuple[Range, str]] = []
    for route in ip.get_routes(table=254):
        index = route.get_attr("RTA_OIF")
        if route["type"] != _UNICAST or not route["dst_len"] or index in own or route.get_attr("RTA_DST") is None:
            continue
        found.append((ipaddress.ip_network(f"{route.get_attr('RTA_DST')}/{route['dst_len']}"), names.get(index, "?")))
    for entry in ip.get_addr():
        if entry["index"] not in own:
            text = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
            found.append((ipaddress.ip_network(text), names.get(entry["index"], "?")))
    return found


def missing_programs(names: Collection[str]) -> list[str]:
    return [name for name in names if shutil.which(name) is None]
