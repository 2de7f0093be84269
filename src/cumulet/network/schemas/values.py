# SPDX-License-Identifier: Apache-2.0
"""The value types of the network API: each turns what was sent into its canonical form or says why not.

A converter raises ValueError with the published reason; it is total over JSON,
so nothing that a client sends reaches the logic unchecked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from cumulet.kernel import ids

Convert = Callable[[Any], Any]
_MAC = re.compile(r"^([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}$")
_LABEL = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
_TRUE, _FALSE = ("true", "1", "on", "yes", "y", "t"), ("false", "0", "off", "no", "n", "f")
PROTOCOLS = {
    "ah": 51, "dccp": 33, "egp": 8, "esp": 50, "gre": 47, "hopopt": 0, "icmp": 1, "icmpv6": 58, "igmp": 2, "ip": 0,
    "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60,
    "ipv6-route": 43, "ospf": 89, "pgm": 113, "rsvp": 46, "sctp": 132, "tcp": 6, "udp": 17, "udplite": 136,
    "vrrp": 112,
}  # fmt: skip
"""Names that a security group rule may give for IANA protocol numbers."""


def text(limit: int = 255) -> Convert:
    """A string of at most ``limit`` characters."""

    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"'{value}' is not a valid string")
        if len(value) > limit:
            raise ValueError(f"'{value}' exceeds maximum length of {limit}")
        if "\x00" in value:
            raise ValueError("a NUL is not allowed")
        return value

    return convert


def filled(value: Any) -> str:
    """A name that is not empty."""
    name: str = text()(value)
    if not name.strip():
        raise ValueError(f"'{value}' Blank strings are not permitted")
    return name


def optional(convert: Convert) -> Convert:
    """The same, or null."""
    return lambda value: None if value is None else convert(value)


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if isinstance(value, str | int) and word in _TRUE:
        return True
    if isinstance(value, str | int) and word in _FALSE:
        return False
    raise ValueError(f"'{value}' cannot be converted to boolean")


def integer(low: int | None = None, high: int | None = None) -> Convert:
    def convert(value: Any) -> int:
        try:
            if isinstance(value, bool | float):
                raise TypeError
            number = int(value)
        except (TypeError, ValueError):
            raise ValueError(f"'{value}' is not an integer") from None
        if low is not None and number < low:
            raise ValueError(f"'{number}' is too small - must be at least '{low}'")
        if high is not None and number > high:
            raise ValueError(f"'{number}' is too large - must be no larger than '{high}'")
        return number

    return convert


def uuid(value: Any) -> str:
    if not ids.is_uuid(value):
        raise ValueError(f"'{value}' is not a valid UUID")
    return str(value)


def choice(*values: Any) -> Convert:
    def convert(value: Any) -> Any:
        if value not in values:
            raise ValueError(f"'{value}' is not in {list(values)}")
        return value

    return convert


def mac(value: Any) -> str:
    if not isinstance(value, str) or not _MAC.match(value):
        raise ValueError(f"'{value}' is not a valid MAC address")
    canonical = value.replace("-", ":").lower()
    if canonical == "00:00:00:00:00:00" or int(canonical[:2], 16) & 1:
        raise ValueError(f"'{value}' is not a valid MAC address")
    return canonical


def address(value: Any) -> str:
    """An IP address in canonical text."""
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"'{value}' is not a valid IP address") from None


def cidr(value: Any) -> str:
    """A subnet in canonical text; host bits are cleared as published."""
    try:
        if not isinstance(value, str) or "/" not in value:
            raise ValueError
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(f"'{value}' is not a valid IP subnet") from None


def items(convert: Convert, limit: int = 1000) -> Convert:
    """A list (null is an empty one) of distinct values."""

    def of_list(value: Any) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise ValueError(f"'{value}' is not a list")
        if len(value) > limit:
            raise ValueError(f"more than {limit} items in the list")
        found: list[Any] = []
        for one in value:
            done = convert(one)
            if done in found:
                raise ValueError(f"Duplicate items in the list: '{one}'")
            found.append(done)
        return found

    return of_list


def members(required: dict[str, Convert], optional: dict[str, Convert] | None = None) -> Convert:
    """An object with exactly these members."""
    more = optional or {}

    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"Invalid input. '{value}' must be a dictionary with keys: {list(required)}")
        if not set(required) <= set(value) <= {*required, *more}:
            raise ValueError(
                f"Validation of dictionary's keys failed. Expected keys: {sorted({*required, *more})} "
                f"Provided keys: {sorted(value)}"
            )
        return {name: (required.get(name) or more[name])(one) for name, one in value.items()}

    return convert


pool = members({"start": address, "end": address})
host_route = members({"destination": cidr, "nexthop": address})
fixed_ip = members({}, {"subnet_id": uuid, "ip_address": address})


def fixed_ips(value: Any) -> list[dict[str, str]]:
    """Addresses asked for: each names a subnet, an address, or both."""
    found: list[dict[str, str]] = []
    if not isinstance(value, list):
        raise ValueError(f"Invalid data format for fixed IP: '{value}'")
    for one in value:
        if not isinstance(one, dict):
            raise ValueError(f"Invalid data format for fixed IP: '{one}'")
        given = fixed_ip({name: sent for name, sent in one.items() if sent is not None})
        if given.get("ip_address") and given["ip_address"] in [other.get("ip_address") for other in found]:
            raise ValueError(f"Duplicate IP address '{given['ip_address']}'")
        found.append(given)
    return found


def network_or_address(value: Any) -> str:
    """An address or a subnet, each in canonical text."""
    try:
        return address(value)
    except ValueError:
        pass
    try:
        return cidr(value)
    except ValueError:
        raise ValueError(f"'{value}' is neither a valid IP address, nor is it a valid IP subnet") from None


def address_pair(value: Any) -> dict[str, str]:
    if isinstance(value, dict) and "ip_address" not in value:
        raise ValueError("AllowedAddressPair must contain ip_address")
    return dict(members({"ip_address": network_or_address}, {"mac_address": optional(mac)})(value))


def mapping(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"'{value}' is not a dictionary")
    return value


def gateway_info(value: Any) -> dict[str, Any] | None:
    """A router's way out; null and {} take it away."""
    if not value:
        return None
    wanted = members({"network_id": uuid}, {"enable_snat": boolean, "external_fixed_ips": fixed_ips})
    return dict(wanted(value))


