# SPDX-License-Identifier: Apache-2.0
"""A user of a cloud of several hosts: an image, a key, a routed network, guests where they are wanted, and a way in."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.machine.hosts import Hosts
from tests.machine.machines import Machine
from tests.machine.realcloud import IMAGE, run, until

SERVERS, VOLUMES, NETWORK = "/compute/v2.1/servers", "/volume/v3/volumes", "/network/v2.0"
GATEWAY = "172.24.4.1"
"""The public network's own address, on the host that carries the routers."""


@dataclass
class Guest:
    """One server, as its user knows it."""

    id: str
    name: str
    host: str
    port: str
    address: str
    floating: str = ""


@dataclass
class Tenant:
    """Everything of one user."""

    cloud: Hosts
    key: Path
    image: str = ""
    flavor: str = ""
    network: str = ""
    public: str = ""
    router: str = ""
    groups: dict[str, str] = field(default_factory=dict)
    guests: dict[str, Guest] = field(default_factory=dict)

    def settle_in(self) -> None:
        """An image, a key, a network with a router, and the group ``web`` that lets ssh and ping in."""
        cloud = self.cloud
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        public = self.key.with_suffix(".pub").read_text()
        cloud.make("/compute/v2.1/os-keypairs", "keypair", {"name": "mine", "public_key": public, "type": "ssh"})
        wanted = {"name": "tiny", "disk_format": "qcow2", "container_format": "bare"}
        self.image = cloud.request("POST", "/image/v2/images", wanted).json["id"]
        assert cloud.request("PUT", f"/image/v2/images/{self.image}/file", body=IMAGE.read_bytes()).status == 204
        flavors = cloud.get("/compute/v2.1/flavors")["flavors"]
        self.flavor = next(one["id"] for one in flavors if one["name"] == "m1.nano")
        self.public = cloud.get(f"{NETWORK}/networks?name=public")["networks"][0]["id"]
        self.network = cloud.make(f"{NETWORK}/networks", "network", {"name": "blue"})["id"]
        subnet = {"network_id": self.network, "cidr": "10.77.0.0/24", "ip_version": 4}
        made = cloud.make(f"{NETWORK}/subnets", "subnet", subnet)["id"]
        gateway = {"name": "north", "external_gateway_info": {"network_id": self.public}}
        self.router = cloud.make(f"{NETWORK}/routers", "router", gateway)["id"]
        joined = cloud.request("PUT", f"{NETWORK}/routers/{self.router}/add_router_interface", {"subnet_id": made})
        assert joined.status == 200, joined.data
        self.group("web", {"protocol": "icmp"}, {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22})

    def group(self, name: str, *rules: dict[str, Any]) -> None:
        made = self.cloud.make(f"{NETWORK}/security-groups", "security_group", {"name": name})["id"]
        self.groups[name] = made
        for rule in rules:
            whole = {"security_group_id": made, "direction": "ingress", **rule}
            self.cloud.make(f"{NETWORK}/security-group-rules", "security_group_rule", whole)

    def ask(self, name: str, host: str, group: str = "web", **more: Any) -> str:
        """Ask for a server on a host; returns its id at once."""
        wanted = {
            "name": name, "imageRef": self.image, "flavorRef": self.flavor, "networks": [{"uuid": self.network}],
            "key_name": "mine", "security_groups": [{"name": group}], "availability_zone": f"nova:{host}", **more,
        }  # fmt: skip
        made: str = self.cloud.make(SERVERS, "server", wanted)["id"]
        return made

    def met(self, server: str) -> Guest:
        """Wait until a server is there."""
        shown = self.cloud.settle(f"{SERVERS}/{server}", "server", ["ACTIVE"])
        port = self.cloud.get(f"{NETWORK}/ports?device_id={server}")["ports"][0]
        host = shown["OS-EXT-SRV-ATTR:host"]
        guest = Guest(server, shown["name"], host, port["id"], port["fixed_ips"][0]["ip_address"])
        self.guests[guest.name] = guest
        return guest

    def expose(self, guest: Guest) -> None:
        """Give a guest a floating IP."""
        wanted = {"floating_network_id": self.public, "port_id": guest.port}
        made = self.cloud.make(f"{NETWORK}/floatingips", "floatingip", wanted)
        self.cloud.settle(f"{NETWORK}/floatingips/{made['id']}", "floatingip", ["ACTIVE"])
        guest.floating = made["floating_ip_address"]

    # ---- the way in

    @property
    def gateway(self) -> Machine:
        """The host that carries the router: the only one where the public network is."""
        found = self._router()
        assert found is not None, "no host carries the router"
        return found[0]

    def _router(self) -> tuple[Machine, str] | None:
        """The host of the router, and the router's namespace there."""
        for machine in self.cloud.machines.values():
            for line in machine.run("ip", "netns", "list").splitlines():
                if self.router in line:
                    return machine, line.split()[0]
        return None

    def ssh(self, guest: Guest, command: str, *, within: float = 300.0) -> str:
        """What a command in the guest prints, once the guest answers: at its floating IP, or from the router."""
        argv = [
            "ssh", "-i", self.key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o",
            "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5",
            f"cirros@{guest.floating or guest.address}", command,
        ]  # fmt: skip

        def look() -> list[str] | None:
            if (router := self._router()) is None:
                return None
            machine, space = router
            within_router = [] if guest.floating else ["ip", "netns", "exec", space]
            words = machine.inside(*within_router, *map(str, argv))
            done = subprocess.run(words, capture_output=True, text=True, timeout=90, check=False)
            return [done.stdout.strip()] if done.returncode == 0 else None

        return str(until(f"ssh {guest.name} {command!r}", look, within)[0])

    def answers(self, guest: Guest, others: dict[str, int]) -> list[str]:
        """Which of the addresses answer the guest's pings of so many bytes (IP packets, whole)."""
        pings = [
            f"sudo ping -c 2 -W 3 -s {size - 28} {address} >/dev/null && echo {address}"
            for address, size in others.items()
        ]
        return self.ssh(guest, "; ".join([*pings, "true"])).split()


class Pings:
    """A stream of pings, ten a second, from a machine to an address; what was sent and never answered is told."""

    def __init__(self, machine: Machine, address: str) -> None:
        argv = machine.inside("ping", "-n", "-i", "0.1", address)
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def stop(self) -> tuple[int, list[int]]:
        """(how many were answered, which numbers were not)."""
        child = self._process.pid
        subprocess.run(["pkill", "-INT", "-P", str(child)], check=False)
        told, _ = self._process.communicate(timeout=30)
        return answers(told)


def answers(told: str) -> tuple[int, list[int]]:
    """From what `ping` printed: how many were answered, which were not (those after the last answer do not count)."""
    answered = [int(one) for one in re.findall(r"icmp_seq=(\d+) ttl", told)]
    assert len(answered) == len(set(answered)), "a ping was answered twice"
    return len(answered), sorted(set(range(1, max(answered) + 1)) - set(answered))
