# SPDX-License-Identifier: Apache-2.0
"""Holds the conversations of the contract tests with a real Keystone or Glance, to see where we differ from it.

usage: .venv/bin/python tools/peer.py [--record] [--home DIR] VENV identity|image [FILE [TITLE]]

VENV is a virtual environment with the published services:

    python3 -m venv VENV && VENV/bin/pip install 'keystone==30.*' 'glance==33.*' uwsgi

They are configured, started and ended by this command, in a directory that it
removes (or in DIR, which is kept: the next run with it starts sooner). FILE is
the stem of a file in tests/contract/SERVICE, TITLE a part of a section's title.
A file `locations` is held with a service that shows where images are.
With --record the conversations are printed with the answers of the published
service in the place of those that were written.
Where a difference is meant the conversation says what the published service
answers (`published`), and docs/reference/conformance.md why.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.cloud import Reply  # noqa: E402
from tests.contract.conversation import REQUEST, SPEECH, Conversation, Section, sections  # noqa: E402
from tests.services.image.web import serving  # noqa: E402
from tools.peer_cloud import Peer, PeerCloud  # noqa: E402

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?")
_DIGESTS = ("checksum", "os_hash_value")
_RANDOM = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def compare(peer: Peer, service: str, section: Section, kept: dict[str, Any]) -> bool:
    """Whether the published service answers what is written of it; tells where not."""
    differing: list[str] = []
    held = Conversation(peer, SPEECH[service], published=True, kept=kept)  # type: ignore[arg-type]
    await held.run(section, differing)
    print("DIFFERS" if differing else "agrees ", section.title, flush=True)
    for told in differing:
        print(told + "\n")
    return not differing


class Recorder(Conversation):
    """A conversation that writes down what comes, and uses what is written only to know what to keep."""

    text: str = ""

    async def record(self, section: Section) -> None:
        print(f"\n== {section.title}")
        self.text = str(section.lines)
        lines = [*(line for _, line in section.lines), ""]
        reply: Reply | None = None
        for line, following in pairwise(lines):
            match = REQUEST.match(line)
            if match is None and not line.startswith("["):
                if line.startswith(("as ", "with ", "basic ", "signed ")):
                    print(line)
                    await self.run(Section(section.title, ((0, line),)))
                continue
            if match is None:
                name = line.strip("[-]").partition(": ")[0]
                told = reply.headers.get(name.lower()) if reply is not None else None
                print(f"[-{name}]" if told is None else f"[{name}: {self._masked(told)}]")
                continue
            print(line)
            try:
                reply = await self.ask(*match.groups())
            except KeyError as missing:
                print(f"NOT ASKED: {missing} is not known")
                continue
            again = following.startswith("until ")
            answer = following.removeprefix("until ")
            if again:
                reply = await self._patiently(line, reply, answer)
            elif answer[:1].isdigit():
                with suppress(AssertionError):
                    self._check(reply, f"{reply.status}{answer[3:]}")
            print(("until " if again else "") + self._written(reply))

    def _written(self, reply: Reply) -> str:
        kind = reply.headers.get("content-type", "")
        if not reply.data:
            return str(reply.status)
        if not kind.startswith("application/json"):
            return f"{reply.status} {json.dumps(self._masked(reply.data.decode(errors='replace')))}"
        told = self._masked(reply.json)
        if reply.status >= 400:
            told = self._brief(told)
        return f"{reply.status} {json.dumps(told)}"

    @staticmethod
    def _brief(told: Any) -> Any:
        """An error's own words: without what each has, and without a schema that was not kept to."""
        message = told.get("message")
        if not isinstance(message, str):
            return told
        if "Failed validating" in message:
            return {"message": "*"}
        return {"message": "~" + message.removesuffix("<br /><br />\n\n\n")}

    def _masked(self, value: Any, name: str = "") -> Any:
        """What is the same each time: ids by their names, moments and strange ids as anything."""
        if isinstance(value, list):
            return [self._masked(one) for one in value]
        if isinstance(value, dict):
            return {self._named(name): self._masked(one, name) for name, one in value.items()} | {"-*": 0}
        if not isinstance(value, str):
            return value
        value = self._named(value)
        strange = any(found[0] not in self.text for found in _RANDOM.finditer(value))
        return "*" if _TIME.fullmatch(value) or (strange and name not in _DIGESTS) else value

    def _named(self, text: str) -> str:
        for name, kept in self.kept.items():
            if isinstance(kept, str) and len(kept) > 8:
                text = text.replace(kept, f"${name}")
        return text


async def hold(cloud: PeerCloud, paths: list[Path], title: str, *, recording: bool) -> int:
    """Hold the chosen sections with the published service; how many differ."""
    differing = 0
    try:
        peer = await cloud.begin()
        for path in paths:
            print(f"# {path.stem}", flush=True)
            for section in sections(path):
                if title not in section.title:
                    continue
                cloud.put_back()
                peer.tokens.clear()
                async with serving() as kept:
                    if recording:
                        held = Recorder(peer, SPEECH[cloud.service], kept=kept)  # type: ignore[arg-type]
                        await held.record(section)
                    else:
                        differing += not await compare(peer, cloud.service, section, kept)
    finally:
        cloud.end()
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--home", type=Path)
    parser.add_argument("venv", type=Path)
    parser.add_argument("service", choices=list(SPEECH))
    parser.add_argument("file", nargs="?", default="*")
    parser.add_argument("title", nargs="?", default="")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cumulet-peer-") as folder:
        home = (told.home or Path(folder)).resolve()
        found = sorted((ROOT / "tests" / "contract" / told.service).glob(f"{told.file}.txt"))
        differing = 0
        for shown in (False, True):
            if paths := [path for path in found if (path.stem == "locations") == shown]:
                cloud = PeerCloud(told.venv.resolve(), home / "shown" if shown else home, told.service, shown)
                differing += asyncio.run(hold(cloud, paths, told.title, recording=told.record))
        return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
