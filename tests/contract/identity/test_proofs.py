# SPDX-License-Identifier: Apache-2.0
"""Proofs that need arithmetic: passcodes, receipts, signed requests (EC2, S3, OAuth1), OAuth2."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import pytest
from keystoneclient.contrib.ec2.utils import Ec2Signer
from oauthlib import oauth1

from cumulet.identity.logic import totp
from cumulet.kernel import clock
from tests.cloud import PASSWORD, Reply, TestCloud

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


@dataclass
class Identity:
    """The Identity API as one user after another sees it."""

    cloud: TestCloud
    ids: dict[str, str] = field(default_factory=dict)

    async def ask(
        self, who: str | None, method: str, path: str, json: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        token = await self.cloud.login(who) if who in ("admin", "demo", "alt_demo") else who
        return await self.cloud.request(method, f"/identity/v3{path}", json, token=token, headers=headers)

    async def id(self, kind: str, name: str) -> str:
        reply = await self.ask("admin", "GET", f"/{kind}s?name={name}")
        found: str = reply.json[f"{kind}s"][0]["id"]
        return found

    async def login(self, *proofs: dict[str, Any], receipt: str | None = None, scope: Any = "unscoped") -> Reply:
        """A request for a token with one or more proofs, each ``{"method": document}``."""
        identity: dict[str, Any] = {"methods": [name for proof in proofs for name in proof]}
        for proof in proofs:
            identity |= proof
        auth = {"identity": identity} | ({"scope": scope} if scope is not None else {})
        headers = {"openstack-auth-receipt": receipt} if receipt is not None else None
        return await self.ask(None, "POST", "/auth/tokens", {"auth": auth}, headers)


@pytest.fixture
def identity(cloud: TestCloud) -> Identity:
    return Identity(cloud)


def password(user_id: str, text: str = PASSWORD) -> dict[str, Any]:
    return {"password": {"user": {"id": user_id, "password": text}}}


def passcode(user_id: str, ago: int = 0) -> dict[str, Any]:
    key = base64.b32decode(SEED)
    text = totp.code(key, int(clock.now()) // totp.PERIOD - ago)
    return {"totp": {"user": {"id": user_id, "passcode": text}}}


# ---- passcodes and receipts


def test_passcodes_are_those_of_the_standard() -> None:
    key = b"12345678901234567890"
    wanted = {59: "287082", 1111111109: "081804", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"}
    assert {moment: totp.code(key, moment // totp.PERIOD) for moment in wanted} == wanted


async def _with_seed(identity: Identity) -> str:
    demo = await identity.id("user", "demo")
    credential = {"type": "totp", "blob": SEED.rstrip("="), "user_id": demo}
    assert (await identity.ask("demo", "POST", "/credentials", {"credential": credential})).status == 201
    return demo


async def test_a_passcode_is_good_now_and_a_period_longer(identity: Identity) -> None:
    demo = await _with_seed(identity)
    reply = await identity.login(passcode(demo))
    assert reply.status == 201
    assert reply.json["token"]["methods"] == ["totp"]
    assert (await identity.login(passcode(demo, ago=1))).status == 201
    assert (await identity.login(passcode(demo, ago=3))).status == 401
    assert (await identity.login({"totp": {"user": {"id": demo}}})).status == 401
    assert (await identity.login({"totp": {}})).status == 400
    alt = await identity.id("user", "alt_demo")
    assert (await identity.login(passcode(alt))).status == 401
    assert (await identity.login(passcode(demo), password(alt))).status == 401


async def test_a_receipt_stands_for_what_was_proved(identity: Identity) -> None:
    demo, alt = await _with_seed(identity), await identity.id("user", "alt_demo")
    options = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": [["password", "totp"], ["telepathy"]]}
    reply = await identity.ask("admin", "PATCH", f"/users/{demo}", {"user": {"options": options}})
    assert reply.json["user"]["options"] == options
    both = await identity.login(password(demo), passcode(demo))
    assert both.status == 201
    assert set(both.json["token"]["methods"]) == {"password", "totp"}
    # a token of both methods may be exchanged: it says which ones were used
    assert (await identity.login({"token": {"id": both.headers["x-subject-token"]}})).status == 201

    half = await identity.login(password(demo))
    assert half.status == 401
    assert half.json["required_auth_methods"] == [["password", "totp"]]
    told = half.json["receipt"]
    assert told["methods"] == ["password"]
    assert told["user"] == {"id": demo, "name": "demo", "domain": {"id": "default", "name": "Default"}}
    assert clock.parse_iso(told["expires_at"]) - clock.parse_iso(told["issued_at"]) == 300
    receipt = half.headers["openstack-auth-receipt"]
    whole = await identity.login(passcode(demo), receipt=receipt)
    assert whole.status == 201
    assert set(whole.json["token"]["methods"]) == {"password", "totp"}

    assert (await identity.login(password(demo), receipt=receipt)).status == 401  # the same method twice is one
    assert (await identity.login(passcode(demo), receipt="nonsense")).status == 401
    assert (await identity.login(password(alt), receipt=receipt)).status == 401  # another's
    assert (await identity.login(password(demo, "wrong"))).headers.get("openstack-auth-receipt") is None
    body = {"user": {"original_password": PASSWORD, "password": "another"}}
    assert (await identity.ask(None, "POST", f"/users/{demo}/password", body)).status == 204
    assert (await identity.login(passcode(demo), receipt=receipt)).status == 401  # proved with an old password


async def test_too_many_wrong_passwords_have_to_wait(identity: Identity) -> None:
    demo, alt = await identity.id("user", "demo"), await identity.id("user", "alt_demo")
    for _ in range(20):
        assert (await identity.login(password(demo, "wrong"))).status == 401
    for refused in (
        await identity.login(password(demo)),
        await identity.ask(
            None, "POST", f"/users/{demo}/password", {"user": {"original_password": PASSWORD, "password": "x"}}
        ),
    ):
        assert refused.status == 429
        assert refused.json["error"]["title"] == "Too Many Requests"
        assert 0 < int(refused.headers["retry-after"]) <= 61
    assert (await identity.login(password(alt))).status == 201


# ---- signed requests


async def _key(identity: Identity) -> dict[str, Any]:
    demo, project = await identity.id("user", "demo"), await identity.id("project", "demo")
    reply = await identity.ask("demo", "POST", f"/users/{demo}/credentials/OS-EC2", {"tenant_id": project})
    credential: dict[str, Any] = reply.json["credential"]
    return credential


def _request(key: dict[str, Any], **params: str) -> dict[str, Any]:
    named = {"AWSAccessKeyId": key["access"], "Action": "DescribeInstances", **params}
    return {"access": key["access"], "host": "cloud:8788", "verb": "GET", "path": "/services/Cloud", "params": named}


def _amz(moment: float) -> str:
    return clock.moment(moment).strftime("%Y%m%dT%H%M%SZ")


def _version_4(key: dict[str, Any], moment: float) -> dict[str, Any]:
    scope = f"{key['access']}/{_amz(moment)[:8]}/region/ec2/aws4_request"
    headers = {
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature=-",
        "X-Amz-Date": _amz(moment),
        "Host": "cloud:8788",
    }
    request = _request(key) | {"headers": headers, "body_hash": hashlib.sha256(b"").hexdigest()}
    # the reference reads members up to the next comma
    request["headers"]["Authorization"] = request["headers"]["Authorization"].replace(", ", ",")
    return request


def _signed(key: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """The request with the signature of the reference implementation."""
    copied = {**request, "params": dict(request["params"])}
    return {**request, "signature": Ec2Signer(key["secret"]).generate(copied)}


@pytest.mark.parametrize("version", ["0", "1", "2", "4", "4 in the query"])
async def test_an_ec2_request_gets_the_token_of_who_signed_it(identity: Identity, version: str) -> None:
    key = await _key(identity)
    now = clock.now()
    if version == "4":
        request = _version_4(key, now)
    elif version.startswith("4"):
        scope = f"{key['access']}/{_amz(now)[:8]}/region/ec2/aws4_request"
        signing = {"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": scope, "X-Amz-Date": _amz(now)}
        request = _request(key, **signing, **{"X-Amz-SignedHeaders": "host"})
        request |= {"headers": {"Host": "cloud:8788"}, "body_hash": "UNSIGNED-PAYLOAD"}
    else:
        request = _request(key, SignatureVersion=version, Timestamp=clock.iso_z(now), Odd="a b+c/~*")
    signed = _signed(key, request)
    reply = await identity.ask("admin", "POST", "/ec2tokens", {"credentials": signed})
    assert reply.status == 200, reply.data
    token = reply.json["token"]
    assert token["methods"] == ["ec2credential"]
    assert token["user"]["name"] == "demo"
    assert token["project"]["id"] == key["tenant_id"]
    assert [role["name"] for role in token["roles"]] == ["member", "reader"]
    own = reply.headers["x-subject-token"]
    assert (await identity.ask(own, "GET", "/auth/projects")).status == 200
    assert (await identity.login({"token": {"id": own}})).status == 403
    assert (await identity.ask(own, "GET", "/credentials")).json["credentials"] == []
    for wrong in (
        {**signed, "signature": signed["signature"][:-2] + "xx"},
        {**signed, "signature": None},
        {**signed, "params": {**signed["params"], "Action": "TerminateInstances"}} if version != "4" else {},
    ):
        refused = await identity.ask("admin", "POST", "/ec2tokens", {"ec2Credentials": wrong})
        assert refused.status == 401, refused.data


async def test_an_ec2_request_without_the_port_in_its_host(identity: Identity) -> None:
    key = await _key(identity)
    request = _request(key, SignatureVersion="2", Timestamp=clock.iso_z(clock.now()))
    signed = _signed(key, {**request, "host": "cloud"}) | {"host": "cloud:8788"}
    assert (await identity.ask("admin", "POST", "/ec2tokens", {"credential": signed})).status == 200


async def test_what_is_wrong_with_a_signed_request_is_never_ours(identity: Identity) -> None:
    key = await _key(identity)
    old = _request(key, SignatureVersion="2", Timestamp=clock.iso_z(clock.now() - 1000))
    for body, status in (
        ({}, 400),
        ({"credentials": {}}, 401),
        ({"credentials": {"access": "nothing", "signature": "x"}}, 404),
        ({"credentials": {"access": key["access"]}}, 401),
        ({"credentials": {"access": key["access"], "signature": "x", "host": "//[:7", "params": {}}}, 401),
        ({"credentials": {"access": key["access"], "signature": "x", "host": 7, "params": []}}, 401),
        ({"credentials": {"access": key["access"], "signature": "x", "params": {"SignatureVersion": "9"}}}, 401),
        ({"credentials": _signed(key, old)}, 401),
        ({"credentials": _signed(key, {**old, "params": {**old["params"], "Timestamp": "yesterday"}})}, 401),
        ({"credentials": _signed(key, _version_4(key, clock.now() - 1000))}, 401),
    ):
        reply = await identity.ask("admin", "POST", "/ec2tokens", body)
        assert reply.status == status, (body, reply.data)
    # a key without a secret is none: everybody could sign with nothing
    empty = {"type": "ec2", "blob": '{"access": "bare", "secret": ""}', "user_id": key["user_id"]}
    made = await identity.ask("demo", "POST", "/credentials", {"credential": empty | {"project_id": key["tenant_id"]}})
    assert made.status == 201
    bare = _signed({"access": "bare", "secret": ""}, _request({"access": "bare"}, SignatureVersion="2"))
    assert (await identity.ask("admin", "POST", "/ec2tokens", {"credentials": bare})).status == 401
    good = {"credentials": _signed(key, _request(key, SignatureVersion="2"))}
    assert (await identity.ask("admin", "POST", "/ec2tokens", good)).status == 200
    assert (await identity.ask("demo", "POST", "/ec2tokens", good)).status == 403
    assert (await identity.ask(None, "POST", "/ec2tokens", good)).status == 401
    await identity.ask("admin", "PATCH", f"/users/{key['user_id']}", {"user": {"enabled": False}})
    assert (await identity.ask("admin", "POST", "/ec2tokens", good)).status == 401


def _s3(key: dict[str, Any], version: int) -> dict[str, Any]:
    if version == 1:
        text = b"GET\n\n\nFri, 01 Jan 2027 00:00:00 GMT\n/bucket/object"
        signature = base64.b64encode(hmac.digest(key["secret"].encode(), text, "sha1")).decode()
    else:
        text = b"AWS4-HMAC-SHA256\n20270101T000000Z\n20270101/region/s3/aws4_request\n" + b"0" * 64
        derived = f"AWS4{key['secret']}".encode()
        for part in (b"20270101", b"region", b"s3", b"aws4_request"):
            derived = hmac.digest(derived, part, "sha256")
        signature = hmac.digest(derived, text, "sha256").hex()
    return {"access": key["access"], "token": base64.urlsafe_b64encode(text).decode(), "signature": signature}


@pytest.mark.parametrize("version", [1, 4])
async def test_an_s3_request_tells_who_signed_it_and_gives_no_token(identity: Identity, version: int) -> None:
    key = await _key(identity)
    signed = _s3(key, version)
    reply = await identity.ask("admin", "POST", "/s3tokens", {"credentials": signed})
    assert reply.status == 200, reply.data
    assert reply.json["token"]["user"]["name"] == "demo"
    assert "x-subject-token" not in reply.headers
    for wrong in ({"signature": "x"}, {"token": "!"}, {"token": ""}, {"token": base64.b64encode(b"AWS4").decode()}):
        refused = await identity.ask("admin", "POST", "/s3tokens", {"credentials": {**signed, **wrong}})
        assert refused.status == 401
    assert (await identity.ask("alt_demo", "POST", "/s3tokens", {"credentials": signed})).status == 403


# ---- OAuth1

BASE = "http://localhost/identity/v3"


def _sign(path: str, headers: dict[str, str] | None = None, **who: Any) -> dict[str, str]:
    client = oauth1.Client(who.pop("consumer"), **who)
    _, signed, _ = client.sign(f"{BASE}{path}", http_method="POST", headers=headers or {})
    return {name.lower(): value for name, value in signed.items()}


async def _granted(identity: Identity) -> dict[str, Any]:
    """A consumer with an access token of demo's role reader on its project."""
    project, demo = await identity.id("project", "demo"), await identity.id("user", "demo")
    member = await identity.id("role", "member")
    reply = await identity.ask("admin", "POST", "/OS-OAUTH1/consumers", {"consumer": {"description": "d"}})
    assert reply.status == 201
    consumer = reply.json["consumer"]
    keys: dict[str, Any] = {"consumer": consumer["id"], "client_secret": consumer["secret"]}
    path = "/OS-OAUTH1/request_token"
    wanted = {"Requested-Project-Id": project}
    made = await identity.ask(None, "POST", path, headers=_sign(path, wanted, **keys, callback_uri="oob"))
    assert made.status == 201, made.data
    assert made.headers["content-type"] == "application/x-www-form-urlencoded"
    request = {name: values[0] for name, values in parse_qs(made.data.decode()).items()}
    assert set(request) == {"oauth_token", "oauth_token_secret", "oauth_expires_at"}
    place = f"/OS-OAUTH1/authorize/{request['oauth_token']}"
    assert (await identity.ask("demo", "PUT", place, {"roles": [{"name": "reader"}]})).status == 403  # admins only
    # the published rule lets admins authorize; on demo's project the admin acts with its own roles there
    admin = await identity.id("user", "admin")
    await identity.ask("admin", "PUT", f"/projects/{project}/users/{admin}/roles/{member}")
    verified = await identity.ask("admin", "PUT", place, {"roles": [{"name": "reader"}]})
    assert verified.status == 200, verified.data
    keys |= {"resource_owner_key": request["oauth_token"], "resource_owner_secret": request["oauth_token_secret"]}
    path = "/OS-OAUTH1/access_token"
    for wrong in ({"verifier": "wrong123"}, {"client_secret": "x"}, {"resource_owner_secret": "x"}):
        chosen = keys | {"verifier": verified.json["token"]["oauth_verifier"]} | wrong
        assert (await identity.ask(None, "POST", path, headers=_sign(path, **chosen))).status == 401
    keys["verifier"] = verified.json["token"]["oauth_verifier"]
    made = await identity.ask(None, "POST", path, headers=_sign(path, **keys))
    assert made.status == 201, made.data
    again = await identity.ask(None, "POST", path, headers=_sign(path, **keys))
    assert again.status == 404  # a request token is good once
    access = {name: values[0] for name, values in parse_qs(made.data.decode()).items()}
    del keys["verifier"]
    keys |= {"resource_owner_key": access["oauth_token"], "resource_owner_secret": access["oauth_token_secret"]}
    return {"keys": keys, "user": admin, "demo": demo, "project": project, "id": access["oauth_token"]}


