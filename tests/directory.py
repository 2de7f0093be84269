# SPDX-License-Identifier: Apache-2.0
"""A real slapd of the tests' own: a free port of loopback, a database and certificates in a temporary directory."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cumulet.cli.chaos.loopback import free_ports
from tests.scratch import short

SUFFIX = "dc=example,dc=org"
MANAGER, SECRET = f"cn=manager,{SUFFIX}", "the-manager's-secret"
_CONF = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {home}/pid
sizelimit size.soft=20 size.hard=20 size.pr=10 size.prtotal=unlimited
TLSCACertificateFile {home}/ca.pem
TLSCertificateFile {home}/server.pem
TLSCertificateKeyFile {home}/key.pem
database mdb
suffix "{suffix}"
rootdn "{manager}"
rootpw "{secret}"
directory {home}/data
maxsize 10485760
dbnosync
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=reader,{suffix}" read by * none
limits dn.exact="cn=reader,{suffix}" size.soft=20 size.hard=20 size.pr=10 size.prtotal=unlimited
"""
READER, READER_SECRET = f"cn=reader,{SUFFIX}", "the-reader's-secret"
_TREE = f"""dn: {SUFFIX}
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: {READER}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: {READER_SECRET}

dn: ou=people,{SUFFIX}
objectClass: organizationalUnit
ou: people

dn: ou=teams,{SUFFIX}
objectClass: organizationalUnit
ou: teams
"""


@dataclass
class Slapd:
    """The server; ``stop`` and ``start`` keep what is in it."""

    home: Path
    port: int = 0
    tls_port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"ldap://127.0.0.1:{self.port}"

    @property
    def tls_url(self) -> str:
        return f"ldaps://127.0.0.1:{self.tls_port}"

    @property
    def certificate(self) -> str:
        return str(self.home / "ca.pem")

    def start(self) -> None:
        self.port, self.tls_port = self.port or free_ports(1)[0], self.tls_port or free_ports(1)[0]
        program = shutil.which("slapd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        assert program, "slapd is not installed; run tools/setup.sh machine"
        argv = [
            program,
            "-h",
            f"{self.url} ldaps://127.0.0.1:{self.tls_port}",
            "-f",
            f"{self.home}/slapd.conf",
            "-d",
            "0",
        ]
        with open(self.home / "log", "ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        ends = time.monotonic() + 30
        while not _answers(self.port):
            assert self._process.poll() is None, (self.home / "log").read_text()
            assert time.monotonic() < ends, "slapd does not answer"
            time.sleep(0.02)  # a real process outside of the loop's clock

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """The manager's own connection."""
        import ldap

        made = ldap.initialize(self.url)
        try:
            made.simple_bind_s(MANAGER, SECRET)
            yield made
        finally:
            made.unbind_s()

    def add(self, dn: str, **values: str | list[str]) -> str:
        """Add an entry; returns its name."""
        attributes = {
            name: [one.encode() for one in ([value] if isinstance(value, str) else value)]
            for name, value in values.items()
        }
        with self.connection() as connection:
            connection.add_s(dn, list(attributes.items()))
        return dn

    def person(self, uid: str, password: str, **more: str | list[str]) -> str:
        """Add a person; returns its name."""
        import ldap.dn

        values: dict[str, Any] = {"uid": uid, "cn": uid, "sn": uid.title(), "mail": f"{len(uid)}@example.org"}
        values |= {"objectClass": "inetOrgPerson", "userPassword": password, "employeeNumber": "512", **more}
        return self.add(f"uid={ldap.dn.escape_dn_chars(uid)},ou=people,{SUFFIX}", **values)

    def team(self, name: str, *members: str) -> str:
        values: dict[str, Any] = {"objectClass": "groupOfNames", "description": f"the {name}"}
        return self.add(f"cn={name},ou=teams,{SUFFIX}", cn=name, member=list(members) or [MANAGER], **values)

    def change(self, dn: str, attribute: str, *values: str) -> None:
        import ldap

        with self.connection() as connection:
            connection.modify_s(dn, [(ldap.MOD_REPLACE, attribute, [value.encode() for value in values])])

    def remove(self, dn: str) -> None:
        with self.connection() as connection:
            connection.delete_s(dn)

    def clear(self) -> None:
        """Remove all people and teams."""
        import ldap

        with self.connection() as connection:
            for place in ("people", "teams"):
                for dn, _ in connection.search_s(f"ou={place},{SUFFIX}", ldap.SCOPE_ONELEVEL, attrlist=["1.1"]):
                    connection.delete_s(dn)


@contextmanager
def slapd_server() -> Iterator[Slapd]:
    home = Path(tempfile.mkdtemp(prefix="cumulet-slapd-", dir=short()))
    server = Slapd(home)
    try:
        (home / "data").mkdir()
        (home / "slapd.conf").write_text(_CONF.format(home=home, suffix=SUFFIX, manager=MANAGER, secret=SECRET))
        (home / "tree.ldif").write_text(_TREE)
        _certify(home)
        slapadd = shutil.which("slapadd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        assert slapadd, "slapd is not installed; run tools/setup.sh machine"
        subprocess.run(
            [slapadd, "-q", "-f", str(home / "slapd.conf"), "-l", str(home / "tree.ldif")],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def slapd_session() -> Iterator[Slapd]:
    with slapd_server() as server:
        yield server


@pytest.fixture
def slapd(slapd_session: Slapd) -> Iterator[Slapd]:
    """The session's server without people."""
    slapd_session.clear()
    yield slapd_session
    if slapd_session._process is None:
        slapd_session.start()


def _answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _certify(home: Path) -> None:
    """An authority, and its certificate for 127.0.0.1 and for nothing else."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

    def certificate(name: str, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> bytes:
        made = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named("tests"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=True)
            .sign(authority, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    ca = x509.BasicConstraints(ca=True, path_length=None)
    (home / "ca.pem").write_bytes(certificate("tests", authority.public_key(), ca))
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    (home / "server.pem").write_bytes(certificate("server", key.public_key(), names))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (home / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
