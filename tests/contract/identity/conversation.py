# SPDX-License-Identifier: Apache-2.0
"""Contract tests as text: requests and what must come back, read top to bottom.

    as admin
    POST /users {"user": {"name": "ann"}}
    201 {"user": {"id": "$ann", "name": "ann", "-password": 0}}

The first line says who asks from there on (``nobody``, a bootstrapped user,
``admin@system``, ``name:password@project``). The answer's JSON must contain
what is written: objects may have more members, lists must be as long and in
this order, ``*`` is anything, ``-name`` must be absent, ``~text`` a part of the
text, and ``$name`` is kept at its first sight and must be the same later; in
requests it stands for what was kept. A header is written ``[name: value]``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cloud import PASSWORD, Reply, TestCloud

_NAME = re.compile(r"\$([a-z_0-9]+)")
_REQUEST = re.compile(r"^(GET|HEAD|POST|PUT|PATCH|DELETE) (\S+)(?: (\{.*|\[.*))?$")


@dataclass(frozen=True)
class Section:
    """One test: a title and its lines, each with its number in the file."""

    title: str
    lines: tuple[tuple[int, str], ...]


def sections(path: Path) -> list[Section]:
    found: list[Section] = []
    title = ""
    lines: list[tuple[int, str]] = []
    for number, line in enumerate([*path.read_text().splitlines(), "== "], 1):
        if line.startswith("== "):
            if title:
                found.append(Section(title, tuple(lines)))
            title, lines = line[3:].strip(), []
        elif line.strip() and not line.startswith("#"):
            lines.append((number, line.strip()))
    return found


@dataclass
class Conversation:
    """One run of a section against a cloud."""

    cloud: TestCloud
    kept: dict[str, Any] = field(default_factory=dict)
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    async def run(self, section: Section) -> None:
        self.kept["password"] = PASSWORD
        reply: Reply | None = None
        asked = ""
        for number, line in section.lines:
            try:
                if line.startswith("as "):
                    self.token = await self._token(line[3:])
                elif match := _REQUEST.match(line):
                    asked = line
                    reply = await self._ask(*match.groups())
                elif line.startswith("with "):
                    name, _, value = line[5:].partition(": ")
                    self.headers[name.lower()] = self._fill(value)
                else:
                    assert reply is not None, "an answer before any request"
                    self._check(reply, line)
            except AssertionError as error:
                got = f"{reply.status} {reply.data.decode(errors='replace')}" if reply is not None else "nothing"
                raise AssertionError(f"line {number}: {line}\nafter {asked}\ngot {got[:2000]}\n{error}") from None

    async def _token(self, who: str) -> str | None:
        if who == "nobody":
            return None
        if who.startswith("$"):
            kept: str = self.kept[who[1:]]
            return kept
        user, _, place = who.partition("@")
        user, _, password = user.partition(":")
        if not password and place != "unscoped" and not place.startswith("domain"):
            return await self.cloud.login(user, None if place == "system" else place or None, system=place == "system")
        named = {"name": user, "domain": {"id": "default"}, "password": self._fill(password) or PASSWORD}
        auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": named}}}
        auth["scope"] = _scope(self._fill(place))
        reply = await self.cloud.request("POST", "/identity/v3/auth/tokens?nocatalog", {"auth": auth})
        assert reply.status == 201, reply.data
        return reply.headers["x-subject-token"]

    async def _ask(self, method: str, path: str, body: str | None) -> Reply:
        headers, self.headers = self.headers, {}
        data = json.loads(body) if body is not None else None
        return await self.cloud.request(
            method,
            "/identity"
            + (self._fill(path) if path.startswith(("/v3", "/?")) or path == "/" else "/v3" + self._fill(path)),
            None if data is None else self._filled(data),
            token=self.token,
            headers=headers,
        )

    def _check(self, reply: Reply, line: str) -> None:
        if line.startswith("["):
            name, _, value = line.strip("[]").partition(": ")
            self._match(reply.headers.get(name.lower()), value, name)
            return
        status, _, pattern = line.partition(" ")
        assert reply.status == int(status), f"the status is {reply.status}"
        if pattern:
            self._match(reply.json, json.loads(pattern), "")

    def _match(self, got: Any, wanted: Any, where: str) -> None:
        if isinstance(wanted, dict):
            assert isinstance(got, dict), f"{where} is {got!r}"
            for name, value in wanted.items():
                name = self._fill(name)
                if name.startswith("-"):
                    assert name[1:] not in got, f"{where}/{name[1:]} is there"
                else:
                    assert name in got, f"{where}/{name} is absent"
                    self._match(got[name], value, f"{where}/{name}")
        elif isinstance(wanted, list):
            assert isinstance(got, list), f"{where} is {got!r}"
            assert len(got) == len(wanted), f"{where} has {len(got)} members"
            for number, (one, other) in enumerate(zip(got, wanted, strict=True)):
                self._match(one, other, f"{where}/{number}")
        elif isinstance(wanted, str) and wanted != "*":
            self._match_text(got, wanted, where)
        else:
            assert wanted == "*" or (got == wanted and type(got) is type(wanted)), f"{where} is {got!r}"

    def _match_text(self, got: Any, wanted: str, where: str) -> None:
        whole = _NAME.fullmatch(wanted)
        if whole and whole[1] not in self.kept:
            assert got, f"{where} is {got!r}"
            self.kept[whole[1]] = got
        elif wanted.startswith("~"):
            assert self._fill(wanted[1:]) in got, f"{where} is {got!r}"
        else:
            assert got == self._filled(wanted), f"{where} is {got!r}"

    def _fill(self, text: str) -> str:
        return _NAME.sub(lambda match: str(self.kept[match[1]]), text)

    def _filled(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._fill(name): self._filled(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._filled(inner) for inner in value]
        return self._fill(value) if isinstance(value, str) else value


def _scope(place: str) -> Any:
    if place in ("", "unscoped"):
        return "unscoped"
    if place == "system":
        return {"system": {"all": True}}
    if place.startswith("domain="):
        return {"domain": {"id": place.removeprefix("domain=")}}
    return {"project": {"name": place, "domain": {"id": "default"}}}