async def _oauth_token(identity: Identity, keys: dict[str, Any]) -> Reply:
    path = "/auth/tokens"
    auth = {"auth": {"identity": {"methods": ["oauth1"], "oauth1": {}}}}
    return await identity.ask(None, "POST", path, auth, _sign(path, **keys))


async def test_a_consumer_acts_with_the_roles_that_it_was_given(identity: Identity) -> None:
    granted = await _granted(identity)
    reply = await _oauth_token(identity, granted["keys"])
    assert reply.status == 201, reply.data
    token = reply.json["token"]
    assert token["methods"] == ["oauth1"]
    assert token["user"]["id"] == granted["user"]
    assert token["project"]["id"] == granted["project"]
    assert [role["name"] for role in token["roles"]] == ["reader"]
    assert token["OS-OAUTH1"] == {"access_token_id": granted["id"], "consumer_id": granted["keys"]["consumer"]}
    own = reply.headers["x-subject-token"]
    assert (await identity.ask(own, "GET", "/users")).status == 403
    assert (await identity.login({"token": {"id": own}})).status == 403
    for wrong in ({"resource_owner_secret": "x"}, {"client_secret": "x"}, {"consumer": "x"}):
        assert (await _oauth_token(identity, granted["keys"] | wrong)).status == 401
    assert (await _oauth_token(identity, granted["keys"] | {"resource_owner_key": "x"})).status == 404
    missing = await identity.login({"oauth1": {}})
    assert missing.status == 400

    place = f"/users/{granted['user']}/OS-OAUTH1/access_tokens"
    (listed,) = (await identity.ask("admin", "GET", place)).json["access_tokens"]
    assert listed["id"] == granted["id"]
    assert listed["authorizing_user_id"] == granted["user"]
    one = f"{place}/{granted['id']}"
    assert listed["links"] == {"self": f"{BASE}{one}", "roles": f"{BASE}{one}/roles"}
    assert (await identity.ask("admin", "GET", one)).json["access_token"] == listed
    (role,) = (await identity.ask("admin", "GET", f"{one}/roles")).json["roles"]
    assert role["name"] == "reader"
    assert (await identity.ask("admin", "GET", f"{one}/roles/{role['id']}")).json["role"] == role
    assert (await identity.ask("admin", "GET", f"{one}/roles/nothing")).status == 404
    assert (await identity.ask("admin", "GET", f"/users/{granted['demo']}/OS-OAUTH1/access_tokens/x")).status == 404
    assert (await identity.ask("demo", "GET", place)).status == 403
    assert (await identity.ask("admin", "DELETE", one)).status == 204
    assert (await identity.ask(own, "GET", "/auth/projects")).status == 401
    assert (await identity.ask("admin", "GET", one)).status == 404


