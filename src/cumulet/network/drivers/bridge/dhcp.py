# SPDX-License-Identifier: Apache-2.0
"""One dnsmasq per network in a namespace of its own: static leases, routes to metadata, names.

Invariant: dnsmasq serves the plan's leases and no others, as an ordinary user,
in a session of its own that outlives us. It is found again by its pid together
with the path of its own configuration on its command line. New leases are a
SIGHUP; whatever takes a lease away is a restart, because dnsmasq would keep an
address that it once gave out.
"""

from __future__ import annotations

import os
import pwd
import select
import shutil
import signal
from pathlib import Path

import msgspec

from cumulet.kernel.files import write_whole
from cumulet.kernel.host.model import HostError
from cumulet.network.drivers.bridge import naming
from cumulet.network.drivers.bridge.links import inside, program
from cumulet.network.drivers.bridge.naming import METADATA, Address, Names
from cumulet.network.drivers.model import NetworkPlan, SubnetPlan

LINK = "dhcp0"
"""The interface inside every DHCP namespace."""
_LEASE = 86400
_USERS = ("dnsmasq", "nobody")


class Files(msgspec.Struct, frozen=True):
    """What dnsmasq reads. ``settings`` only at its start; the rest again on SIGHUP."""

    settings: str
    hosts: str
    options: str
    names: str


def server_addresses(plan: NetworkPlan) -> list[naming.Interface]:
    """The DHCP port's addresses with the prefixes of their subnets."""
    if plan.dhcp_port is None:
        return []
    subnets = [naming.cidr(subnet.cidr) for subnet in plan.subnets]
    found = []
    for text in plan.dhcp_port[2]:
        address = naming.address(text.partition("/")[0])
        home = next((entry for entry in subnets if address in entry), None)
        if home is None:
            raise HostError(f"the DHCP address {address} is in no subnet of its network")
        found.append(naming.interface(f"{address}/{home.prefixlen}"))
    return found


def render(plan: NetworkPlan, directory: Path, domain: str, place: str) -> Files:
    """dnsmasq's files for a plan whose DHCP port is on this host."""
    domain = naming.domain(domain)
    servers: list[Address] = [entry.ip for entry in server_addresses(plan)]
    settings = [
        place,
        "no-hosts",
        "no-resolv",
        "no-poll",
        "no-ping",
        f"interface={LINK}",
        "except-interface=lo",
        "bind-interfaces",
        "dhcp-authoritative",
        "leasefile-ro",
        "dhcp-leasefile=/dev/null",
        "dhcp-lease-max=65536",
        f"user={_user()}",
        f"pid-file={directory}/pid",
        f"dhcp-hostsfile={directory}/hosts",
        f"dhcp-optsfile={directory}/options",
        f"addn-hosts={directory}/names",
        f"domain={domain}",
        f"local=/{domain}/",
        "log-facility=/dev/null",
    ]
    options: list[str] = []
    for index, subnet in enumerate(entry for entry in plan.subnets if entry.dhcp):
        home = naming.cidr(subnet.cidr)
        own = next((server for server in servers if server in home), None)
        if own is None:
            continue
        tag = f"subnet{index}"
        if home.version == 4:
            settings.append(f"dhcp-range=set:{tag},{home.network_address},static,{home.netmask},{_LEASE}")
            options += _options4(subnet, tag, own, naming.number(plan.mtu, 68, 65535, "an MTU"))
        else:
            settings.append(f"dhcp-range=set:{tag},{home.network_address},static,{home.prefixlen},{_LEASE}")
            resolvers: list[Address] = [a for a in map(naming.address, subnet.dns) if a.version == 6]
            options.append(f"tag:{tag},option6:dns-server,{','.join(f'[{a}]' for a in resolvers or [own])}")
    hosts, names = [], []
    for lease in plan.leases:
        address, host = naming.address(lease.address), naming.hostname(lease.hostname)
        shown = f"[{address}]" if address.version == 6 else f"{address}"
        hosts.append(f"{naming.mac_address(lease.mac)},{shown},{host},{_LEASE}")
        if lease.options:
            tag = f"port{naming.chain(lease.port_id)}"
            # not in the host's line: dnsmasq 2.90 ends by a segmentation fault when it reads such a line again
            settings.append(f"dhcp-mac=set:{tag},{naming.mac_address(lease.mac)}")
            options += [_option(tag, address.version, *option) for option in lease.options]
        names.append(f"{address} {host}.{domain} {host}")
    return Files(*("\n".join([*lines, ""]) for lines in (settings, hosts, options, names)))


