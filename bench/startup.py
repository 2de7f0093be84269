# SPDX-License-Identifier: Apache-2.0
"""How soon a cloud answers: `python bench/startup.py [ROUNDS]`.

Times, in wall-clock seconds, `cumulet --help`, then for a fresh directory each
round the way from the command to the first token: the first start, and two later ones.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

CUMULET = str(Path(sys.executable).with_name("cumulet"))
PORT = 18399


def token(data: Path) -> None:
    auth = yaml.safe_load((data / "clouds.yaml").read_text())["clouds"]["cumulet"]["auth"]
    user = {"name": auth["username"], "password": auth["password"], "domain": {"id": "default"}}
    wanted = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
    request = urllib.request.Request(f"{auth['auth_url']}/v3/auth/tokens", json.dumps(wanted).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


def start(data: Path) -> float:
    begun = time.perf_counter()
    argv = [CUMULET, "up", "--data", str(data), "--port", str(PORT), "--hypervisor", "simulated", "--detach"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    token(data)
    took = time.perf_counter() - begun
    subprocess.run([CUMULET, "down", "--data", str(data)], check=True, stdout=subprocess.DEVNULL)
    return took


def main(rounds: int) -> None:
    first, later, helps = [], [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        subprocess.run([CUMULET, "--help"], check=True, stdout=subprocess.DEVNULL)
        helps.append(time.perf_counter() - begun)
        data = Path(tempfile.mkdtemp(prefix="cumulet-bench-"))
        first.append(start(data))
        later += [start(data), start(data)]
        shutil.rmtree(data)
    for name, figures in (("--help", helps), ("first start to token", first), ("later start to token", later)):
        print(f"{name:<22} min {min(figures):.2f} s   median {statistics.median(figures):.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
