# SPDX-License-Identifier: Apache-2.0
"""Contract tests as text: requests and what must come back, read top to bottom.

    as admin
    POST /users {"user": {"name": "ann"}}
    201 {"user": {"id": "$ann", "name": "ann", "-password": 0}}

The first line says who asks from there on (``nobody``, a bootstrapped user,
``admin@system``, ``name:password@project``). The answer's JSON must contain
what is written: objects may have more members, unless ``-*`` says that there
are none; lists must be as long and in this order (any order, if the first
member is ``~``), ``*`` is anything, ``-name`` must be absent, ``~text`` a part
of the text, and ``$name`` is kept at its first sight and must be the same
later; in requests it stands for what was kept. A header is written
``[name: value]``, one that must be absent ``[-name]``.

A request's body in quotation marks is sent as it is (bytes of an image), an
answer in quotation marks is text. ``until`` before an answer asks again until
it comes, for what goes on after its request was answered. ``published`` before
an answer says what the published service answers instead of the line before, where
that is meant to differ (``published *``: not compared); tools/peer.py holds it to that.

``basic user:password`` gives the next request a basic authorization, and
``signed client_key=… client_secret=…`` signs it after OAuth1 (what may stand there
are the arguments of oauthlib's Client). A form that is answered reads as an object.
A path that begins with ``/identity/`` is asked of identity, whoever the conversation is with.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from oauthlib import oauth1

from tests.cloud import PASSWORD, Reply, TestCloud

_NAME = re.compile(r"\$([a-z_0-9]+)")
REQUEST = re.compile(r"^(GET|HEAD|POST|PUT|PATCH|DELETE) (\S+)(?: (\{.*|\[.*|\".*\"))?$")
_PATIENCE = 60.0
"""Seconds that ``until`` asks again."""


@dataclass(frozen=True)
class Speech:
    """How one service is spoken to: where it is mounted, and what goes without saying in its conversations."""

    mount: str
    version: str
    """What paths begin with that do not begin with one of ``whole``."""
    whole: tuple[str, ...]
    headers: dict[str, str] = field(default_factory=dict)
    patch: str = "application/json"
    """The media type of a PATCH."""


SPEECH = {
    "identity": Speech("/identity", "/v3", ("/v3", "/?")),
    "image": Speech(
        "/image", "/v2", ("/v2", "/versions", "/?"), {"accept": "application/json"},
        "application/openstack-images-v2.1-json-patch",
    ),
}  # fmt: skip


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
    speech: Speech = SPEECH["identity"]
    published: bool = False
    """Whether it is the published service that answers."""
    kept: dict[str, Any] = field(default_factory=dict)
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    signing: dict[str, str] = field(default_factory=dict)
    """With what the next request is signed; nothing: not at all."""

    async def run(self, section: Section, differing: list[str] | None = None) -> None:
        """Hold a section: raises AssertionError at the first difference, or adds all to ``differing``."""
        self.kept["password"] = PASSWORD
        reply: Reply | None = None
        asked = ""
        for (number, line), (_, following) in pairwise([*section.lines, (0, "")]):
            ours = not line.startswith("published ")
            if following.startswith("published ") if ours and self.published else not (ours or self.published):
                continue
            line = line.removeprefix("published ")
            try:
                if line == "*":
                    continue
                if line.startswith("as "):
                    self.token = None
                    self.token = await self._token(line[3:])
                elif match := REQUEST.match(line):
                    asked = line
                    reply = await self.ask(*match.groups())
                elif line.startswith("with "):
                    name, _, value = line[5:].partition(": ")
                    self.headers[name.lower()] = self._fill(value)
                elif line.startswith("basic "):
                    proof = base64.b64encode(self._fill(line[6:]).encode()).decode()
                    self.headers["authorization"] = f"Basic {proof}"
                elif line.startswith("signed "):
                    self.signing = dict(part.split("=", 1) for part in self._fill(line[7:]).split())
                else:
                    assert reply is not None, "an answer before any request"
                    if line.startswith("until "):
                        line = line[6:]
                        reply = await self._patiently(asked, reply, line)
                    self._check(reply, line)
            except AssertionError as error:
                got = f"{reply.status} {reply.data.decode(errors='replace')}" if reply is not None else "nothing"
                told = f"line {number}: {line}\nafter {asked}\ngot {got[:2000]}\n{error}"
                if differing is None:
                    raise AssertionError(told) from None
                differing.append(told)
            except KeyError as missing:
                if differing is None:
                    raise
                differing.append(f"line {number}: {line}\n{missing} is not known")

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

    async def ask(self, method: str, path: str, body: str | None) -> Reply:
        """Send one request, as whoever asks now and with the headers of the lines before."""
        headers, self.headers = {**self.speech.headers, **self.headers}, {}
        path = self._fill(path)
        elsewhere = path.startswith("/identity/") and self.speech.mount != "/identity"
        if not elsewhere and path != "/" and not path.startswith(self.speech.whole):
            path = self.speech.version + path
        data = None if body is None else self._filled(json.loads(body))
        sent = b""
        if isinstance(data, str):
            headers.setdefault("content-type", "application/octet-stream")
            sent = data.encode()
            data = None
        elif data is not None and method == "PATCH":
            headers.setdefault("content-type", self.speech.patch)
        path = path if elsewhere else self.speech.mount + path
        if self.signing:
            client = oauth1.Client(**self.signing)
            headers |= {"authorization": client.sign(f"http://localhost{path}", method)[1]["Authorization"]}
            self.signing = {}
        return await self.cloud.request(method, path, data, token=self.token, headers=headers, body=sent)

    async def _patiently(self, asked: str, reply: Reply, line: str) -> Reply:
        """The request's answer once it is that of the line, or the last one when patience ends."""
        match = REQUEST.match(asked)
        assert match is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    kept = dict(self.kept)
                    try:
                        self._check(reply, line)
                    except AssertionError:
                        self.kept = kept
                        await asyncio.sleep(0.05)
                        reply = await self.ask(*match.groups())
                    else:
                        return reply
        except TimeoutError:
            return reply

    def _check(self, reply: Reply, line: str) -> None:
        if line.startswith("[-"):
            assert line.strip("[-]").lower() not in reply.headers, f"{line.strip('[-]')} is there"
            return
        if line.startswith("["):
            name, _, value = line.strip("[]").partition(": ")
            self._match(reply.headers.get(name.lower()), value, name)
            return
        status, _, pattern = line.partition(" ")
        assert reply.status == int(status), f"the status is {reply.status}"
        if pattern:
            wanted = json.loads(pattern)
            try:
                got = reply.data.decode() if isinstance(wanted, str) else _object(reply)
            except ValueError:
                raise AssertionError("the answer is no JSON") from None
            self._match(got, wanted, "")

    def _match(self, got: Any, wanted: Any, where: str) -> None:
        if isinstance(wanted, dict):
            assert isinstance(got, dict), f"{where} is {got!r}"
            if "-*" in wanted:
                more = set(got) - {self._fill(name) for name in wanted}
                assert not more, f"{where} has also {sorted(more)}"
                wanted = {name: value for name, value in wanted.items() if name != "-*"}
            for name, value in wanted.items():
                name = self._fill(name)
                if name.startswith("-"):
                    assert name[1:] not in got, f"{where}/{name[1:]} is there"
                else:
                    assert name in got, f"{where}/{name} is absent"
                    self._match(got[name], value, f"{where}/{name}")
        elif isinstance(wanted, list):
            assert isinstance(got, list), f"{where} is {got!r}"
            got = self._ordered(got, wanted[1:], where) if wanted[:1] == ["~"] else got
            wanted = wanted[1:] if wanted[:1] == ["~"] else wanted
            assert len(got) == len(wanted), f"{where} has {len(got)} members"
            for number, (one, other) in enumerate(zip(got, wanted, strict=True)):
                self._match(one, other, f"{where}/{number}")
        elif isinstance(wanted, str) and wanted != "*":
            self._match_text(got, wanted, where)
        else:
            assert wanted == "*" or (got == wanted and type(got) is type(wanted)), f"{where} is {got!r}"

    def _ordered(self, got: list[Any], wanted: list[Any], where: str) -> list[Any]:
        """What came in the order of what is written: the first that fits each."""
        left, found = list(got), []
        for one in wanted:
            for other in left:
                kept = dict(self.kept)
                try:
                    self._match(other, one, where)
                except AssertionError:
                    self.kept = kept
                else:
                    left.remove(other)
                    found.append(other)
                    break
            else:
                raise AssertionError(f"{where} has nothing like {one!r}")
        return [*found, *left]

    def _match_text(self, got: Any, wanted: str, where: str) -> None:
        whole = _NAME.fullmatch(wanted)
        if whole and whole[1] not in self.kept:
            assert got, f"{where} is {got!r}"
            self.kept[whole[1]] = got
        elif wanted.startswith("~"):
            assert isinstance(got, str), f"{where} is {got!r}"
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


def _object(reply: Reply) -> Any:
    """What an answer says, from JSON or a form."""
    if reply.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl(reply.data.decode(), keep_blank_values=True, strict_parsing=True))
    return json.loads(reply.data)


def _scope(place: str) -> Any:
    if place in ("", "unscoped"):
        return "unscoped"
    if place == "system":
        return {"system": {"all": True}}
    if place.startswith("domain="):
        return {"domain": {"id": place.removeprefix("domain=")}}
    return {"project": {"name": place, "domain": {"id": "default"}}}
