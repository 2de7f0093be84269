# SPDX-License-Identifier: Apache-2.0
"""A real Keystone and Glance of one's own, for tools/peer.py: configured, started, furnished, put back, ended.

Everything is written below one directory and reached on the loopback only; the
records are SQLite files, so that a conversation can be undone by copying a file
back. What is configured is what a default cloud of ours offers.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cloud import PASSWORD, Reply

V3 = "/identity/v3"
_START = 180.0
"""Seconds that a service may take to answer first."""
_STOP = 15.0

_KEYSTONE = """\
[DEFAULT]
log_file = {home}/keystone.log
[database]
connection = sqlite:///{home}/keystone.db
[cache]
enabled = true
backend = dogpile.cache.memory
[fernet_tokens]
key_repository = {home}/fernet
[credential]
key_repository = {home}/credential
[identity]
password_hash_rounds = 4
[oslo_concurrency]
lock_path = {home}/locks
"""
_GLANCE = """\
[DEFAULT]
log_file = {home}/glance.log
enabled_backends = file:file, second:file, http:http
enabled_import_methods = [glance-direct,web-download,copy-image,glance-download]
image_cache_dir = {home}/cache
image_cache_driver = sqlite
worker_self_reference_url = http://localhost
use_keystone_limits = true
show_multiple_locations = {shown}
[database]
connection = sqlite:///{home}/glance.db
[keystone_authtoken]
{auth}
www_authenticate_uri = http://localhost/identity
service_token_roles = service
service_token_roles_required = true
[oslo_limit]
{limit}
endpoint_service_type = image
endpoint_region_name = RegionOne
[paste_deploy]
flavor = keystone+cachemanagement
config_file = {venv}/etc/glance/glance-api-paste.ini
[glance_store]
default_backend = file
[file]
filesystem_store_datadir = {home}/first
[second]
filesystem_store_datadir = {home}/second
[http]
[import_filtering_opts]
allowed_hosts = [127.0.0.1]
allowed_ports = []
[os_glance_staging_store]
filesystem_store_datadir = {home}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {home}/tasks
[oslo_concurrency]
lock_path = {home}/locks
[oslo_messaging_notifications]
driver = noop
"""
_AUTH = """\
auth_type = password
auth_url = http://127.0.0.1:{port}/identity
username = image
password = {password}
user_domain_id = default
project_name = service
project_domain_id = default"""
_LIMIT = """\
auth_type = password
auth_url = http://127.0.0.1:{port}/identity
username = admin
password = {password}
user_domain_id = default
system_scope = all"""
_LIMITS = ("image_size_total", "image_stage_total", "image_count_total", "image_count_uploading")
_WSGI = """\
import os

from dogpile.cache.backends.memory import MemoryBackend

held = {}
MemoryBackend.__init__ = lambda self, arguments: setattr(self, "_cache", held)

from keystone.wsgi.api import application as keystone

kept = os.environ["PEER_KEPT"]
seen = None


def application(environ, start_response):
    global seen
    now = os.stat(kept).st_mtime_ns if os.path.exists(kept) else None
    if now != seen:
        held.clear()
        seen = now
    return keystone(environ, start_response)