async def test_consumers(identity: Identity) -> None:
    path = "/OS-OAUTH1/consumers"
    assert (await identity.ask("demo", "GET", path)).status == 403
    made = (await identity.ask("admin", "POST", path, {"consumer": {"description": "d", "note": "n"}})).json["consumer"]
    one = f"{path}/{made['id']}"
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert shown["links"] == {"self": f"{BASE}{one}"}
    assert (await identity.ask("admin", "GET", one)).json["consumer"] == shown
    assert (await identity.ask("admin", "GET", path)).json["consumers"] == [shown]
    changed = await identity.ask("admin", "PATCH", one, {"consumer": {"description": "e"}})
    assert changed.json["consumer"] == shown | {"description": "e"}
    assert (await identity.ask("admin", "PATCH", one, {"consumer": {"secret": "s"}})).status == 400
    assert (await identity.ask("admin", "PATCH", one, {"consumer": {}})).status == 400
    ask = "/OS-OAUTH1/request_token"
    signed = _sign(ask, {"Requested-Project-Id": "nothing"}, consumer=made["id"], client_secret=made["secret"])
    assert (await identity.ask(None, "POST", ask, headers=signed)).status == 404
    assert (await identity.ask(None, "POST", ask)).status == 400
    assert (await identity.ask(None, "POST", ask, headers={"authorization": "OAuth x"})).status == 400
    assert (await identity.ask("admin", "PUT", "/OS-OAUTH1/authorize/nothing", {"roles": []})).status == 404
    assert (await identity.ask("admin", "DELETE", one)).status == 204
    assert (await identity.ask("admin", "GET", one)).status == 404