def _options4(subnet: SubnetPlan, tag: str, own: Address, mtu: int) -> list[str]:
    """What a DHCPv4 answer says besides the address (RFC 2132, RFC 3442)."""
    gateway = None if subnet.gateway is None else naming.address(subnet.gateway)
    routes = [f"{METADATA}/32,{own}"]
    routes += [f"{naming.cidr(to)},{naming.address(via)}" for to, via in subnet.host_routes]
    if gateway is not None:
        routes.append(f"0.0.0.0/0,{gateway}")  # clients that take option 121 ignore option 3
    resolvers: list[Address] = [a for a in map(naming.address, subnet.dns) if a.version == 4]
    return [
        f"tag:{tag},option:router" + (f",{gateway}" if gateway is not None else ""),
        f"tag:{tag},option:classless-static-route,{','.join(routes)}",
        f"tag:{tag},249,{','.join(routes)}",  # the same for Windows before 2008
        f"tag:{tag},option:dns-server,{','.join(map(str, resolvers or [own]))}",
        f"tag:{tag},option:mtu,{mtu}",
    ]


def _option(tag: str, version: int, name: str, value: str) -> str:
    """One option of one port; an empty value keeps what the subnet says out of the answer."""
    name, value = naming.option_name(name), naming.option_value(value)
    word = {4: "option:", 6: "option6:"}[version]
    if name.isdigit() and version == 4:
        word = ""
    return f"tag:{tag},{word}{name}" + (f",{value}" if value else "")


def _user() -> str:
    for name in _USERS:
        try:
            pwd.getpwnam(name)
            return name
        except KeyError:
            continue
    raise HostError(f"none of the users {', '.join(_USERS)} exists; dnsmasq must not run as root")


def ensure_server(names: Names, plan: NetworkPlan, domain: str, place: str) -> None:
    """Have exactly one dnsmasq serve this plan in the network's DHCP namespace, which must be there.

    ``place`` is a comment that names the very namespace and link; a dnsmasq of another place is replaced.
    """
    directory = Path(names.directory) / "dhcp" / plan.id
    directory.mkdir(parents=True, exist_ok=True)
    for folder in (directory, *directory.parents[:3]):
        folder.chmod(0o755)  # dnsmasq reads here as an ordinary user, whatever our umask is
    files = render(plan, directory, domain, place)
    for field in Files.__struct_fields__:
        if _read(directory / field) != getattr(files, field):
            _write(directory / field, getattr(files, field))
    running = find_server(directory)
    # What the process has really read is noted after it was told, so that a crash in between is made good.
    served = _served(directory) if running is not None else None
    if served is None or served.settings != files.settings or _lines(served.hosts) - _lines(files.hosts):
        (directory / "served").unlink(missing_ok=True)
        _stop(running)
        with inside(names.dhcp_namespace(plan.id)):
            program("dnsmasq", f"--conf-file={directory}/settings")
    elif running is not None:
        _signal(running, signal.SIGHUP if served != files else None)
    _write(directory / "served", msgspec.json.encode(files).decode())


def _lines(text: str) -> set[str]:
    return set(text.splitlines())


def _served(directory: Path) -> Files | None:
    try:
        return msgspec.json.decode(_read(directory / "served"), type=Files)
    except msgspec.DecodeError:
        return None


def drop_server(names: Names, network_id: str) -> None:
    directory = Path(names.directory) / "dhcp" / network_id
    _stop(find_server(directory))
    if directory.is_dir():
        shutil.rmtree(directory)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """Replace the file atomically: a SIGHUP in between reads the old or the new, never a half."""
    write_whole(path, text, mode=0o644)


# -- the process --------------------------------------------------------------------------------------


def find_server(directory: Path) -> int | None:
    """A descriptor (pidfd) of the dnsmasq that serves from this directory, None when it does not run.

    The pid file alone proves nothing: the process must be a dnsmasq that was
    started with this directory's own configuration.
    """
    try:
        pid = int(_read(directory / "pid") or 0)
        handle = os.pidfd_open(pid) if pid > 1 else -1
    except (ValueError, OSError):
        return None
    if handle < 0:
        return None
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        argv = []
    if argv and argv[0].endswith(b"dnsmasq") and f"--conf-file={directory}/settings".encode() in argv:
        return handle
    os.close(handle)
    return None


def _signal(handle: int, number: signal.Signals | None) -> None:
    try:
        if number is not None:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def _stop(handle: int | None, patience: float = 5.0) -> None:
    """End the process and wait until it has ended, so that its successor finds the port free."""
    if handle is None:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], patience)[0]:
                return
        raise HostError("dnsmasq does not end")
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)
