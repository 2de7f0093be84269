# SPDX-License-Identifier: Apache-2.0
"""One question to the front door of a cloud that this machine does not know yet.

Invariants: nothing is read without a bound in bytes and time; nothing that the
other side says reaches a terminal unchecked; whether the question can have had
an effect is always told, so that only then something is kept for a repetition.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

LARGEST: Final = 1 << 20
"""Bytes of an answer."""
_CONNECT: Final = 15.0
_SECONDS: Final = 60.0
"""For the whole of it: a join takes a few, while the cloud makes users."""
_REPEAT: Final = "; the same command may be run again, with the same token"
_NO_URL: Final = "URL must be that of the cloud's front door, like https://cloud.example"
_UNREACHED: Final = "is the URL right, and does the cloud run?"
_PASSING: Final = (408, 425, 429)
"""4xx that say: later."""


class JoinError(RuntimeError):
    """The machine did not become a host; the text says why and what to do.

    ``open_end``: the cloud may have taken the token all the same, so the same question must be repeated.
    """

    def __init__(self, text: str, *, open_end: bool = False) -> None:
        super().__init__(text + (_REPEAT if open_end else ""))
        self.open_end = open_end


def ask(url: str, path: str, document: dict[str, str], ca: Path | None) -> bytes:
    """The body of the answer (201) to one POST below the front door ``url``; raises JoinError."""
    parts = parsed(url)
    trusted = _trusted(ca) if parts.scheme == "https" else None
    return asyncio.run(_ask(parts, path, document, trusted, ca))


def parsed(url: str) -> SplitResult:
    """The URL of a front door; raises JoinError for what can't be one. Never repeats it: it may hold a password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        parts, good = urlsplit(""), False
    if not good or parts.username or parts.password or parts.query or parts.fragment:
        raise JoinError(_NO_URL)
    return parts


def own_address(url: str) -> str | None:
    """This machine's address on the way to ``url``; None where the way never leaves the machine, or there is none."""
    parts = parsed(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(address)  # nothing is sent: the kernel only looks the route up
                own = ip_address(str(probe.getsockname()[0]).partition("%")[0])
        except (OSError, ValueError):
            continue
        return None if own.is_loopback or own.is_link_local or own.is_unspecified else str(own)
    return None


def _trusted(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError):
        raise JoinError(f"{ca} can't be read as certificates (PEM); --ca names the cloud's authority") from None


async def _ask(
    parts: SplitResult, path: str, document: dict[str, str], trusted: ssl.SSLContext | None, ca: Path | None
) -> bytes:
    import aiohttp
    from yarl import URL

    where = f"{parts.scheme}://{parts.netloc}"
    try:
        url = URL(f"{where}{parts.path.rstrip('/')}{path}", encoded=True)
    except ValueError:
        raise JoinError(_NO_URL) from None
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    body, timeout = json.dumps(document).encode(), aiohttp.ClientTimeout(total=_SECONDS, sock_connect=_CONNECT)
    connector = aiohttp.TCPConnector(ssl=trusted or True)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            data = await _read(answer.content)
    except aiohttp.ClientConnectorCertificateError as error:
        raise JoinError(f"{where} is not trusted: {_verdict(error.certificate_error)}; {_whom(ca)}") from None
    except aiohttp.ClientConnectorError as error:
        raise JoinError(f"{where} can't be reached: {_cause(error)}; {_UNREACHED}") from None
    except TimeoutError:
        raise JoinError(f"{where} gives no whole answer within {_SECONDS:g} s", open_end=True) from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise JoinError(
            f"{where} does not answer: {_shown(str(error)) or type(error).__name__}", open_end=True
        ) from None
    if answer.status == 201 and data is not None:
        return data
    if 300 <= answer.status < 400:
        there = _shown(answer.headers.get("Location", ""))[:200]
        elsewhere = f"{answer.status}: {there}" if there else str(answer.status)
        raise JoinError(f"{where} sends us elsewhere ({elsewhere}); give the URL of the front door itself")
    if answer.status == 201 or data is None:
        raise JoinError(f"{where} answers with more than a cloud of ours says", open_end=answer.status == 201)
    raise _refusal(where, answer.status, data)


async def _read(content: Any) -> bytes | None:
    """The whole body; None when it is too large."""
    found = bytearray()
    async for piece in content.iter_any():
        found += piece
        if len(found) > LARGEST:
            return None
    return bytes(found)


def _refusal(where: str, status: int, data: bytes) -> JoinError:
    if (reason := _reason(data)) is None:
        return JoinError(
            f"{where} is no front door of a cloud of ours ({status}); `cumulet host token` prints the right URL"
        )
    if status == 403:
        reason += " Have a new one made: cumulet host token, on a controller"
    again = status >= 500 or status in _PASSING
    return JoinError(f"{where} refuses: {reason.rstrip('.')} ({status})", open_end=again)


def _reason(data: bytes) -> str | None:
    """The text of an error as clouds of ours say it; None for anything else."""
    try:
        told = msgspec.json.decode(data, type=dict[str, dict[str, Any]])
        return _shown(str(told["error"]["message"]))[:500]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        return None


def _shown(text: str) -> str:
    return "".join(one for one in text if one.isprintable())


def _verdict(error: Exception) -> str:
    return str(getattr(error, "verify_message", "")) or type(error).__name__


def _whom(ca: Path | None) -> str:
    if ca is None:
        return "name the cloud's own authority with --ca FILE"
    return f"{ca} does not vouch for it: have the right file (`[cloud] ca` of a controller), or the right URL"


def _cause(error: Any) -> str:
    """Why there is no connection."""
    below = error.os_error
    if isinstance(below, ssl.SSLError):
        return f"it speaks no TLS that we understand ({below.reason or type(below).__name__})"
    return _shown(below.strerror or str(below)) or type(below).__name__
