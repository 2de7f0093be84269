# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from tests.contract.compute.conftest import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl someone@example.org"


async def test_import_show_list_delete(world: World) -> None:
    demo = world.demo
    made = await demo.post("/os-keypairs", {"keypair": {"name": "mine@home.1", "public_key": PUBLIC}})
    assert made.status == 201
    key = made.json["keypair"]
    assert set(key) == {"name", "public_key", "fingerprint", "type", "user_id"}
    assert (key["public_key"], key["type"], len(key["fingerprint"])) == (PUBLIC, "ssh", 47)
    shown = (await demo.get("/os-keypairs/mine@home.1")).json["keypair"]
    assert {"id", "created_at", "deleted", "deleted_at", "updated_at"} <= set(shown)
    listed = (await demo.get("/os-keypairs")).json["keypairs"]
    assert {"name": "mine@home.1", "public_key": PUBLIC, "fingerprint": key["fingerprint"], "type": "ssh"} in [
        one["keypair"] for one in listed
    ]
    twice = await demo.post("/os-keypairs", {"keypair": {"name": "mine@home.1", "public_key": PUBLIC}})
    assert twice.json["conflictingRequest"]["message"] == "Key pair 'mine@home.1' already exists."
    assert (await demo.delete("/os-keypairs/mine@home.1")).status == 204
    missing = await demo.delete("/os-keypairs/mine@home.1")
    assert missing.json["itemNotFound"]["message"] == f"Keypair mine@home.1 not found for user {demo.user_id}"


async def test_a_key_is_generated_until_2_91(world: World) -> None:
    made = await world.demo.at("2.91").post("/os-keypairs", {"keypair": {"name": "made"}})
    assert made.status == 201
    key = made.json["keypair"]
    load_pem_private_key(key["private_key"].encode(), None)
    assert key["public_key"].startswith("ssh-rsa ")
    assert "private_key" not in (await world.demo.get("/os-keypairs/made")).json["keypair"]
    assert (await world.demo.post("/os-keypairs", {"keypair": {"name": "later"}})).status == 400
    assert (await world.demo.at("2.1").delete("/os-keypairs/made")).status == 202
    oldest = await world.demo.at("2.1").post("/os-keypairs", {"keypair": {"name": "made"}})
    assert (oldest.status, "type" in oldest.json["keypair"]) == (200, False)
    assert (await world.demo.at("2.1").delete("/os-keypairs/made")).status == 202


async def test_certificates(world: World) -> None:
    made = await world.demo.at("2.2").post("/os-keypairs", {"keypair": {"name": "cert", "type": "x509"}})
    assert made.status == 201
    key = made.json["keypair"]
    load_pem_x509_certificate(key["public_key"].encode())
    assert (key["type"], len(key["fingerprint"])) == ("x509", 59)
    await world.demo.delete("/os-keypairs/cert")


@pytest.mark.parametrize(
    ("version", "body"),
    [
        ("2.104", {"name": "a", "public_key": "ssh-rsa nonsense"}),
        ("2.104", {"name": "a", "public_key": ""}),
        ("2.104", {"name": "a/b", "public_key": PUBLIC}),
        ("2.91", {"name": "a@b", "public_key": PUBLIC}),
        ("2.104", {"name": " a", "public_key": PUBLIC}),
        ("2.1", {"name": "a", "type": "ssh"}),
        ("2.2", {"name": "a", "type": "gpg"}),
        ("2.104", {"name": "a", "type": "x509", "public_key": PUBLIC}),
    ],
)
async def test_bodies_that_are_refused(world: World, version: str, body: dict[str, Any]) -> None:
    assert (await world.demo.at(version).post("/os-keypairs", {"keypair": body})).status == 400


async def test_keys_are_a_users_own(world: World) -> None:
    await world.demo.post("/os-keypairs", {"keypair": {"name": "own", "public_key": PUBLIC}})
    assert (await world.other.get("/os-keypairs/own")).status == 404
    theirs = f"?user_id={world.demo.user_id}"
    assert (await world.other.get(f"/os-keypairs{theirs}")).status == 403
    assert (await world.admin.get(f"/os-keypairs/own{theirs}")).status == 200
    assert (await world.admin.at("2.9").get(f"/os-keypairs/own{theirs}")).status == 404
    given = {"keypair": {"name": "given", "public_key": PUBLIC, "user_id": world.demo.user_id}}
    assert (await world.other.post("/os-keypairs", given)).status == 403
    assert (await world.admin.post("/os-keypairs", given)).status == 201
    assert (await world.demo.get("/os-keypairs/given")).status == 200
    for name in ("own", "given"):
        await world.demo.delete(f"/os-keypairs/{name}")


async def test_pages_from_2_35(world: World) -> None:
    for name in ("k1", "k2", "k3"):
        await world.demo.post("/os-keypairs", {"keypair": {"name": name, "public_key": PUBLIC}})
    page = (await world.demo.get("/os-keypairs?limit=2")).json
    assert [one["keypair"]["name"] for one in page["keypairs"]] == ["k1", "k2"]
    assert "marker=k2" in page["keypairs_links"][0]["href"]
    rest = (await world.demo.get("/os-keypairs?limit=2&marker=k2")).json
    assert [one["keypair"]["name"] for one in rest["keypairs"]] == ["k3"]
    assert len((await world.demo.at("2.34").get("/os-keypairs?limit=2")).json["keypairs"]) == 3
    assert (await world.demo.get("/os-keypairs?marker=none")).status == 400
    for name in ("k1", "k2", "k3"):
        await world.demo.delete(f"/os-keypairs/{name}")


async def test_the_key_goes_into_the_server(world: World) -> None:
    await world.demo.post("/os-keypairs", {"keypair": {"name": "boot", "public_key": PUBLIC}})
    server = await world.active(name="keyed", key_name="boot", networks="none")
    assert server["key_name"] == "boot"
    await world.demo.delete("/os-keypairs/boot")
    assert (await world.demo.show(server["id"]))["key_name"] == "boot"
    await world.demo.gone(server["id"])
