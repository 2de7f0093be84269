# SPDX-License-Identifier: Apache-2.0
"""`cumulet up` as a process of its own, with simulated machines: what it leaves in its directory, ports, TLS, locks."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cumulet.cli.chaos.loopback import free_ports

CUMULET = [sys.executable, "-m", "cumulet.cli"]


def cumulet(*argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*CUMULET, *map(str, argv)], capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def start(data: Path, port: int, *more: str | Path) -> str:
    return cumulet("up", "--data", data, "--port", str(port), "--hypervisor", "simulated", "--detach", *more).stdout


@pytest.fixture
def data() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="cumulet-up-"))
    yield made
    if made.exists():
        cumulet("down", "--purge", "--data", made)
    shutil.rmtree(made, ignore_errors=True)


def token(data: Path, url: str, cloud: str = "cumulet", context: ssl.SSLContext | None = None) -> dict[str, Any]:
    """The body of a token, by what clouds.yaml says of ``cloud``."""
    known = yaml.safe_load((data / "clouds.yaml").read_text())["clouds"][cloud]["auth"]
    scope: dict[str, Any] = (
        {"system": {"all": True}}
        if "system_scope" in known
        else {"project": {"name": known["project_name"], "domain": {"id": known["project_domain_id"]}}}
    )
    user = {
        "name": known["username"],
        "password": known["password"],
        "domain": {"id": known["user_domain_id"]},
    }
    wanted = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    request = urllib.request.Request(f"{url}/v3/auth/tokens", json.dumps(wanted).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, context=context, timeout=30) as answer:
        body: dict[str, Any] = json.load(answer)["token"]
        return body


def urls(token: dict[str, Any]) -> dict[str, str]:
    return {row["type"]: row["endpoints"][0]["url"] for row in token["catalog"]}


def test_one_command_to_a_cloud_and_one_to_nothing(data: Path) -> None:
    port = free_ports(1)[0]
    told = start(data, port)
    assert f"clouds.yaml: {data}/clouds.yaml" in told
    for line in ("identity    up", "compute     up", "openstack server create", "cumulet flow hello"):
        assert line in told
    assert (data / "clouds.yaml").stat().st_mode & 0o777 == 0o600
    assert (data / "secrets.json").stat().st_mode & 0o777 == 0o600

    clouds = yaml.safe_load((data / "clouds.yaml").read_text())["clouds"]
    names = {"cumulet", "cumulet-alt", "cumulet-admin", "cumulet-system"}
    aliases = {"devstack", "devstack-alt", "devstack-admin", "devstack-system-admin"}
    assert set(clouds) == names | aliases
    url = f"http://127.0.0.1:{port}/identity"
    seen = {name: token(data, url, name) for name in clouds}
    assert {name: one["project"]["name"] for name, one in seen.items() if "project" in one} == {
        "cumulet": "demo", "devstack": "demo", "cumulet-alt": "alt_demo", "devstack-alt": "alt_demo",
        "cumulet-admin": "admin", "devstack-admin": "admin",
    }  # fmt: skip
    assert seen["cumulet-system"]["system"] == {"all": True}
    roles = {name: {role["name"] for role in one["roles"]} for name, one in seen.items()}
    assert roles["cumulet"] == {"member", "reader"}
    assert {"admin", "manager", "member", "reader"} <= roles["cumulet-admin"]

    again = cumulet("up", "--data", data, "--port", str(free_ports(1)[0]), "--hypervisor", "simulated", check=False)
    assert again.returncode == 1
    assert f"a cloud runs in {data} already" in again.stderr

    password = clouds["cumulet-admin"]["auth"]["password"]
    for file in data.rglob("*"):
        if file.is_file() and file.name not in ("clouds.yaml", "secrets.json"):
            assert password.encode() not in file.read_bytes(), file
    assert json.loads(cumulet("status", "--data", data, "--json").stdout)["hypervisor"] == "simulated"
    assert "cloud is stopped" in cumulet("down", "--data", data).stdout
    start(data, port)
    assert token(data, url)["user"]["name"] == "demo", "the second start knows the users of the first"
    cumulet("down", "--purge", "--data", data)
    assert not data.exists()


@pytest.mark.xdist_group("traditional ports")
def test_a_client_of_the_traditional_port_finds_the_others(data: Path) -> None:
    port = free_ports(1)[0]
    start(data, port, "--traditional-ports")
    for url in (f"http://127.0.0.1:{port}/identity", "http://127.0.0.1:5000"):
        found = urls(token(data, url))
        assert found["compute"] == f"http://127.0.0.1:{port}/compute/v2.1"
        with urllib.request.urlopen(found["compute"].rpartition("/")[0] + "/", timeout=30) as answer:
            assert json.load(answer)["versions"]
    with urllib.request.urlopen("http://127.0.0.1:8774/", timeout=30) as answer:
        links = json.load(answer)["versions"][-1]["links"]
    assert links[0]["href"].startswith("http://127.0.0.1:8774/v2.1"), "links follow the way the client came"


def test_tls(data: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    where = data / "given"
    where.mkdir()
    (where / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with os.fdopen(os.open(where / "key.pem", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    port = free_ports(1)[0]
    start(data, port, "--tls-cert", where / "cert.pem", "--tls-key", where / "key.pem")
    trusted = ssl.create_default_context(cafile=str(where / "cert.pem"))
    found = urls(token(data, f"https://127.0.0.1:{port}/identity", context=trusted))
    assert all(url.startswith(f"https://127.0.0.1:{port}/") for url in found.values())
    known = yaml.safe_load((data / "clouds.yaml").read_text())["clouds"]["cumulet"]
    assert known["cacert"] == str(where / "cert.pem"), "clients are told to trust what signs itself"


def test_an_address_that_is_taken_is_named(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cumulet("up", "--data", data, "--port", str(port), "--hypervisor", "simulated", check=False)
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


def test_what_is_wrong_is_named_before_anything_is_served(data: Path) -> None:
    """A key that there is not, a database of a newer release, one that is none: words, and no traceback."""
    settings = data / "cumulet.toml"
    settings.write_text("[compute]\nmax_limits = 5\n")
    up = ("up", "--data", data, "--port", str(free_ports(1)[0]), "--hypervisor", "simulated")

    def refused(*more: str | Path) -> str:
        done = cumulet(*up, *more, check=False)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "[compute] max_limits: no such setting" in refused("--settings", settings)
    with sqlite3.connect(data / "insight.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    connection.close()
    assert "insight: the database is at version 9999, this release knows up to" in refused()
    for file in data.glob("insight.db*"):
        file.unlink()
    (data / "image.db").write_bytes(b"no database at all, for sure" * 1000)
    assert f"[cloud] database: {data}/image.db can't be opened: file is not a database" in refused()
