# SPDX-License-Identifier: Apache-2.0
"""Watches every answer of every test: is it what its route declares, and which routes does no test use?

Invariant: a whole run fails when a route is used by no test and not listed in
`tests/shape/untested_routes.txt`; it tells which lines of the list may go.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest

from cumulet.assembly.table import SERVICES
from cumulet.kernel.http import Answer, Api, Request, Route
from cumulet.kernel.http.body import FORMATS
from tests.spread import previous

UNTESTED = Path(__file__).parent / "shape" / "untested_routes.txt"
_SUCCESS = range(200, 400)

known: set[str] = set()
"""Every row of every service that was built, e.g. ``image GET /v2/images``."""
used: set[str] = set()
wrong: list[str] = []
"""Answers of the running test that break their declared shape."""
_validators: dict[int, Any] = {}
_seen: set[int] = set()


def name_of(api: Api, row: Route) -> str:
    versions = f" {row.since or ''}..{row.until or ''}" if row.since or row.until else ""
    return f"{api.name} {row.at}{versions}"


def observe(api: Api, row: Route, request: Request, answer: Answer) -> None:
    """The kernel's hook: note the row, compare the answer with its declared shape."""
    if id(api) not in _seen:
        _seen.add(id(api))
        known.update(name_of(api, one) for one in api.routes)
    status = answer.status or row.ok
    if status not in _SUCCESS and status != row.ok:
        return
    used.add(name_of(api, row))  # a route whose own status is a refusal is used by being refused
    if row.returns is None or answer.stream is not None or status in (204, 304) or request.method == "HEAD":
        return
    validator = _validators.get(id(row.returns))
    if validator is None:
        made = jsonschema_rs.Draft7Validator(row.returns, validate_formats=True, formats=FORMATS)
        validator = _validators[id(row.returns)] = made
    document = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)
    error = next(iter(validator.iter_errors(orjson.loads(document or b"null"))), None)
    if error is not None:
        where = "/".join(str(part) for part in error.instance_path)
        wrong.append(f"{name_of(api, row)}: the answer's {where or 'document'}: {error.message}")


def pytest_configure(config: pytest.Config) -> None:
    Api.observer = observe


@pytest.fixture(autouse=True)
def _answers_are_as_declared() -> Iterator[None]:
    """Fail the test in which a service gave an answer that its own document forbids."""
    wrong.clear()
    yield
    if wrong:
        pytest.fail("\n".join(sorted(set(wrong))))


# ---- which routes a whole run used


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # one of several processes: tell the one that sums up
        output["routes"] = (sorted(known), sorted(used))
    elif _is_whole(session.config) and session.exitstatus == 0 and verdict():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    for mine, theirs in zip((known, used), getattr(node, "workeroutput", {}).get("routes", ((), ())), strict=True):
        mine.update(theirs)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    config = terminalreporter.config
    if not _is_whole(config):
        return
    terminalreporter.write_line(f"{len(used & known)} of {len(known)} routes are used by a test")
    told, older = previous.summary()
    terminalreporter.write_line(told, red=not older)
    for line in verdict():
        terminalreporter.write_line(line, red=True)
    for one in sorted(_listed() - (known - used)):
        terminalreporter.write_line(f"{UNTESTED.name}: this line may go: {one}")


def _is_whole(config: pytest.Config) -> bool:
    """Whether this run has all tests but those of real machines."""
    told = vars(config.option)
    narrowed = ("keyword", "lf", "failedfirst", "collectonly", "deselect", "ignore")
    chosen = any(told.get(name) for name in narrowed) or "not machine" not in told["markexpr"]
    return not chosen and config.args_source == pytest.Config.ArgsSource.TESTPATHS


def verdict() -> list[str]:
    """The services' routes that no test uses and that are not known for it; the toys of tests are nobody's."""
    services = {entry.package for entry in SERVICES}
    unused = {one for one in known - used - _listed() if one.split(" ", 1)[0] in services}
    return [f"no test uses {one}" for one in sorted(unused)]


def _listed() -> set[str]:
    return {line for line in UNTESTED.read_text().splitlines() if line and not line.startswith("#")}
