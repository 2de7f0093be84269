# SPDX-License-Identifier: Apache-2.0
"""A real Ceph of the tests' own: one monitor, one manager, one disk daemon and a gateway, on the loopback.

One cluster serves all of a session's processes (pytest-xdist): whoever comes first starts it, and a watcher removes
it when the last of them has ended, even by a signal. What a killed watcher left is removed by the next cluster.
A test holds the cluster shared; one that halts it holds it alone. The daemons together take about 200 MB.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from cumulet.cli.chaos.loopback import free_ports, let_go
from tests.scratch import short

_BUCKETS = ("images", "other")
_PREFIX = "cumulet-ceph-"
_PATIENCE = 120.0

_CONF = """[global]
fsid = {fsid}
mon_host = [v2:127.0.0.1:{port}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr1 = false
auth_allow_insecure_global_id_reclaim = false
keyring = {home}/keyring
run_dir = {home}/run
admin_socket = {home}/run/$name.$pid.asok
log_file = {home}/log/$name.log
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_max_pg_per_osd = 10000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
setuser_match_path =
[mon]
mon_data = {home}/mon
[osd]
osd_data = {home}/osd
osd_objectstore = bluestore
bluestore_block_size = 6442450944
bluestore_cache_size = 67108864
bluestore_cache_autotune = false
osd_memory_target = 939524096
osd_client_watch_timeout = 3
osd_class_load_list = *
osd_class_default_list = *
[mgr]
mgr_data = {home}/mgr
mgr_module_path = {home}/modules
mgr_initial_modules =
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{s3}
rgw_data = {home}/rgw
rgw_enable_usage_log = false
rgw_thread_pool_size = 32
[client]
log_file =
admin_socket =
"""
_CAPS = {
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "client.cumulet": {"mon": "profile rbd", "osd": "profile rbd", "mgr": "profile rbd"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
    "mon.": {"mon": "allow *"},
}
"""Who there is and what he may do; the cloud is no administrator."""


@dataclass(frozen=True)
class Cluster:
    """A Ceph that runs."""

    home: str
    fsid: str
    port: int
    s3: int
    access_key: str
    secret_key: str

    @property
    def conf(self) -> str:
        return f"{self.home}/ceph.conf"

    @property
    def keyring(self) -> str:
        """That of the cloud's own user, `cumulet`."""
        return f"{self.home}/ceph.client.cumulet.keyring"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.s3}"

    def rbd(self, pool: str) -> dict[str, Any]:
        """The settings of a store or back end in a pool."""
        return {"conf": self.conf, "keyring": self.keyring, "user": "cumulet", "pool": pool}

    def bucket(self, prefix: str) -> dict[str, Any]:
        """The settings of an object store."""
        return {
            "endpoint": self.endpoint, "bucket": _BUCKETS[0], "prefix": prefix, "access_key": self.access_key,
            "secret_key": self.secret_key, "region": "default",
        }  # fmt: skip

    def container(self, prefix: str) -> dict[str, Any]:
        """The settings of a Swift store: the bucket, by its other name."""
        return {
            "auth_url": f"{self.endpoint}/auth/v1.0", "container": _BUCKETS[0], "prefix": prefix,
            "username": "cumulet:swift", "password": self.secret_key, "segment_mib": 8,
        }  # fmt: skip

    def s3_client(self) -> Any:
        """A blocking client of the gateway, to look behind a store's back."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=self.access_key, region_name="default",
            aws_secret_access_key=self.secret_key,
        )  # fmt: skip

    def run(self, *argv: str) -> bytes:
        """A command of Ceph's as its administrator, e.g. ``run("rbd", "ls", "pool")``."""
        argv = (argv[0], "-c", self.conf, *argv[1:])
        done = subprocess.run(argv, capture_output=True, timeout=_PATIENCE, check=False)
        assert done.returncode == 0, f"{argv}: {done.stderr.decode(errors='replace')}"
        return done.stdout

    def make_pool(self) -> str:
        pool = f"p-{uuid.uuid4().hex[:12]}"
        self.run("ceph", "osd", "pool", "create", pool, "1")
        self.run("rbd", "pool", "init", pool)
        return pool

    def drop_pool(self, pool: str) -> None:
        self.run("ceph", "osd", "pool", "delete", pool, pool, "--yes-i-really-really-mean-it")

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Ceph answers nobody meanwhile, and connections stay open: the worst way of being down."""
        pids = [pid for name in ("mon", "osd", "rgw") for pid in self.pids(name)]
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def gateway(self, port: int, **options: str) -> Iterator[None]:
        """Another gateway on a port, with more options than the first; starting, not started."""
        name = f"rgw-{port}"
        told = [f"--{key}={value}" for key, value in options.items()]
        (Path(self.home) / name).mkdir()
        front = f"--rgw-frontends=beast endpoint=127.0.0.1:{port}"
        keyring = f"{self.home}/ceph.client.rgw.keyring"
        data = f"--rgw-data={self.home}/{name}"
        self._start(name, "radosgw", "-n", "client.rgw", "--keyring", keyring, front, data, *told)
        try:
            yield
        finally:
            for pid in self.pids(name):
                os.kill(pid, signal.SIGKILL)

    def pids(self, name: str = "") -> list[int]:
        """The running daemons of this cluster."""
        found = []
        for path in sorted(Path(self.home, "run").glob(f"{name}*.pid")):
            pid = int(path.read_text())
            with suppress(OSError):
                if self.home.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def remove(self) -> None:
        """Stop everything and leave no file."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 30
        while self.pids() and time.monotonic() < end:
            time.sleep(0.05)
        shutil.rmtree(self.home, ignore_errors=True)

    # ---- starting

    def _keys(self) -> None:
        """Keyrings for everybody; the monitor is born knowing them all."""
        whole = ""
        for name, caps in _CAPS.items():
            key = subprocess.run(["ceph-authtool", "--gen-print-key"], check=True, capture_output=True, text=True)
            entry = f"[{name}]\n\tkey = {key.stdout.strip()}\n"
            entry += "".join(f'\tcaps {who} = "{what}"\n' for who, what in caps.items())
            whole += entry
            Path(self.home, f"ceph.{name}.keyring").write_text(entry)
        Path(self.home, "keyring").write_text(whole)

    def _start(self, name: str, *argv: str) -> None:
        """A daemon that outlives this process; the watcher ends it."""
        with open(f"{self.home}/log/{name}.out", "ab") as out:
            process = subprocess.Popen(
                [*argv, "-c", self.conf, "-f"], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        Path(self.home, "run", f"{name}.pid").write_text(str(let_go(process)))

    def start(self) -> None:
        """Make the cluster and wait until it takes data."""
        home = Path(self.home)
        for name in ("mon", "osd", "mgr", "rgw", "run", "log", "modules"):
            (home / name).mkdir()
        for module in ("mgr_module.py", "mgr_util.py"):  # the manager counts bytes; its many modules are not needed
            (home / "modules" / module).symlink_to(f"/usr/share/ceph/mgr/{module}")
        Path(self.conf).write_text(_CONF.format(home=home, fsid=self.fsid, port=self.port, s3=self.s3))
        self._keys()
        address = f"[v2:127.0.0.1:{self.port}]"
        subprocess.run(
            ["monmaptool", "--create", "--addv", "a", address, "--fsid", self.fsid, str(home / "monmap")],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        self.run("ceph-mon", "-i", "a", "--mkfs", "--monmap", str(home / "monmap"), "--keyring", str(home / "keyring"))
        self._start("mon", "ceph-mon", "-i", "a")
        disk = str(uuid.uuid4())
        osd_keys = ["--keyring", f"{home}/ceph.osd.0.keyring"]
        with ThreadPoolExecutor(2) as side:
            made = side.submit(self.run, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk, *osd_keys)
            self.run("ceph", "osd", "new", disk, "0")
            made.result()
        self._start("osd", "ceph-osd", "-i", "0", *osd_keys)
        self._start("mgr", "ceph-mgr", "-i", "x", "--keyring", f"{home}/ceph.mgr.x.keyring")
        self.run("ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=h")
        self._start("rgw", "radosgw", "-n", "client.rgw", "--keyring", f"{home}/ceph.client.rgw.keyring")
        self.run(
            "radosgw-admin", "user", "create", "--uid", "cumulet", "--display-name", "cumulet",
            "--access-key", self.access_key, "--secret-key", self.secret_key,
        )  # fmt: skip
        self.run(
            "radosgw-admin", "subuser", "create", "--uid", "cumulet", "--subuser", "cumulet:swift", "--access", "full",
            "--key-type", "swift", "--secret-key", self.secret_key,
        )  # fmt: skip
        self._make_buckets()

    def _make_buckets(self) -> None:
        end = time.monotonic() + _PATIENCE
        client = self.s3_client()
        for bucket in _BUCKETS:
            while True:
                try:
                    client.create_bucket(Bucket=bucket)
                    break
                except Exception as error:
                    said = Path(self.home, "log", "rgw.out").read_text(errors="replace")[-2000:]
                    if time.monotonic() > end:
                        raise AssertionError(f"the gateway is slow to start: {said}") from error
                    time.sleep(0.1)


def make_cluster() -> Cluster:
    """A new cluster; its home is locked by whoever holds ``home/users``."""
    for program in ("ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "rbd"):
        assert shutil.which(program), f"{program} is not installed; run tools/setup.sh machine"
    _remove_abandoned()
    home = tempfile.mkdtemp(prefix=_PREFIX, dir=short())
    port, s3 = free_ports(2)
    cluster = Cluster(home, str(uuid.uuid4()), port, s3, uuid.uuid4().hex[:20], uuid.uuid4().hex)
    Path(home, "cluster.json").write_text(json.dumps(asdict(cluster)))
    return cluster


def _remove_abandoned() -> None:
    """Remove the clusters of sessions whose watcher was killed, too."""
    for record in Path(short()).glob(f"{_PREFIX}*/cluster.json"):
        with suppress(OSError, ValueError, TypeError), open(record.with_name("users"), "ab") as users:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            Cluster(**json.loads(record.read_text())).remove()


@contextmanager
def ceph_cluster(shared: Path) -> Iterator[Cluster]:
    """The cluster of this session; ``shared`` is a directory that all its processes see."""
    with open(shared / "ceph.cluster", "a+") as record:
        fcntl.flock(record, fcntl.LOCK_EX)
        record.seek(0)
        known = record.read()
        cluster = Cluster(**json.loads(known)) if known else make_cluster()
        with open(f"{cluster.home}/users", "ab") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            if not known:
                argv = [sys.executable, "-m", __name__, cluster.home]
                let_go(subprocess.Popen(argv, cwd=Path(__file__).parents[1], start_new_session=True))
                cluster.start()
                record.write(json.dumps(asdict(cluster)))
                record.flush()
            fcntl.flock(record, fcntl.LOCK_UN)
            yield cluster


def _watch(home: str) -> None:
    """Wait until nobody uses the cluster any more, however they ended, and remove it."""
    cluster = Cluster(**json.loads(Path(home, "cluster.json").read_text()))
    with open(f"{home}/users", "ab") as users:
        fcntl.flock(users, fcntl.LOCK_EX)
        cluster.remove()


@pytest.fixture(scope="session")
def ceph_session(rabbit_shared: Path) -> Iterator[Cluster]:
    """The Ceph that this session started."""
    with ceph_cluster(rabbit_shared) as cluster:
        yield cluster


@contextmanager
def _held(shared: Path, how: int) -> Iterator[None]:
    with open(shared / "ceph.tests", "ab") as lock:
        fcntl.flock(lock, how)
        yield


@pytest.fixture
def ceph(ceph_session: Cluster, rabbit_shared: Path) -> Iterator[Cluster]:
    """A real Ceph."""
    with _held(rabbit_shared, fcntl.LOCK_SH):
        yield ceph_session


@pytest.fixture
def ceph_alone(ceph_session: Cluster, rabbit_shared: Path) -> Iterator[Cluster]:
    """The same, for a test that halts it: nobody else uses it meanwhile."""
    with _held(rabbit_shared, fcntl.LOCK_EX):
        yield ceph_session


@pytest.fixture(scope="module")
def ceph_pool(ceph_session: Cluster) -> Iterator[str]:
    """A pool for one module's tests."""
    pool = ceph_session.make_pool()
    yield pool
    ceph_session.drop_pool(pool)


if __name__ == "__main__":
    _watch(sys.argv[1])
