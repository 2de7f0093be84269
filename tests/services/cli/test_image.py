# SPDX-License-Identifier: Apache-2.0
"""`cumulet image import`: files and URLs, formats found out, and what is refused before or after."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.services.cli.conftest import Served

RAW = b"\0" * 700_000 + b"tail"


def qcow2(virtual: int = 1 << 20, *, backing: bytes = b"") -> bytes:
    """A qcow2 header (version 3) with nothing in it."""
    offset = 104 if backing else 0
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, offset, len(backing), 16, virtual, 0, 1, 196_608, 65_536, 1, 0, 0,
        0, 0, 0, 4, 104,
    )  # fmt: skip
    return (head + backing).ljust(262_144, b"\0")


class Site(BaseHTTPRequestHandler):
    """A web site with an image, and with what one meets instead."""

    def do_GET(self) -> None:
        answers = {
            "/images/web%20disk.img": (200, RAW, {}),
            "/moved": (302, b"", {"Location": "/images/web%20disk.img"}),
            "/to-file": (302, b"", {"Location": "file:///etc/hostname"}),
            "/to-ftp": (302, b"", {"Location": "ftp://127.0.0.1/x"}),
            "/page": (200, b"<html>nothing here</html>", {}),
            "/endless": (200, RAW, {"Content-Length": ""}),
            "/short": (200, RAW, {"Content-Length": str(len(RAW) + 9)}),
        }
        status, body, more = answers.get(self.path, (404, b"no", {}))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **more}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to say."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def images(cloud: Served) -> set[str]:
    return {one["id"] for one in cloud.session().call("image", "GET", "/v2/images")["images"]}


def test_a_file_becomes_an_image(cloud: Served, tmp_path: Path) -> None:
    path = tmp_path / "my disk.raw"
    path.write_bytes(RAW)
    told = json.loads(cloud.said("image", "import", str(path), "--json"))
    assert told["name"] == "my disk"
    assert (told["disk_format"], told["status"], told["visibility"]) == ("raw", "active", "private")
    assert told["os_hash_value"] == hashlib.sha512(RAW).hexdigest()
    got = cloud.session().request("image", "GET", f"/v2/images/{told['id']}/file")
    assert got.data == RAW


def test_the_format_is_found_out(cloud: Served, tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(qcow2())
    said = cloud.said("image", "import", str(path), "--name", "found-out")
    assert said.split()[0] == "found-out"
    assert said.split()[2] == "qcow2"
    assert said.rstrip().endswith("active")


def test_a_url_is_downloaded(cloud: Served, site: str) -> None:
    told = json.loads(cloud.said("image", "import", f"{site}/images/web%20disk.img", "--json"))
    assert (told["name"], told["size"]) == ("web disk", len(RAW))
    assert json.loads(cloud.said("image", "import", f"{site}/moved", "--json"))["size"] == len(RAW)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{site}/nothing", "{site}/nothing answered 404 Not Found"),
        ("{site}/to-file", "{site}/to-file answered 302"),
        ("{site}/to-ftp", "{site}/to-ftp can't be read: unknown url type: ftp"),
        ("{site}/page", "this looks like a web page, not an image"),
        ("{site}/short", "{site}/short ended after 700004 of 700013 bytes"),
        ("http://127.0.0.1:9/x", "http://127.0.0.1:9/x can't be read: "),
        ("file:///etc/hostname", "file is no way to get an image: a file, http or https is"),
        ("ftp://127.0.0.1/x", "ftp is no way to get an image: a file, http or https is"),
        ("{tmp}/none", "{tmp}/none: No such file or directory"),
        ("{tmp}", "{tmp}: Is a directory"),
        ("{tmp}/empty", "{tmp}/empty is empty"),
    ],
)
def test_what_is_no_image_is_not_uploaded(cloud: Served, site: str, tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "empty").touch()
    before = images(cloud)
    result = cloud.run("image", "import", source.format(site=site, tmp=tmp_path))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"cumulet: {said.format(site=site, tmp=tmp_path)}")
    assert images(cloud) == before


@pytest.mark.parametrize("page", ["images/web%20disk.img", "endless"])
def test_a_download_has_a_limit(cloud: Served, site: str, page: str) -> None:
    before = images(cloud)
    result = cloud.run("image", "import", f"{site}/{page}", "--max-gib", "0.0005")
    assert result.exit_code == 1
    assert "more than 0.0005 GiB; allow more with --max-gib" in result.stderr
    assert images(cloud) == before


def test_a_public_image_needs_an_admin(cloud: Served, tmp_path: Path) -> None:
    path = tmp_path / "shared.raw"
    path.write_bytes(RAW)
    result = cloud.run("image", "import", str(path), "--public")
    assert result.exit_code == 1
    assert "public images need an admin: --os-cloud cumulet-admin" in result.stderr
    told = json.loads(cloud.said("image", "import", str(path), "--public", "--json", cloud="cumulet-admin"))
    assert told["visibility"] == "public"
    assert told["id"] in images(cloud)


def test_what_the_cloud_refuses_leaves_nothing(cloud: Served, tmp_path: Path) -> None:
    path = tmp_path / "trap.qcow2"
    path.write_bytes(qcow2(backing=b"/etc/shadow"))
    before = images(cloud)
    result = cloud.run("image", "import", str(path))
    assert result.exit_code == 1
    assert result.stderr.startswith("cumulet: image says: ")
    assert images(cloud) == before
    path.write_bytes(RAW)
    result = cloud.run("image", "import", str(path), "--format", "vmdk")
    assert result.exit_code == 1
    assert images(cloud) == before
