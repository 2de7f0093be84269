#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs OpenStack's own test suite, Tempest, against a fresh simulated cloud.

    make tempest ARGS='identity image'          groups: identity image compute network volume scenario serial
    make tempest ARGS='--match test_images'     tests whose id matches a pattern
    make tempest ARGS='--pinned'                what is known to pass; fails when one of it no longer does
    make tempest ARGS='--pinned identity image' the same, of these groups
    make tempest ARGS='identity --pin'          writes what passed into the pinned list

The report (passed, failed, skipped by group and why) is printed and kept in
build/tempest/report.txt and .json. Tempest has an environment of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hostile
import suites
from onecloud import BIN, ROOT, Cloud
from suites import made
from tests.postgres import postgres_server

SUITE = suites.Suite(
    "Tempest 47", "tempest/test_discover", "tempest.",
    {
        **{name: rf"tempest\.api\.{name}\." for name in ("identity", "image", "compute", "network", "volume")},
        "objectstore": r"tempest\.api\.object_storage\.",
        "scenario": r"tempest\.scenario\.",
        "serial": r"tempest\.serial_tests\.",
    },
    ROOT / "tests" / "tempest" / "passing.txt",
    "make tempest ARGS='GROUP… --pin'",
)  # fmt: skip
SEVERAL_STORES = ROOT / "tests" / "tempest" / "stores.toml"


SECOND = "image_remote"
"""The service type of the second process."""


class Profile(NamedTuple):
    """Tests that need a cloud of their own kind: what they are, and how it differs from the usual one."""

    pattern: str
    appended: Path | None = None
    """A file appended to cloud.toml."""
    environ: dict[str, str] = {}
    """Settings by their environment variables."""
    replaced: dict[str, str] = {}
    """Lines of tempest.conf."""
    second: bool = False
    """Whether a second process serves images too (on PostgreSQL), under a service type of its own."""
    scenarios: bool = False
    """Whether tests are known by their names only once tempest.conf is written."""
    unskipped: str = ""
    """A bug of another service, for which Tempest skips tests that pass here: they run all the same."""


PROFILES = [
    Profile(
        "do_secure_hash_false", SEVERAL_STORES, {"CUMULET_IMAGE_HASH_LOCATIONS": "false"},
        {"do_secure_hash = true": "do_secure_hash = false"},
    ),
    Profile(
        r"ImagesFormatTest", replaced={"[image]\n": "[image]\nimages_manifest_file = @RUN@/images/manifest.yaml\n"},
        scenarios=True,
    ),
    Profile(
        r"test_remote_(import|delete|and_self_cache)",
        replaced={"[image]\n": f"[image]\nalternate_image_endpoint = {SECOND}\n"}, second=True,
    ),
    Profile(r"test_image_tasks_create$", unskipped="2030527"),
    Profile(r"MultiStores|Multistore|StoreWeight|ImportCopyImages", SEVERAL_STORES),
    Profile(""),
]  # fmt: skip
"""A test runs under the first that matches."""


def play(run: Path, tests: dict[str, str], asked: argparse.Namespace) -> tuple[dict[str, Any], float]:
    outcomes, seconds = {}, 0.0
    for number, (profile, chosen) in enumerate(by_profile(tests)):
        with contextlib.ExitStack() as stack:
            text = settings(profile)
            if profile.second:
                text = shared(text, run, stack.enter_context(postgres_server()))
            cloud = stack.enter_context(Cloud(run / f"cloud-{number}", text, profile.environ))
            if profile.second:
                stack.enter_context(second(run, cloud, text))
            files = stack.enter_context(Files(run / "http"))
            write_config(run, cloud, files.url, profile)
            if profile.scenarios:
                hostile.write(run / "images")
                chosen = suites.scenarios(run, SUITE, chosen)
            if profile.unskipped:
                stack.enter_context(unskipped(run, profile.unskipped))
            started = time.monotonic()
            outcomes |= suites.execute(run, chosen, asked.concurrency)
            seconds += time.monotonic() - started
    return outcomes, seconds


@contextlib.contextmanager
def unskipped(run: Path, bug: str) -> Iterator[None]:
    """Tempest's processes run what it skips because of this bug."""
    hook = made(run / suites.HOOKS) / "sitecustomize.py"
    hook.write_text(
        "from tempest.lib import decorators\n"
        "skips = decorators.skip_because\n"
        f"decorators.skip_because = lambda **why: (lambda test: test) if why['bug'] == {bug!r} else skips(**why)\n"
    )
    yield
    hook.unlink()


