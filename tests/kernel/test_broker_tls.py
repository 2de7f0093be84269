# SPDX-License-Identifier: Apache-2.0
"""The broker's management API over TLS: an administrator's password goes only to whom an authority vouches for."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from aiohttp import web

from cumulet.kernel.bus.broker import Broker
from cumulet.kernel.errors import Unavailable
from tests.contract.insight.joining import Management
from tests.tls import Authority


async def test_who_is_trusted(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    played, app = Management(), web.Application()
    app.router.add_route("*", "/{tail:.*}", played.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("127.0.0.1"))
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    url = f"https://admin@127.0.0.1:{runner.addresses[0][1]}"
    good, other = authority.file.read_text(), stranger.file.read_text()
    try:
        for ca in (None, other):
            with pytest.raises(Unavailable, match="management API failed: ClientConnectorCertificateError"):
                await Broker(url, "v", password="s3cret", ca=ca).ensure_host("h", "p", calls=[], serves=[])
        assert played.users == {}
        for ca in (good, f"{other}\n{good}"):
            await Broker(url, "v", password="s3cret", ca=ca).ensure_host("h", "p", calls=[], serves=[])
        assert list(played.users) == ["cumulet-host+h+v"]
    finally:
        await runner.cleanup()