def protocol(value: Any) -> str | None:
    """A protocol's name or number as text; null and ``any`` are all protocols."""
    if value is None or value == "any":
        return None
    word = str(value).lower()
    if (word.isdigit() and int(word) <= 255) or word in PROTOCOLS:
        return word
    raise ValueError(f"Security group rule protocol {value} not supported. Only protocol values "
                     f"{list(PROTOCOLS)} and integer representations [0 to 255] are supported.")  # fmt: skip


def port(value: Any) -> int:
    """A port of a rule, or an ICMP type or code."""
    try:
        return int(integer(0, 65535)(value))
    except ValueError:
        raise ValueError(f"Invalid value for port {value}") from None


def ethertype(value: Any) -> str:
    for known in ("IPv4", "IPv6"):
        if str(value).lower() == known.lower():
            return known
    raise ValueError(f"'{value}' is not in ['IPv4', 'IPv6']")


def prefix(value: Any) -> str | None:
    """The far side of a rule as it was given; an address alone is that one host."""
    if not value:
        return None
    try:
        return str(ipaddress.ip_interface(value)) if isinstance(value, str) else cidr(value)
    except ValueError:
        raise ValueError(f"Invalid CIDR {value} given as IP prefix.") from None


def dns_name(value: Any) -> str:
    """A host name or a fully qualified one, in lower case; null and '' are none."""
    name = sentence(value).lower()
    if name and not all(_LABEL.match(label) for label in name.removesuffix(".").split(".")):
        raise ValueError(f"'{value}' not a valid PQDN or FQDN. Reason: a label is not valid")
    return name


def dns_domain(value: Any) -> str:
    """A fully qualified domain, which ends with a dot; null and '' are none."""
    name = dns_name(value)
    if name and not name.endswith("."):
        raise ValueError(f"'{value}' is not a FQDN")
    return name


def oneline(value: Any) -> str:
    word = text(60)(value)
    if not word or "\n" in word:
        raise ValueError(f"'{value}' is not a valid tag")
    return str(word)


def sentence(value: Any) -> str:
    return "" if value is None else str(text()(value))


_OPTION = re.compile(r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$")
_VALUE = re.compile(r"^[\x20-\x7e]{0,255}$")
BLANKABLE = ("router", "classless-static-route")
"""DHCP options that an empty value takes out of the answer."""


def dhcp_options(value: Any) -> list[dict[str, Any]]:
    """``[{"opt_name", "opt_value", "ip_version"}, …]``; a null value is for taking the option back."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for one in items(mapping)(value if value is not None else []):
        name, text_, version = one.get("opt_name"), one.get("opt_value"), integer()(one.get("ip_version", 4))
        if surplus := sorted(set(one) - {"id", "opt_name", "opt_value", "ip_version"}):
            raise ValueError(f"Unexpected keys supplied: {', '.join(surplus)}")
        if not isinstance(name, str) or not _OPTION.match(name):
            raise ValueError(f"'{name}' is not the name or number of a DHCP option")
        if "opt_value" not in one or not (text_ is None or (isinstance(text_, str) and _VALUE.match(text_))):
            raise ValueError(f"'{text_}' is not the value of a DHCP option")
        if version not in (4, 6):
            raise ValueError(f"'{version}' is not in [4, 6]")
        found[name, version] = {"opt_name": name, "opt_value": text_, "ip_version": version}
    return list(found.values())


def rbac_type(value: Any) -> str:
    """What an RBAC policy may be about."""
    kind = str(value).strip().lower()
    if kind != "network":
        raise ValueError(f"'{value}' is not a valid RBAC object type")
    return kind


_PROJECT_ID = re.compile(r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$")


def target_project(value: Any) -> str:
    """The project that an RBAC policy is for, or ``*``."""
    if value != "*" and not (isinstance(value, str) and _PROJECT_ID.match(value)):
        raise ValueError(f"'{value}' is not a valid target project ID; expected a UUID or '*'")
    return str(value)