"""
"""Keystone with a cache that is forgotten when the records are put back (the file PEER_KEPT is touched then)."""
_SERVED = {
    "/identity": ("keystone", "served", _KEYSTONE),
    "/image": ("glance", "glance.wsgi.api", _GLANCE),
}
"""Mount → name, WSGI module and configuration."""
_CONF = {"keystone": "keystone", "glance": "glance-api"}


@dataclass
class Peer:
    """What a conversation needs of a cloud, from real services: mount → port."""

    ports: dict[str, int]
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)

    async def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] = {},
        body: bytes = b"",
    ) -> Reply:
        return await asyncio.to_thread(self._ask, method, path, json, token, headers, body)

    def _ask(
        self, method: str, path: str, sent: Any, token: str | None, headers: Mapping[str, str], body: bytes
    ) -> Reply:
        told = {"host": "localhost", **headers}
        if sent is not None:
            body = json.dumps(sent).encode()
            told.setdefault("content-type", "application/json")
        if token is not None:
            told["x-auth-token"] = token
        told.setdefault("content-length", str(len(body)))
        port = self.ports["/" + path.split("/")[1].partition("?")[0]]
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=300)) as connection:
            connection.request(method, path, body, told)
            try:
                answer = connection.getresponse()
            except http.client.RemoteDisconnected:  # its application raised: the server in front of it says nothing
                return Reply(500, {}, b"no answer")
            return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())

    async def login(self, user: str = "demo", project: str | None = None, *, system: bool = False) -> str:
        """A token of a user on its project, cached."""
        project = project or user
        key = (user, "system" if system else project)
        if key not in self.tokens:
            named = {"name": user, "domain": {"id": "default"}, "password": PASSWORD}
            scope: dict[str, Any] = {"project": {"name": project, "domain": {"id": "default"}}}
            auth = {
                "identity": {"methods": ["password"], "password": {"user": named}},
                "scope": {"system": {"all": True}} if system else scope,
            }
            reply = await self.request("POST", f"{V3}/auth/tokens", {"auth": auth})
            assert reply.status == 201, reply.data
            self.tokens[key] = reply.headers["x-subject-token"]
        return self.tokens[key]


async def furnish(peer: Peer, service: str) -> None:
    """Everything that a conversation with ``service`` finds in a new cloud of ours."""
    token = await peer.login("admin")

    async def ask(method: str, path: str, sent: Any = None) -> Any:
        reply = await peer.request(method, f"{V3}{path}", sent, token=token)
        assert reply.status < 300, (path, reply.data)
        return reply.json if reply.data else None

    async def make(kind: str, **values: Any) -> str:
        made: str = (await ask("POST", f"/{kind}s", {kind: values}))[kind]["id"]
        return made

    roles = {row["name"]: row["id"] for row in (await ask("GET", "/roles"))["roles"]}
    project = await make("project", name="service", domain_id="default")
    for name in ("demo", "alt_demo"):
        own = await make("project", name=name, domain_id="default")
        user = await make("user", name=name, domain_id="default", password=PASSWORD)
        await ask("PUT", f"/projects/{own}/users/{user}/roles/{roles['member']}")
    url = {"identity": "http://localhost/compute/v2.1", "image": f"http://127.0.0.1:{peer.ports.get('/image')}/image"}
    name = {"identity": "compute", "image": "image"}[service]
    made = await make("service", name=name, type=name)
    for interface in ("public", "internal", "admin"):
        await make("endpoint", interface=interface, service_id=made, region_id="RegionOne", url=url[service])
    if service == "image":  # what has no limit there is forbidden
        where = {"service_id": made, "region_id": "RegionOne"}
        limits = [{**where, "resource_name": one, "default_limit": -1} for one in _LIMITS]
        token = await peer.login("admin", system=True)
        await ask("POST", "/registered_limits", {"registered_limits": limits})
    user = await make("user", name=name, domain_id="default", password=PASSWORD)
    for role in ("admin", "service"):
        await ask("PUT", f"/projects/{project}/users/{user}/roles/{roles[role]}")


@dataclass
class PeerCloud:
    """The services' processes and records below ``home``; ``venv`` has them installed."""

    venv: Path
    home: Path
    service: str
    shown: bool = False
    """Whether images show where they are."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    async def begin(self) -> Peer:
        """Start the services; in an empty directory their records are made and furnished before."""
        made = self.home / "ports.json"
        if made.exists():
            ports = json.loads(made.read_text())
            self.put_back()
            for mount in ports:
                await self._start(mount, ports)
            return Peer(ports)
        ports = {"/identity": _free_port(), **({"/image": _free_port()} if self.service == "image" else {})}
        own = {"port": ports["/identity"], "password": PASSWORD}
        auth, limit = _AUTH.format(**own), _LIMIT.format(**own)
        peer = Peer(ports)
        (self.home / "locks").mkdir(parents=True)
        for mount in ports:
            name, _, text = _SERVED[mount]
            folder = self.home / name
            folder.mkdir()
            told = text.format(home=self.home, venv=self.venv, auth=auth, limit=limit, shown=self.shown)
            (folder / f"{_CONF[name]}.conf").write_text(told)
        (self.home / "served.py").write_text(_WSGI)
        manage = ["keystone-manage", "--config-dir", str(self.home / "keystone")]
        self._run(*manage, "db_sync")
        for keys in ("fernet_setup", "credential_setup"):
            self._run(*manage, keys, "--keystone-user", "root", "--keystone-group", "root")
        # conversations with identity expect its published address; the image service must reach it
        where = "localhost" if self.service == "identity" else f"127.0.0.1:{ports['/identity']}"
        at = f"http://{where}/identity/v3"
        urls = [part for kind in ("admin", "internal", "public") for part in (f"--bootstrap-{kind}-url", at)]
        region = ["--bootstrap-region-id", "RegionOne"]
        self._run(*manage, "bootstrap", *urls, *region, OS_BOOTSTRAP_PASSWORD=PASSWORD)
        await self._start("/identity", ports)
        await asyncio.sleep(1.1)  # a token of the second in which the password was set is void there
        await furnish(peer, self.service)
        if self.service == "image":
            manage = ["glance-manage", "--config-dir", str(self.home / "glance")]
            self._run(*manage, "db_sync")
            self._run(*manage, "db_load_metadefs", str(self.venv / "etc" / "glance" / "metadefs"))
            await self._start("/image", ports)
        for base in self.home.glob("*.db"):
            _copy(base, base.with_suffix(".kept"))
        made.write_text(json.dumps(ports))
        return peer

    def put_back(self) -> None:
        """Make the records those of the furnished cloud again."""
        for kept in self.home.glob("*.kept"):
            _copy(kept, kept.with_suffix(".db"))
            kept.touch()

    def end(self) -> None:
        """Stop what was started."""
        for process in reversed(self.started):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _environ(self, **more: str) -> dict[str, str]:
        return {
            "PATH": f"{self.venv}/bin:{os.environ['PATH']}",
            "HOME": str(self.home),
            "OS_KEYSTONE_CONFIG_DIR": str(self.home / "keystone"),
            "OS_KEYSTONE_CONFIG_FILES": str(self.home / "keystone" / "keystone.conf"),
            "PYTHONPATH": str(self.home),
            "PEER_KEPT": str(self.home / "keystone.kept"),
            "OS_GLANCE_CONFIG_DIR": str(self.home / "glance"),
            **more,
        }

    def _run(self, command: str, *arguments: str, **more: str) -> None:
        told = [str(self.venv / "bin" / command), *arguments]
        done = subprocess.run(told, env=self._environ(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"{command} {arguments[-1]} failed:\n{done.stdout.decode(errors='replace')[-3000:]}")

    def _spawn(self, told: list[str], written: Path) -> subprocess.Popen[bytes]:
        with written.open("wb") as out:
            return subprocess.Popen(
                told, env=self._environ(), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    async def _start(self, mount: str, ports: Mapping[str, int]) -> None:
        name, module, _ = _SERVED[mount]
        told = [
            str(self.venv / "bin" / "uwsgi"), "--http-socket", f"127.0.0.1:{ports[mount]}", "--master", "--need-app",
            "--mount", f"{mount}={module}:application", "--manage-script-name", "--processes", "1", "--threads", "4",
            "--enable-threads", "--lazy-apps", "--die-on-term", "--buffer-size", "65535",
            "--post-buffering", "65536", "--add-header", "Connection: close",
        ]  # fmt: skip
        self.started.append(self._spawn(told, self.home / f"{name}.out"))
        end = time.monotonic() + _START
        while time.monotonic() < end and self.started[-1].poll() is None:
            try:
                await Peer(dict(ports)).request("GET", f"{mount}/")
            except OSError:
                await asyncio.sleep(0.2)
            else:
                return
        raise SystemExit(f"{name} does not answer; see {self.home}/{name}.out")


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target, timeout=30)) as written:
        read.backup(written)


def _free_port() -> int:
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
