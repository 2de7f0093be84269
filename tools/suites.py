# SPDX-License-Identifier: Apache-2.0
"""What the tools that run other people's test suites share: their environment, stestr, pinned lists, reports."""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onecloud import BIN, ROOT

ENVIRONMENT = ROOT / ".venv-tempest"
REQUIRES = ("tempest==47.*", "python-openstackclient>=10")
HOOKS = "python"
"""A folder of a run's workspace whose ``sitecustomize`` the suite's processes load."""
PASS, FAIL, SKIP = "passed", "failed", "skipped"


@dataclass(frozen=True)
class Suite:
    """One suite: where stestr finds it, its groups (name → pattern of a test's id), and its pinned list."""

    title: str
    discover: str
    """The folder with its tests below site-packages; tests of ``prefix`` are its own."""
    prefix: str
    groups: dict[str, str]
    pinned: Path
    command: str
    """How its pinned list is written, for the list's first line."""

    def known(self) -> list[str]:
        """The pinned tests."""
        if not self.pinned.exists():
            return []
        return [line for line in self.pinned.read_text().splitlines() if line and not line.startswith("#")]

    def group_of(self, test: str) -> str:
        return next(group for group, pattern in self.groups.items() if re.match(pattern, test))

    def pin(self, groups: list[str], passed: list[str]) -> None:
        """Replace the rows of ``groups`` by what passed."""
        kept = [test for test in self.known() if self.group_of(test) not in groups]
        head = f"# Tests of {self.title} that pass and must go on passing; written by `{self.command}`.\n"
        self.pinned.write_text(head + "\n".join(sorted({*kept, *passed})) + "\n")


def arguments(suite: Suite, description: str) -> argparse.Namespace:
    """The command line that each of the tools has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=" ".join(suite.groups))
    parser.add_argument("--match", metavar="REGEX", help="only tests whose id matches")
    parser.add_argument("--pinned", action="store_true", help="run the pinned list; fail unless all of it passes")
    parser.add_argument("--pin", action="store_true", help="write what passed of the asked groups into the pinned list")
    parser.add_argument("--list", action="store_true", help="only list the tests")
    parser.add_argument("--keep", action="store_true", help="keep the cloud's log and the suite's, and say where")
    parser.add_argument("--concurrency", type=int, default=2)
    asked = parser.parse_args()
    if unknown := set(asked.groups) - set(suite.groups):
        parser.error(f"no such group: {', '.join(sorted(unknown))}; known: {', '.join(suite.groups)}")
    if asked.pin and (asked.match or asked.pinned or not asked.groups):
        parser.error("--pin goes with whole groups")
    return asked


Play = Callable[[Path, dict[str, str], argparse.Namespace], tuple[dict[str, Any], float]]
"""Runs tests in a folder of the run's own; tells each one's outcome and how many seconds the tests took."""


def main(suite: Suite, description: str, play: Play) -> int:
    """What each of the tools does, from its command line to its status."""
    asked = arguments(suite, description)
    ensure_environment()
    run = Path(tempfile.mkdtemp(prefix=f"cumulet-{suite.pinned.parent.name}-"))
    try:
        prepare(run, suite)
        tests = choose(run, suite, asked)
        if asked.list:
            print("\n".join(sorted(tests)))
            return 0
        outcomes, seconds = play(run, tests, asked)
    finally:
        if asked.keep:
            print(f"logs: {run}")
        else:
            shutil.rmtree(run, ignore_errors=True)
    return finish(suite, asked, outcomes, seconds)


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ensure_environment() -> None:
    """An environment with Tempest and the client in it, made once."""
    stamp = ENVIRONMENT / ".stamp"
    want = hashlib.sha256(repr(REQUIRES).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == want:
        return
    print(f"installing {', '.join(REQUIRES)} into {ENVIRONMENT.name}", flush=True)
    uv, python = str(BIN / "uv"), str(ENVIRONMENT / "bin" / "python")
    subprocess.run(
        [uv, "venv", "-q", "--allow-existing", "--python", str(BIN / "python"), str(ENVIRONMENT)], check=True
    )
    subprocess.run([uv, "pip", "install", "-q", "--python", python, *REQUIRES], check=True)
    stamp.write_text(want)


def prepare(run: Path, suite: Suite) -> None:
    """A workspace of stestr, in which tests can be listed before there is a cloud."""
    packages = next((ENVIRONMENT / "lib").glob("python3*")) / "site-packages"
    (run / ".stestr.conf").write_text(
        f"[DEFAULT]\ntest_path={packages}/{suite.discover}\ntop_dir={packages}\ngroup_regex=([^\\.]*\\.)*\n"
    )
    (run / "tempest.conf").write_text("")
    stestr(run, "init", check=True)


def environ(run: Path) -> dict[str, str]:
    """What a suite's processes see; a folder ``bin`` of the workspace comes first on the path."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OS_", "XDG_"))},
        "TEMPEST_CONFIG_DIR": str(run), "TEMPEST_CONFIG": "tempest.conf", "HOME": str(run),
        "OS_TEST_TIMEOUT": "300", "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": str(run / HOOKS),
        "PATH": f"{run / 'bin'}:{ENVIRONMENT / 'bin'}:{os.environ.get('PATH', '')}",
    }  # fmt: skip


def stestr(run: Path, *words: str, **how: Any) -> subprocess.CompletedProcess[Any]:
    return subprocess.run([str(ENVIRONMENT / "bin" / "stestr"), *words], cwd=run, env=environ(run), **how)


