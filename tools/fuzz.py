#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sends what the OpenAPI documents allow, and what they do not, to a fresh simulated cloud.

    make fuzz                                       identity and image, a few requests for each operation
    make fuzz ARGS='identity --examples 60'         about 10,000 requests
    make fuzz ARGS='image --examples 150'           about 10,000 requests
    make fuzz ARGS='compute --seed 7'

No answer may be a 5xx, have a content type that the document does not know, or
break its own schema. Schemathesis makes the requests, as an administrator.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from onecloud import BIN, Cloud

SETTINGS = """
[identity]
hash_memory_kib = 1024
hash_passes = 1

[image]  # nothing that a request names is fetched from anywhere
web_hosts = ["127.0.0.1"]
"""
CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"
MOUNTS = {name: f"/{name}" for name in ("identity", "image", "placement", "compute", "network", "volume")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=" ".join(MOUNTS))
    parser.add_argument("--examples", type=int, default=4, help="requests for each operation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the cloud's log and say where")
    asked = parser.parse_args()
    services = asked.services or ["identity", "image"]
    if unknown := set(services) - set(MOUNTS):
        parser.error(f"no such service: {', '.join(sorted(unknown))}")
    run = Path(tempfile.mkdtemp(prefix="cumulet-fuzz-"))
    worst = 0
    try:
        for service in services:  # a cloud each: what one run broke is no business of the next
            with Cloud(run / service, SETTINGS) as cloud:
                worst = max(worst, fuzz(cloud, service, asked.examples, asked.seed, run))
                worst = max(worst, look(cloud, service))
    finally:
        if asked.keep or worst:
            print(f"logs: {run}")
        else:
            shutil.rmtree(run, ignore_errors=True)
    return worst


def fuzz(cloud: Cloud, service: str, examples: int, seed: int, run: Path) -> int:
    print(f"--- {service}", flush=True)
    command = [
        str(BIN / "schemathesis"), "run", f"{cloud.url}{MOUNTS[service]}/openapi.json", "--checks", CHECKS,
        "--phases", "fuzzing", "--max-examples", str(examples), "--seed", str(seed), "--workers", "2",
        "--header", f"X-Auth-Token: {token(cloud)}", "--request-timeout", "30", "--continue-on-failure",
        "--suppress-health-check", "all", "--warnings", "off", "--no-color", "--exclude-path-regex", "feed|cumulet",
    ]  # fmt: skip
    told = subprocess.run(command, cwd=run, capture_output=True, text=True)
    lines = told.stdout.splitlines()
    start = next((number for number, line in enumerate(lines) if re.match(r"=+ (FAILURES|ERRORS|SUMMARY)", line)), 0)
    print("\n".join(lines[start:]) or told.stderr)
    return told.returncode


def token(cloud: Cloud) -> str:
    """An administrator's token on the whole system, which most rules of identity take."""
    user = {"name": "admin", "domain": {"id": "default"}, "password": cloud.password}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    request = urllib.request.Request(  # noqa: S310 - the cloud's own URL
        f"{cloud.url}/identity/v3/auth/tokens", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
        return reply.headers["x-subject-token"]


def look(cloud: Cloud, service: str) -> int:
    """Print the unexpected errors in the cloud's log, each once; 1 when there is any."""
    log = (cloud.data / "cumulet.log").read_text(errors="replace")
    errors = {match[0].strip() for match in re.finditer(r"(?m)^(?:\w+\.)*\w*(?:Error|Exception)\b.*$", log)}
    for line in sorted(errors):
        print(f"in the log of {service}: {line[:300]}")
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main())
