# SPDX-License-Identifier: Apache-2.0
"""Signatures of EC2 and S3 requests, as the services that received the requests pass them on.

Invariant: everything here was written by a client; whatever is missing or not
of the right kind is a wrong signature and never an error of ours.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Any
from urllib.parse import quote

from cumulet.kernel import clock
from cumulet.kernel.errors import Unauthorized

_V4 = "AWS4-HMAC-SHA256"
_S3_SERVICES = ("s3", "iam", "sts")


def check_ec2(secret: str, sent: dict[str, Any]) -> None:
    """Raise Unauthorized unless ``sent`` (verb, host, path, params, headers, body_hash) has the right signature.

    Versions 0, 1, 2 and 4. Some clients sign without the port, so the host is tried both ways.
    """
    signature, host = sent.get("signature"), sent.get("host")
    if not isinstance(signature, str) or not signature:
        raise Unauthorized
    hosts = [host]
    if isinstance(host, str) and ":" in host:
        hosts.append(host.rpartition(":")[0])
    for one in hosts:
        try:
            made = _ec2(secret, {**sent, "host": one})
        except (KeyError, TypeError, AttributeError, ValueError):
            continue
        if hmac.compare_digest(made.encode(), signature.encode()):
            return
    raise Unauthorized


def check_s3(secret: str, sent: dict[str, Any]) -> None:
    """Raise Unauthorized unless ``sent`` (token: the text that was signed, signature) is right, version 1 or 4."""
    try:
        text = base64.urlsafe_b64decode(str(sent["token"]))
        made = _s3_v4(secret, text) if text.startswith(b"AWS4") else _base64(secret, text, "sha1")
        if hmac.compare_digest(made.encode(), str(sent["signature"]).encode()):
            return
    except (KeyError, ValueError, binascii.Error):
        pass
    raise Unauthorized


def check_time(sent: dict[str, Any], seconds: float) -> None:
    """Raise Unauthorized for a request that was signed longer ago than ``seconds``; it may say no time at all."""
    params, headers = _dict(sent.get("params")), _dict(sent.get("headers"))
    told = params.get("Timestamp") or headers.get("X-Amz-Date") or params.get("X-Amz-Date")
    if not told:
        return
    try:
        if clock.parse_iso(str(told)) + seconds >= clock.now():
            return
    except ValueError:
        pass
    raise Unauthorized


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _base64(secret: str, text: bytes, digest: str) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), text, digest)).decode()


def _ec2(secret: str, sent: dict[str, Any]) -> str:
    params: dict[str, Any] = sent["params"]
    version = params.get("SignatureVersion")
    if version == "0":
        return _base64(secret, (params["Action"] + params["Timestamp"]).encode(), "sha1")
    if version == "1":
        joined = "".join(key + str(params[key]) for key in sorted(params, key=str.lower))
        return _base64(secret, joined.encode(), "sha1")
    if version == "2":
        query = _canonical_query({**params, "SignatureMethod": "HmacSHA256"})
        return _base64(secret, f"{sent['verb']}\n{sent['host']}\n{sent['path']}\n{query}".encode(), "sha256")
    return _ec2_v4(secret, sent)


def _canonical_query(params: dict[str, Any]) -> str:
    return "&".join(f"{quote(key, safe='')}={quote(str(params[key]), safe='-_~')}" for key in sorted(params))


def _ec2_v4(secret: str, sent: dict[str, Any]) -> str:
    params, headers = sent["params"], _dict(sent.get("headers"))
    told = _v4_members(params, headers)
    lower = {name.lower().strip(): value.strip() for name, value in headers.items()}
    if "host" in lower and sent["host"] is not None:
        lower["host"] = sent["host"] if lower["host"].startswith(sent["host"]) else lower["host"]
    signed = "".join(f"{name}:{lower[name]}\n" for name in told["SignedHeaders"].split(";") if name in lower)
    query = "" if sent["verb"].upper() == "POST" else _canonical_query(params)
    request = "\n".join([sent["verb"].upper(), sent["path"], query, signed, told["SignedHeaders"], sent["body_hash"]])
    _, day, region, service, *_ = told["Credential"].split("/")
    moment = headers.get("X-Amz-Date") or params["X-Amz-Date"]
    if not moment.startswith(day):
        raise ValueError("the day of the signature is not that of the request")
    scope = told["Credential"].partition("/")[2]
    text = "\n".join([_V4, moment, scope, hashlib.sha256(request.encode()).hexdigest()])
    return hmac.digest(_v4_key(secret, day, region, service), text.encode(), "sha256").hex()


def _v4_members(params: dict[str, Any], headers: dict[str, Any]) -> dict[str, str]:
    """Credential and SignedHeaders, from the header or else from the query."""
    text = headers.get("Authorization")
    if text is not None and not text.startswith(_V4):
        raise ValueError("another kind of authorization")
    if text is None:
        if params["X-Amz-Algorithm"] != _V4:
            raise ValueError("another kind of signature")
        return {name: params[f"X-Amz-{name}"] for name in ("Credential", "SignedHeaders")}
    members = (part.strip().partition("=") for part in text.removeprefix(_V4).split(","))
    return {name: value for name, _, value in members}


def _v4_key(secret: str, *scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (*scope, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _s3_v4(secret: str, text: bytes) -> str:
    algorithm, _, scope, _ = text.decode().split("\n")
    day, region, service, end = scope.split("/")
    if algorithm != _V4 or end != "aws4_request" or service not in _S3_SERVICES:
        raise ValueError("not a signature of this kind")
    return hmac.digest(_v4_key(secret, day, region, service), text, "sha256").hex()
