# SPDX-License-Identifier: Apache-2.0
"""Key pairs: public keys that a user puts into servers. A generated private key is returned once and kept nowhere."""

from __future__ import annotations

import base64
import binascii
import hashlib
from functools import partial

from sqlalchemy import func, select

from cumulet.compute.errors import marker_missing
from cumulet.compute.logic import Compute
from cumulet.compute.models import KEYPAIRS, next_number
from cumulet.kernel import clock
from cumulet.kernel.db import Duplicate, Row, Transaction
from cumulet.kernel.errors import Conflict, Invalid, NotFound, OverQuota


def missing(name: str, user_id: str) -> NotFound:
    return NotFound(f"Keypair {name} not found for user {user_id}", kind="KeypairNotFound")


def fingerprint_of(public_key: str) -> str:
    """The MD5 fingerprint, colon-separated, of an OpenSSH public key; raises Invalid."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    parts = public_key.split(maxsplit=2)
    try:
        blob = base64.b64decode(parts[1], validate=True)
        load_ssh_public_key(" ".join(parts[:2]).encode())
    except (IndexError, ValueError, binascii.Error, UnsupportedAlgorithm, UnicodeEncodeError):
        raise Invalid("Keypair data is invalid: failed to generate fingerprint", kind="InvalidKeypair") from None
    digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, 32, 2))


def x509_fingerprint_of(certificate: str) -> str:
    """The SHA-1 fingerprint, colon-separated, of a PEM certificate; raises Invalid."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA1

    try:
        loaded = x509.load_pem_x509_certificate(certificate.encode())
    except (ValueError, UnicodeEncodeError):
        raise Invalid("Keypair data is invalid: failed to generate X509 fingerprint", kind="InvalidKeypair") from None
    return loaded.fingerprint(SHA1()).hex(":")  # noqa: S303 - published form, no security rests on it


def generate() -> tuple[str, str]:
    """A new RSA key of 2,048 bits: (private key in PEM, OpenSSH public key)."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.TraditionalOpenSSL, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    return private.decode(), public.decode() + " Generated-by-Cumulet"


def generate_x509(user_id: str) -> tuple[str, str]:
    """A new RSA key and a certificate of it for ten years, both in PEM."""
    from datetime import timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user_id[:64] or "user")])
    begin = clock.moment(clock.now())
    wanted = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), begin, begin + timedelta(days=3650)
    ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    certificate = wanted.sign(key, hashes.SHA256())
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return private.decode(), certificate.public_bytes(form.Encoding.PEM).decode()


async def create(compute: Compute, user_id: str, name: str, type_: str, public_key: str | None) -> Row:
    """Import a key, or make one; the row then also holds ``private_key``."""
    private: str | None = None
    if public_key is None:
        making = generate if type_ == "ssh" else partial(generate_x509, user_id)
        private, text = await compute.keys.run(making)
    else:
        text = public_key
    fingerprint = fingerprint_of(text) if type_ == "ssh" else x509_fingerprint_of(text)
    row = {
        "user_id": user_id, "name": name, "type": type_, "fingerprint": fingerprint, "public_key": text,
        "created_at": clock.now(),
    }  # fmt: skip

    async def body(tx: Transaction) -> Row:
        counted = await tx.first(select(func.count().label("n")).where(KEYPAIRS.c.user_id == user_id))
        limit = compute.quota.defaults["key_pairs"]
        if counted is not None and 0 <= limit <= counted["n"]:
            raise OverQuota("Quota exceeded, too many key pairs.", kind="KeypairLimitExceeded")
        whole = {**row, "number": await next_number(tx, KEYPAIRS)}
        try:
            await tx.insert(KEYPAIRS, whole)
        except Duplicate:
            raise Conflict(f"Key pair '{name}' already exists.", kind="KeyPairExists") from None
        return whole

    made = await compute.db.run(body)
    return {**made, "private_key": private} if private is not None else made


async def load(compute: Compute, user_id: str, name: str) -> Row:
    row = await compute.db.first(select(KEYPAIRS).where(KEYPAIRS.c.user_id == user_id, KEYPAIRS.c.name == name))
    if row is None:
        raise missing(name, user_id)
    return row


async def find(compute: Compute, user_id: str, limit: int | None, marker: str | None) -> list[Row]:
    """A user's keys by name; ``marker`` is a name."""
    k = KEYPAIRS.c
    statement = select(KEYPAIRS).where(k.user_id == user_id).order_by(k.name)
    if marker is not None:
        if await compute.db.first(select(k.name).where(k.user_id == user_id, k.name == marker)) is None:
            raise marker_missing(marker)
        statement = statement.where(k.name > marker)
    return await compute.db.all(statement if limit is None else statement.limit(limit))


async def delete(compute: Compute, user_id: str, name: str) -> None:
    async def body(tx: Transaction) -> None:
        gone = KEYPAIRS.delete().where(KEYPAIRS.c.user_id == user_id, KEYPAIRS.c.name == name)
        if not await tx.run(gone):
            raise missing(name, user_id)

    await compute.db.run(body)