def choose(run: Path, suite: Suite, asked: argparse.Namespace) -> dict[str, str]:
    """Name of each asked test → the id by which stestr knows it (with attributes)."""
    pattern = "|".join(suite.groups[group] for group in asked.groups) or "|".join(suite.groups.values())
    told = stestr(run, "list", pattern, capture_output=True, text=True)
    if told.returncode != 0:
        sys.exit(f"The tests of {suite.title} can't be listed:\n{told.stdout}{told.stderr}")
    tests = {plain(line): line for line in told.stdout.splitlines() if line.startswith(suite.prefix)}
    if asked.match:
        tests = {name: full for name, full in tests.items() if re.search(asked.match, full)}
    if asked.pinned:
        wanted = [name for name in suite.known() if re.match(pattern, name)]
        if missing := [name for name in wanted if name not in tests]:
            sys.exit(f"These pinned tests are not in {suite.title}:\n  " + "\n  ".join(missing))
        tests = {name: tests[name] for name in wanted}
    if not tests:
        sys.exit("No test matches.")
    return tests


def plain(test: str) -> str:
    return re.sub(r"\[.*$", "", test)


def execute(run: Path, tests: dict[str, str], concurrency: int) -> dict[str, dict[str, str]]:
    """Name of each test → its outcome and the reason."""
    (run / "ids").write_text("\n".join(tests.values()) + "\n")
    with open(run / "stream", "wb") as stream, open(run / "stestr.log", "wb") as log:
        stestr(run, "run", "--subunit", "--concurrency", str(concurrency), "--load-list", "ids",
               stdout=stream, stderr=log)  # fmt: skip
    reader = [str(ENVIRONMENT / "bin" / "python"), str(ROOT / "tools" / "tempest_outcomes.py"), str(run / "stream")]
    raw = json.loads(subprocess.run(reader, capture_output=True, check=True).stdout)
    classes = {found[1]: one for name, one in raw.items() if (found := re.match(r"setUpClass \((.*)\)$", name))}
    names = {"success": PASS, "skip": SKIP}
    told: dict[str, dict[str, str]] = {}
    for name, one in raw.items():  # a test that runs in several scenarios is as good as the worst that ran
        before = told.get(plain(name))
        if one["status"] and (before is None or _worse(one, before)):
            told[plain(name)] = one
    outcomes = {}
    for test in sorted(tests):
        one = told.get(test) or classes.get(test.rpartition(".")[0]) or {"status": "", "text": "it did not run"}
        outcome = names.get(one["status"], FAIL)
        outcomes[test] = {"outcome": outcome, "reason": "" if outcome == PASS else reason(one["text"])}
    return outcomes


def _worse(one: dict[str, str], other: dict[str, str]) -> bool:
    order = ("skip", "success")
    rank = [order.index(found["status"]) if found["status"] in order else len(order) for found in (one, other)]
    return rank[0] > rank[1]


def scenarios(run: Path, suite: Suite, tests: dict[str, str]) -> dict[str, str]:
    """The same tests with the ids, one a line, that they have with the configuration as it stands now."""
    told = stestr(run, "list", capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    for line in told.stdout.splitlines():
        if line.startswith(suite.prefix) and plain(line) in tests:
            found.setdefault(plain(line), []).append(line)
    return {name: "\n".join(found.get(name, [full])) for name, full in tests.items()}


def reason(text: str) -> str:
    """The last line of a traceback or of a skip's reason that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith((" ", "Captured"))]
    told = [
        line
        for line in lines
        if re.match(r"(Details|Body|\w[\w.]*(Error|Exception|exceptions\.\w+)|\w+\.\w+)[:\s]", line)
    ]
    return " · ".join((told or lines or ["no reason was given"])[-2:])[:400]


def finish(suite: Suite, asked: argparse.Namespace, outcomes: dict[str, dict[str, str]], seconds: float) -> int:
    """Print and keep the report, pin what was asked for; the exit code."""
    text = report(suite, outcomes, seconds)
    print(text)
    into = made(ROOT / "build" / suite.pinned.parent.name)
    (into / "report.txt").write_text(text + "\n")
    (into / "report.json").write_text(json.dumps({"seconds": seconds, "tests": outcomes}, indent=1, sort_keys=True))
    if asked.pin:
        suite.pin(asked.groups, [test for test, one in outcomes.items() if one["outcome"] == PASS])
    bad = PASS if asked.pinned else SKIP
    return int(any(one["outcome"] not in (PASS, bad) for one in outcomes.values()))


def report(suite: Suite, outcomes: dict[str, dict[str, str]], seconds: float) -> str:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for test, one in outcomes.items():
        counts[suite.group_of(test)][one["outcome"]] += 1
    lines = [f"{'group':<12} {PASS:>7} {FAIL:>7} {SKIP:>7}"]
    for group, count in [*counts.items(), ("all", sum(counts.values(), collections.Counter()))]:
        lines.append(f"{group:<12} {count[PASS]:>7} {count[FAIL]:>7} {count[SKIP]:>7}")
    lines.append(f"{seconds:.0f} s")
    for kind in (SKIP, FAIL):
        chosen = [(test, one["reason"]) for test, one in outcomes.items() if one["outcome"] == kind]
        if chosen:
            lines += ["", f"{kind}:", *(f"  {test}\n      {why}" for test, why in chosen)]
    return "\n".join(lines)
