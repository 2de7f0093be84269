# SPDX-License-Identifier: Apache-2.0
"""Uploads to an S3 server that were begun in parts and never ended: finding and removing them.

Nobody sees such parts and they take room until somebody aborts their upload. The
client library of the object store does not offer that, so these two requests are
signed here (AWS Signature Version 4, as published).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
from lxml import etree
from yarl import URL

from cumulet.kernel import clock

_NOTHING = hashlib.sha256(b"").hexdigest()
_LARGEST = 8 * 1024 * 1024
_TRIES, _PAUSE = 5, 0.1
"""How often an upload is aborted until it is gone, and how much longer each pause in between is (s)."""


@dataclass(frozen=True)
class Unfinished:
    """Uploads in parts of one bucket below a prefix; each request takes at most ``seconds``."""

    endpoint: str
    bucket: str
    prefix: str
    region: str
    access_key: str
    secret_key: str
    seconds: float

    async def find(self, key: str = "") -> list[tuple[str, str]]:
        """(key, upload id) of those whose key begins with ``key``. Raises OSError."""
        found: list[tuple[str, str]] = []
        marks: dict[str, str] = {}
        while True:
            query = {"uploads": "", "prefix": self._path(key), **marks}
            try:
                answer = etree.fromstring(await self._ask("GET", f"/{self.bucket}", query, {200}), _parser())
            except etree.XMLSyntaxError:
                raise OSError("the answer is no XML") from None
            for upload in answer.iterfind("{*}Upload"):
                name = upload.findtext("{*}Key", "").removeprefix(self._path(""))
                found.append((name, upload.findtext("{*}UploadId", "")))
            if answer.findtext("{*}IsTruncated") != "true":
                return found
            marks = {
                "key-marker": answer.findtext("{*}NextKeyMarker", ""),
                "upload-id-marker": answer.findtext("{*}NextUploadIdMarker", ""),
            }

    async def drop(self, key: str) -> None:
        """Abort every upload to exactly this key. Raises OSError.

        A part that is still on its way may outlive one abort, or make it fail; so says the published API.
        """
        failed = OSError("an upload in parts does not end")
        for tried in range(_TRIES):
            left = [upload_id for name, upload_id in await self.find(key) if name == key]
            if not left:
                return
            await clock.sleep(_PAUSE * tried)
            for upload_id in left:
                try:
                    target = f"/{self.bucket}/{self._path(key)}"
                    await self._ask("DELETE", target, {"uploadId": upload_id}, {204, 200, 404})
                except OSError as error:
                    failed = error
        raise failed

    def _path(self, key: str) -> str:
        return f"{self.prefix.strip('/')}/{key}" if self.prefix.strip("/") else key

    async def _ask(self, method: str, path: str, query: Mapping[str, str], fine: set[int]) -> bytes:
        base = urlsplit(self.endpoint)
        target = quote(base.path.rstrip("/") + path)
        text = urlencode(sorted(query.items()), quote_via=quote, safe="-_.~")
        headers = self._signed(method, base.netloc, target, text)
        timeout = aiohttp.ClientTimeout(total=self.seconds)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method, URL(f"{base.scheme}://{base.netloc}{target}?{text}", encoded=True), headers=headers,
                    allow_redirects=False,
                ) as reply,
            ):  # fmt: skip
                data = b""
                async for piece in reply.content.iter_any():
                    data += piece
                    if len(data) > _LARGEST:
                        raise OSError("the answer is too long")
        except aiohttp.ClientError as error:
            raise OSError(type(error).__name__) from None
        if reply.status not in fine:
            raise OSError(f"status {reply.status}")
        return data

    def _signed(self, method: str, host: str, path: str, query: str) -> dict[str, str]:
        """The headers of a request without a body; ``path`` and ``query`` as they are sent."""
        moment = clock.moment(clock.now()).strftime("%Y%m%dT%H%M%SZ")
        headers = {"host": host, "x-amz-content-sha256": _NOTHING, "x-amz-date": moment}
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = "\n".join((method, path, query, lines, names, _NOTHING))
        scope = f"{moment[:8]}/{self.region}/s3/aws4_request"
        text = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        return {**headers, "authorization": f"AWS4-HMAC-SHA256 {credential}"}


def _parser() -> etree.XMLParser:
    """What comes from outside names no entity and no other file."""
    return etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
