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
import collections
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from onecloud import BIN, ROOT, Cloud

TEMPEST = ROOT / ".venv-tempest"
PINNED = ROOT / "tests" / "tempest" / "passing.txt"
REQUIRES = "tempest==47.*"
GROUPS = {
    **{name: rf"tempest\.api\.{name}\." for name in ("identity", "image", "compute", "network", "volume")},
    "objectstore": r"tempest\.api\.object_storage\.",
    "scenario": r"tempest\.scenario\.",
    "serial": r"tempest\.serial_tests\.",
}
SEVERAL_STORES = ROOT / "tests" / "tempest" / "stores.toml"


class Profile(NamedTuple):
    """Tests that need a cloud of their own kind: what they are, and how it differs from the usual one."""

    pattern: str
    appended: Path | None = None
    """A file appended to cloud.toml."""
    environ: dict[str, str] = {}
    """Settings by their environment variables."""
    replaced: dict[str, str] = {}
    """Lines of tempest.conf."""


PROFILES = [
    Profile(
        "do_secure_hash_false", SEVERAL_STORES, {"CUMULET_IMAGE_HASH_LOCATIONS": "false"},
        {"do_secure_hash = true": "do_secure_hash = false"},
    ),
    Profile(r"MultiStores|Multistore|StoreWeight|ImportCopyImages", SEVERAL_STORES),
    Profile(""),
]  # fmt: skip
"""A test runs under the first that matches."""
PASS, FAIL, SKIP = "passed", "failed", "skipped"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=" ".join(GROUPS))
    parser.add_argument("--match", metavar="REGEX", help="only tests whose id matches")
    parser.add_argument("--pinned", action="store_true", help="run the pinned list; fail unless all of it passes")
    parser.add_argument("--pin", action="store_true", help="write what passed of the asked groups into the pinned list")
    parser.add_argument("--list", action="store_true", help="only list the tests")
    parser.add_argument("--keep", action="store_true", help="keep the cloud's log and Tempest's, and say where")
    parser.add_argument("--concurrency", type=int, default=2)
    asked = parser.parse_args()
    if unknown := set(asked.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; known: {', '.join(GROUPS)}")
    if asked.pin and (asked.match or asked.pinned or not asked.groups):
        parser.error("--pin goes with whole groups")
    ensure_tempest()
    run = Path(tempfile.mkdtemp(prefix="tempest-", dir=made(ROOT / "build")))
    try:
        prepare(run)
        tests = choose(run, asked)
        if asked.list:
            print("\n".join(sorted(tests)))
            return 0
        outcomes, seconds = {}, 0.0
        for number, (profile, chosen) in enumerate(by_profile(tests)):
            with (
                Cloud(run / f"cloud-{number}", settings(profile), profile.environ) as cloud,
                Files(run / "http") as files,
            ):
                write_config(run, cloud, files.url, profile)
                started = time.monotonic()
                outcomes |= execute(run, chosen, asked.concurrency)
                seconds += time.monotonic() - started
    finally:
        if asked.keep:
            print(f"logs: {run}")
        else:
            shutil.rmtree(run, ignore_errors=True)
    text = report(outcomes, seconds)
    print(text)
    into = made(ROOT / "build" / "tempest")
    (into / "report.txt").write_text(text + "\n")
    (into / "report.json").write_text(json.dumps({"seconds": seconds, "tests": outcomes}, indent=1, sort_keys=True))
    if asked.pin:
        pin(asked.groups, [test for test, one in outcomes.items() if one["outcome"] == PASS])
    bad = PASS if asked.pinned else SKIP
    return int(any(one["outcome"] not in (PASS, bad) for one in outcomes.values()))


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ensure_tempest() -> None:
    """An environment with Tempest in it, made once."""
    stamp = TEMPEST / ".stamp"
    want = hashlib.sha256(REQUIRES.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == want:
        return
    print(f"installing {REQUIRES} into {TEMPEST.name}", flush=True)
    uv = str(BIN / "uv")
    subprocess.run([uv, "venv", "-q", "--allow-existing", "--python", str(BIN / "python"), str(TEMPEST)], check=True)
    subprocess.run([uv, "pip", "install", "-q", "--python", str(TEMPEST / "bin" / "python"), REQUIRES], check=True)
    stamp.write_text(want)


def prepare(run: Path) -> None:
    """A workspace of stestr, in which tests can be listed before there is a cloud."""
    packages = next((TEMPEST / "lib").glob("python3*")) / "site-packages"
    (run / ".stestr.conf").write_text(
        f"[DEFAULT]\ntest_path={packages}/tempest/test_discover\ntop_dir={packages}\ngroup_regex=([^\\.]*\\.)*\n"
    )
    (run / "tempest.conf").write_text("")
    stestr(run, "init", check=True)


def stestr(run: Path, *words: str, **how: Any) -> subprocess.CompletedProcess[Any]:
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OS_")},
        "TEMPEST_CONFIG_DIR": str(run), "TEMPEST_CONFIG": "tempest.conf", "HOME": str(run),
        "OS_TEST_TIMEOUT": "300", "PYTHONWARNINGS": "ignore",
        "PATH": f"{TEMPEST / 'bin'}:{os.environ.get('PATH', '')}",
    }  # fmt: skip
    return subprocess.run([str(TEMPEST / "bin" / "stestr"), *words], cwd=run, env=environ, **how)


def choose(run: Path, asked: argparse.Namespace) -> dict[str, str]:
    """Name of each asked test → the id by which stestr knows it (with attributes)."""
    pattern = "|".join(GROUPS[group] for group in asked.groups) or "|".join(GROUPS.values())
    told = stestr(run, "list", pattern, capture_output=True, text=True)
    if told.returncode != 0:
        sys.exit(f"Tempest's tests can't be listed:\n{told.stdout}{told.stderr}")
    tests = {plain(line): line for line in told.stdout.splitlines() if line.startswith("tempest.")}
    if asked.match:
        tests = {name: full for name, full in tests.items() if re.search(asked.match, full)}
    if asked.pinned:
        wanted = [name for name in pinned() if re.match(pattern, name)]
        if missing := [name for name in wanted if name not in tests]:
            sys.exit("These pinned tests are not in Tempest:\n  " + "\n  ".join(missing))
        tests = {name: tests[name] for name in wanted}
    if not tests:
        sys.exit("No test matches.")
    return tests


def plain(test: str) -> str:
    return re.sub(r"\[.*$", "", test)


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


def facts(cloud: Cloud) -> dict[str, str]:
    """What tempest.conf must name: images, flavors, the public network."""
    import openstack

    os.environ.pop("OS_CLOUD", None)
    admin = openstack.connect(
        auth_url=f"{cloud.url}/identity/v3", username="admin", password=cloud.password, project_name="admin",
        user_domain_id="default", project_domain_id="default", region_name="RegionOne",
        load_yaml_config=False, load_envvars=False,
    )  # fmt: skip
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


def execute(run: Path, tests: dict[str, str], concurrency: int) -> dict[str, dict[str, str]]:
    """Name of each test → its outcome and the reason."""
    (run / "ids").write_text("\n".join(tests.values()) + "\n")
    with open(run / "stream", "wb") as stream, open(run / "stestr.log", "wb") as log:
        stestr(run, "run", "--subunit", "--concurrency", str(concurrency), "--load-list", "ids",
               stdout=stream, stderr=log)  # fmt: skip
    reader = [str(TEMPEST / "bin" / "python"), str(ROOT / "tools" / "tempest_outcomes.py"), str(run / "stream")]
    raw = json.loads(subprocess.run(reader, capture_output=True, check=True).stdout)
    classes = {found[1]: one for name, one in raw.items() if (found := re.match(r"setUpClass \((.*)\)$", name))}
    told = {plain(name): one for name, one in raw.items() if one["status"]}
    names = {"success": PASS, "skip": SKIP}
    outcomes = {}
    for test in sorted(tests):
        one = told.get(test) or classes.get(test.rpartition(".")[0]) or {"status": "", "text": "it did not run"}
        outcome = names.get(one["status"], FAIL)
        outcomes[test] = {"outcome": outcome, "reason": "" if outcome == PASS else reason(one["text"])}
    return outcomes


def reason(text: str) -> str:
    """The last line of a traceback or of a skip's reason that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith((" ", "Captured"))]
    told = [
        line
        for line in lines
        if re.match(r"(Details|Body|\w[\w.]*(Error|Exception|exceptions\.\w+)|\w+\.\w+)[:\s]", line)
    ]
    return " · ".join((told or lines or ["no reason was given"])[-2:])[:400]


def group_of(test: str) -> str:
    return next(group for group, pattern in GROUPS.items() if re.match(pattern, test))


def report(outcomes: dict[str, dict[str, str]], seconds: float) -> str:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for test, one in outcomes.items():
        counts[group_of(test)][one["outcome"]] += 1
    lines = [f"{'group':<12} {PASS:>7} {FAIL:>7} {SKIP:>7}"]
    for group, count in [*counts.items(), ("all", sum(counts.values(), collections.Counter()))]:
        lines.append(f"{group:<12} {count[PASS]:>7} {count[FAIL]:>7} {count[SKIP]:>7}")
    lines.append(f"{seconds:.0f} s")
    for kind in (SKIP, FAIL):
        chosen = [(test, one["reason"]) for test, one in outcomes.items() if one["outcome"] == kind]
        if chosen:
            lines += ["", f"{kind}:", *(f"  {test}\n      {why}" for test, why in chosen)]
    return "\n".join(lines)


def pinned() -> list[str]:
    return [line for line in PINNED.read_text().splitlines() if line and not line.startswith("#")]


def pin(groups: list[str], passed: list[str]) -> None:
    """Replace the rows of ``groups`` by what passed."""
    kept = [test for test in (pinned() if PINNED.exists() else []) if group_of(test) not in groups]
    head = "# Tests of Tempest 47 that pass and must go on passing; written by `make tempest ARGS='GROUP… --pin'`.\n"
    PINNED.write_text(head + "\n".join(sorted({*kept, *passed})) + "\n")


if __name__ == "__main__":
    sys.exit(main())