# ---- OAuth2


async def _form(identity: Identity, text: str, headers: dict[str, str] | None = None) -> Reply:
    sent = {"content-type": "application/x-www-form-urlencoded", **(headers or {})}
    return await identity.cloud.request("POST", "/identity/v3/OS-OAUTH2/token", headers=sent, body=text.encode())


async def test_an_application_credential_is_a_client_of_oauth2(identity: Identity) -> None:
    demo = await identity.id("user", "demo")
    made = {"application_credential": {"name": "c", "roles": [{"name": "reader"}]}}
    reply = await identity.ask("demo", "POST", f"/users/{demo}/application_credentials", made)
    client, secret = reply.json["application_credential"]["id"], reply.json["application_credential"]["secret"]
    basic = {"authorization": "Basic " + base64.b64encode(f"{client}:{secret}".encode()).decode()}
    for granted in (
        await _form(identity, "grant_type=client_credentials", basic),
        await _form(identity, f"grant_type=client_credentials&client_id={client}&client_secret={secret}"),
    ):
        assert granted.status == 200, granted.data
        assert granted.json["token_type"] == "Bearer"
        assert granted.json["expires_in"] == 3600
        assert granted.headers["cache-control"] == "no-store"
        assert (await identity.ask(granted.json["access_token"], "GET", "/auth/projects")).status == 200
    for text, headers, status, error in (
        ("", basic, 400, "invalid_request"),
        ("grant_type=password", basic, 400, "unsupported_grant_type"),
        ("grant_type=client_credentials", {}, 401, "invalid_client"),
        ("grant_type=client_credentials", {"authorization": "Basic !"}, 401, "invalid_client"),
        (f"grant_type=client_credentials&client_id={client}&client_secret=x", {}, 401, "invalid_client"),
        ("grant_type=client_credentials&client_id=x&client_secret=x", {}, 404, "other_error"),
    ):
        refused = await _form(identity, text, headers)
        assert (refused.status, refused.json["error"]) == (status, error)
        assert refused.json["error_description"]
    assert refused.headers.get("www-authenticate") is None
    for verb in ("GET", "PUT", "PATCH", "DELETE"):
        other = await identity.cloud.request(verb, "/identity/v3/OS-OAUTH2/token")
        assert (other.status, other.json["error"]) == (405, "other_error")
    assert (await identity.cloud.request("HEAD", "/identity/v3/OS-OAUTH2/token")).status == 405