def by_profile(tests: dict[str, str]) -> Iterator[tuple[Profile, dict[str, str]]]:
    """The profiles that are needed, each with its tests."""
    rest = dict(tests)
    for profile in PROFILES:
        if chosen := {name: rest.pop(name) for name in list(rest) if re.search(profile.pattern, name)}:
            yield profile, chosen


def settings(profile: Profile) -> str:
    """The text of the cloud's settings file."""
    text = (ROOT / "tests" / "tempest" / "cloud.toml").read_text()
    return text + (profile.appended.read_text() if profile.appended else "")


def shared(text: str, run: Path, database: str) -> str:
    """Settings for several processes: one database, one folder of images, one of what waits for its import."""
    text = text.replace("[image]\n", f'[image]\nstaging = "{run}/staging"\n', 1)
    text = text.replace('id = "file"\n', f'id = "file"\npath = "{run}/store"\n', 1)
    return f'{text}\n[cloud]\ndatabase = "{database}"\n'


@contextlib.contextmanager
def second(run: Path, cloud: Cloud, text: str) -> Iterator[None]:
    """Another `image-api` of the same cloud, in its catalogue under a type of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    known = f'secrets = "{cloud.data}/secrets.json"\n[cloud.endpoints]\nidentity = "{cloud.url}/identity"\n'
    file = run / "second.toml"
    file.write_text(text + known)
    argv = [
        str(BIN / "cumulet"), "run", "image-api", "--settings", str(file), "--data", str(run / "second"),
        "--name", "second", "--port", str(port), "--hypervisor", "simulated",
    ]  # fmt: skip
    with open(run / "second.log", "wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while b"ready: " not in (run / "second.log").read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"The second image service does not start:\n{(run / 'second.log').read_text()}")
            time.sleep(0.1)
        admin = connected(cloud)
        service = admin.identity.create_service(type=SECOND, name=SECOND)
        where = {"interface": "public", "region_id": "RegionOne", "url": f"http://127.0.0.1:{port}/image"}
        admin.identity.create_endpoint(service_id=service.id, **where)
        yield
    finally:
        process.terminate()
        process.wait(60)


def connected(cloud: Cloud) -> Any:
    """The openstack SDK, as the administrator."""
    import openstack

    os.environ.pop("OS_CLOUD", None)
    return openstack.connect(
        auth_url=f"{cloud.url}/identity/v3", username="admin", password=cloud.password, project_name="admin",
        user_domain_id="default", project_domain_id="default", region_name="RegionOne",
        load_yaml_config=False, load_envvars=False,
    )  # fmt: skip


def facts(cloud: Cloud) -> dict[str, str]:
    """What tempest.conf must name: images, flavors, the public network."""
    admin = connected(cloud)
    image = next(admin.image.images(name="tiny"))
    alt = admin.image.create_image(
        name="tiny-alt", disk_format="raw", container_format="bare", visibility="public", data=b"\0" * 4096
    )
    flavors = sorted(admin.compute.flavors(), key=lambda one: (one.ram, one.disk))
    public = next(admin.network.networks(name="public"))
    aliases = ",".join(one.alias for one in admin.network.extensions())
    return {
        "IMAGE": image.id, "IMAGE_ALT": alt.id, "FLAVOR": flavors[0].id, "FLAVOR_ALT": flavors[1].id,
        "PUBLIC_NETWORK": public.id, "NETWORK_EXTENSIONS": aliases,
    }  # fmt: skip


class Files:
    """An http server on loopback with two small images, for imports from the web."""

    def __init__(self, folder: Path) -> None:
        made(folder)
        (folder / "small.tar.gz").write_bytes(os.urandom(65536))
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(folder / "small.img"), "4M"], check=True)
        quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(quiet, directory=str(folder))
        )
        self._server.handle_error = lambda *_: None  # some tests go away in the middle of a download
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Files:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def write_config(run: Path, cloud: Cloud, files: str, profile: Profile) -> None:
    values = {
        "RUN": str(run), "ADMIN_PASSWORD": cloud.password, "IDENTITY_URL": f"{cloud.url}/identity", "HTTP": files,
        **facts(cloud),
    }  # fmt: skip
    text = (ROOT / "tests" / "tempest" / "tempest.conf.in").read_text()
    for line, other in profile.replaced.items():
        text = text.replace(line, other)
    (run / "tempest.conf").write_text(re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], text))


if __name__ == "__main__":
    sys.exit(suites.main(SUITE, __doc__, play))
