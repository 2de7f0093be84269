# SPDX-License-Identifier: Apache-2.0
"""Names of everything the driver makes, and the checks of every value that reaches a command or the kernel.

Invariant: a name is derived from the cloud and the object only, so a repeated
plan finds its own work, two clouds on one machine never collide, and
``purge`` knows its own. Values are parsed and printed again in canonical form;
what cannot be parsed is refused, so no text of a plan is ever passed through.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re

from cumulet.kernel.host.model import HostError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Range = ipaddress.IPv4Network | ipaddress.IPv6Network
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

METADATA = "169.254.169.254"

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_TAP = re.compile(r"tap[0-9A-Za-z_-]{1,12}")
_HOSTNAME = re.compile(r"[0-9a-z]([0-9a-z-]{0,61}[0-9a-z])?")
_OPTION = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,63}")
_LINE = re.compile(r"[\x20-\x7e]{0,255}")
_DOMAIN = re.compile(r"[0-9a-z]([0-9a-z.-]{0,250}[0-9a-z])?")


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


class Names:
    """The names of one cloud's things on this machine; link names have at most 15 characters."""

    def __init__(self, cloud: str) -> None:
        digest = _digest(cloud, 5)
        self.prefix = f"c{digest}"
        self.table = f"cumulet-{digest}"
        self.bridges = f"{self.prefix}b*"
        """The nftables wildcard that matches every bridge of this cloud."""
        self.metric = 4_000_000_000 + int(digest, 16)
        """The metric of this cloud's blackhole routes: worse than any other route, and its own."""
        self.directory = f"/run/cumulet/net/{self.prefix}"
        self.link_pattern = re.compile(rf"{self.prefix}[bvdr][0-9a-f]{{8}}")

    def bridge(self, network_id: str) -> str:
        return f"{self.prefix}b{_digest(network_id, 8)}"

    def tunnel(self, network_id: str) -> str:
        return f"{self.prefix}v{_digest(network_id, 8)}"

    def dhcp_link(self, network_id: str) -> str:
        return f"{self.prefix}d{_digest(network_id, 8)}"

    def router_link(self, router_id: str, port_id: str) -> str:
        return f"{self.prefix}r{_digest(f'{router_id} {port_id}', 8)}"

    def dhcp_namespace(self, network_id: str) -> str:
        return f"{self.prefix}-qdhcp-{network_id}"

    def router_namespace(self, router_id: str) -> str:
        return f"{self.prefix}-qrouter-{router_id}"

    def alias(self, kind: str, *parts: str) -> str:
        """The link alias that says whose a link is and for what, e.g. ``cumulet:c12345:port:<id>``."""
        return ":".join(["cumulet", self.prefix, kind, *parts])


def inner_link(port_id: str, *, gateway: bool = False) -> str:
    """The name of a router's interface inside its namespace."""
    return f"{'qg' if gateway else 'qr'}-{_digest(port_id, 10)}"


def chain(port_id: str) -> str:
    """The part of a chain's name that says which port it belongs to."""
    return _digest(port_id, 12)


def _refuse(what: str, text: object) -> HostError:
    return HostError(f"not {what}: {str(text)[:80]!r}")


def identifier(text: str) -> str:
    if not _ID.fullmatch(text):
        raise _refuse("an id", text)
    return text


def mac_address(text: str) -> str:
    if not _MAC.fullmatch(lowered := text.lower()) or int(lowered[1], 16) & 1:
        raise _refuse("a unicast MAC address", text)
    return lowered


def tap_name(text: str) -> str:
    if not _TAP.fullmatch(text):
        raise _refuse("the name of a tap", text)
    return text


def hostname(text: str) -> str:
    if not _HOSTNAME.fullmatch(lowered := text.lower()):
        raise _refuse("a host name", text)
    return lowered


def domain(text: str) -> str:
    if not _DOMAIN.fullmatch(lowered := text.lower().rstrip(".")):
        raise _refuse("a domain", text)
    return lowered


def option_name(text: str) -> str:
    """The name or number of a DHCP option."""
    if not _OPTION.fullmatch(text):
        raise _refuse("a DHCP option", text)
    return text


def option_value(text: str) -> str:
    """What a DHCP option says: one line of printable ASCII."""
    if not _LINE.fullmatch(text):
        raise _refuse("the value of a DHCP option", text)
    return text


def address(text: str) -> Address:
    try:
        if "%" in text:
            raise ValueError
        return ipaddress.ip_address(text)
    except ValueError:
        raise _refuse("an address", text) from None


def cidr(text: str) -> Range:
    """A range; host bits are cleared, a lone address is a range of one."""
    try:
        if "%" in text:
            raise ValueError
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise _refuse("a range of addresses", text) from None


def interface(text: str) -> Interface:
    """An address with the length of its prefix."""
    try:
        if "%" in text:
            raise ValueError
        return ipaddress.ip_interface(text)
    except ValueError:
        raise _refuse("an address with a prefix", text) from None


def number(value: int, low: int, high: int, what: str) -> int:
    if not low <= value <= high:
        raise _refuse(f"{what} of {low} to {high}", value)
    return value


def link_local(mac: str) -> str:
    """The IPv6 link-local address that belongs to a MAC address (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    packed = b"\xfe\x80" + bytes(6) + bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.IPv6Address(packed))
