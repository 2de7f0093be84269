# SPDX-License-Identifier: Apache-2.0
"""The metadata API, as the proxy of a network asks it for a guest."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from cumulet.client.transport import LocalTransport
from cumulet.kernel.secrets import derive
from cumulet.network.drivers.bridge.metadata import signature
from tests.cloud import Reply
from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@home"


class Guest:
    """A guest behind its network's proxy."""

    def __init__(self, world: World, server: dict[str, Any]) -> None:
        self.world, self.server = world, server
        self.address = server["addresses"]["private"][0]["addr"]

    def headers(self, **changes: str) -> dict[str, str]:
        return {**self.signed(self.address), **changes}

    def signed(self, address: str, host: str = "") -> dict[str, str]:
        """What the proxy of a host (of the guest's, unless named) says of a request from an address."""
        parts = self.world.cloud.cloud.parts
        host = host or parts.host
        key = derive(parts.secrets.get("metadata"), host)
        return {
            "X-Forwarded-For": address,
            "X-Neutron-Network-ID": self.world.network,
            "X-Cumulet-Host": host,
            "X-Cumulet-Signature": signature(key, self.world.network, address),
        }

    async def ask(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET", body: bytes = b""
    ) -> Reply:
        app = self.world.cloud.cloud.parts.options["metadata_app"]
        sent = self.headers() if headers is None else headers
        reply = await LocalTransport(app, "", "metadata").send(method, path, sent, body)
        return Reply(reply.status, reply.headers, await reply.read())


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guest(world: World) -> AsyncIterator[Guest]:
    await world.demo.post("/os-keypairs", {"keypair": {"name": "meta", "public_key": PUBLIC}})
    data = base64.b64encode(b"#!/bin/sh\ntrue\n").decode()
    server = await world.active(name="Asks Itself", key_name="meta", user_data=data, metadata={"role": "db"})
    yield Guest(world, server)
    await world.demo.gone(server["id"])
    await world.demo.delete("/os-keypairs/meta")


async def test_meta_data(world: World, guest: Guest) -> None:
    reply = await guest.ask("/openstack/latest/meta_data.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    told = reply.json
    assert (told["uuid"], told["name"], told["hostname"]) == (
        guest.server["id"],
        "Asks Itself",
        "asks-itself.novalocal",
    )
    assert (told["meta"], told["project_id"]) == ({"role": "db"}, world.demo.project_id)
    assert told["public_keys"] == {"meta": PUBLIC}
    assert told["availability_zone"] == "nova"
    assert len(base64.b64decode(told["random_seed"])) == 512
    old = (await guest.ask("/openstack/2012-08-10/meta_data.json")).json
    assert not {"project_id", "random_seed", "devices"} & set(old)


async def test_the_other_documents(guest: Guest) -> None:
    assert (await guest.ask("/openstack/latest/user_data")).data == b"#!/bin/sh\ntrue\n"
    network = (await guest.ask("/openstack/latest/network_data.json")).json
    assert [link["vif_id"] for link in network["links"]]
    assert network["networks"][0]["network_id"] == guest.world.network
    listed = (await guest.ask("/openstack/latest/")).data.decode().split()
    assert {"meta_data.json", "user_data", "network_data.json", "vendor_data.json", "password"} <= set(listed)
    assert "latest" in (await guest.ask("/openstack")).data.decode().split()
    assert (await guest.ask("/openstack/2012-08-10/network_data.json")).status == 404
    assert (await guest.ask("/openstack/1999-01-01")).status == 404
    assert (await guest.ask("/metadata/openstack/latest/meta_data.json")).status == 200


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/latest", "meta-data/\nuser-data"),
        ("/latest/user-data", "#!/bin/sh\ntrue\n"),
        ("/latest/meta-data/local-hostname", "asks-itself.novalocal"),
        ("/2009-04-04/meta-data/instance-type", "m1.nano"),
        ("/latest/meta-data/public-keys", "0=meta"),
        ("/latest/meta-data/public-keys/0", "openssh-key"),
        ("/latest/meta-data/public-keys/0/openssh-key", PUBLIC),
        ("/latest/meta-data/placement/availability-zone", "nova"),
        ("/latest/meta-data/block-device-mapping/root", "/dev/vda"),
    ],
)
async def test_the_ec2_tree(guest: Guest, path: str, found: str) -> None:
    reply = await guest.ask(path)
    assert (reply.status, reply.data.decode()) == (200, found)


async def test_ec2_knows_the_address_and_the_listing(guest: Guest) -> None:
    assert (await guest.ask("/latest/meta-data/local-ipv4")).data.decode() == guest.address
    listed = (await guest.ask("/latest/meta-data/")).data.decode().splitlines()
    assert {"instance-id", "hostname", "public-keys/", "placement/"} <= set(listed)
    assert (await guest.ask("/latest/meta-data/secrets")).status == 404
    assert (await guest.ask("/latest/meta-data/public-keys/0/_name")).status == 404


async def test_a_password_is_left_once(guest: Guest) -> None:
    path = "/openstack/2013-04-04/password"
    assert (await guest.ask(path)).data == b""
    assert (await guest.ask(path, method="POST", body=b"x" * 2000)).status == 413
    assert (await guest.ask(path, method="POST", body=b"c2VhbGVk")).status == 200
    assert (await guest.ask(path)).data == b"c2VhbGVk"
    assert (await guest.ask(path, method="POST", body=b"again")).status == 409
    assert (await guest.ask("/openstack/latest/user_data", method="DELETE")).status == 405


@pytest.mark.parametrize(
    "changes",
    [
        {"X-Cumulet-Signature": "0" * 64},
        {"X-Cumulet-Signature": ""},
        {"X-Forwarded-For": "10.20.0.1"},
        {"X-Cumulet-Host": "another"},
        {"X-Cumulet-Host": ""},
        {"X-Neutron-Network-ID": "11111111-1111-4111-8111-111111111111"},
    ],
)
async def test_without_a_good_signature_there_is_nothing(guest: Guest, changes: dict[str, str]) -> None:
    reply = await guest.ask("/openstack/latest/meta_data.json", guest.headers(**changes))
    assert reply.status == 404
    assert guest.server["id"] not in reply.data.decode()


async def test_a_signed_address_without_a_server_gets_nothing(world: World, guest: Guest) -> None:
    for address in ("10.20.0.254", "not-an-address", "%"):
        assert (await guest.ask("/openstack/latest/meta_data.json", guest.signed(address))).status == 404


async def test_another_host_does_not_speak_for_the_guest(guest: Guest) -> None:
    """Its signature is good, but the guest is not on it, and it does not serve the guest's network."""
    reply = await guest.ask("/openstack/latest/meta_data.json", guest.signed(guest.address, "another"))
    assert reply.status == 404
    assert guest.server["id"] not in reply.data.decode()
