# SPDX-License-Identifier: Apache-2.0
"""`cumulet join` and whatever may answer at the URL: clear words, what to do next, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
import tomllib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cumulet.assembly import asking
from cumulet.cli import main
from cumulet.cli.chaos.loopback import free_ports
from cumulet.kernel.bus.names import Address
from cumulet.kernel.settings import Settings
from tests.tls import Authority

NAME, TOKEN, CLOUD = "edge", "join-" + "t" * 43, "the-cloud-s-id"
CLAIM = {"secrets.json", "secrets.lock", "lock"}
"""Files that a join whose outcome is not known leaves."""
Script = Callable[[socket.socket], None]


def reply(status: str, body: bytes = b"", *headers: str) -> Script:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]

    def script(near: socket.socket) -> None:
        near.sendall("\r\n".join(lines).encode() + body)

    return script


def told(**changed: Any) -> dict[str, Any]:
    """What a cloud says to a host that joins."""
    return {
        "host": NAME,
        "settings": {
            "cloud": {
                "bus": f"amqp://cumulet-host%2B{NAME}%2Bv@127.0.0.1:5672/v", "region": "R", "heartbeat_seconds": 5.0,
                "endpoints": {"identity": ["http://127.0.0.1:1/identity"]},
            },
            "compute": {},
        },
        "secrets": {"cloud_id": CLOUD, "host": "p" * 43, "bus": "b" * 43, "metadata:host": "m" * 43},
        "bus_ca": None,
        **changed,
    }  # fmt: skip


def good(**changed: Any) -> Script:
    return reply("201 Created", json.dumps(told(**changed)).encode())


def error(status: str, message: str) -> Script:
    return reply(status, json.dumps({"error": {"code": int(status[:3]), "message": message}}).encode())


class Door:
    """Somebody at a URL who answers as scripted, and remembers what was asked."""

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self.script: Script = good()
        self.asked: list[dict[str, Any]] = []
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*tls)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with near, contextlib.suppress(OSError):  # who asks may hang up, or not trust us
                self._answer(near if self._context is None else self._context.wrap_socket(near, server_side=True))

    def _answer(self, near: socket.socket) -> None:
        with near:
            near.settimeout(10)
            whole = b""
            while b"\r\n\r\n" not in whole:
                whole += near.recv(65536) or b"\r\n\r\n"
                if whole[:1] == b"\x16":  # a hello of TLS
                    return near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            head, _, body = whole.partition(b"\r\n\r\n")
            lengths = [int(one[15:]) for one in head.lower().split(b"\r\n") if one.startswith(b"content-length")]
            while len(body) < sum(lengths):
                body += near.recv(65536)
            self.asked.append({"line": head.split(b"\r\n")[0].decode(), **json.loads(body or b"{}")})
            self.script(near)


@contextmanager
def door(tls: tuple[Path, Path] | None = None) -> Iterator[Door]:
    one = Door(tls)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def front() -> Iterator[Door]:
    with door() as one:
        yield one


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def join(data: Path, *words: str) -> tuple[int, str]:
    """Exit status and all that `cumulet join` said."""
    argv = ["join", *words, "--no-run", "--name", NAME, "--data", str(data)]
    result = CliRunner().invoke(main, argv, prog_name="cumulet")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.output


def refused(data: Path, *words: str, left: Collection[str] = ()) -> str:
    """What it said when it failed; ``left``: the files that are in a data directory which was not there before."""
    status, said = join(data, *words)
    assert status == 1, said
    assert said.startswith("cumulet: "), said
    assert TOKEN not in said
    assert ({one.name for one in data.iterdir()} if data.exists() else set()) == set(left)
    return said


# ---- good answers


def test_what_a_host_keeps(front: Door, tmp_path: Path) -> None:
    data = tmp_path / "a" / "b"
    status, said = join(data, front.url + "/", TOKEN)
    assert (status, front.asked[0]["line"]) == (0, "POST /cumulet/v1/join HTTP/1.1"), said
    settings = tomllib.loads((data / "host.toml").read_text())
    assert (settings["cloud"]["host"], settings["cloud"]["region"]) == (NAME, "R")
    assert "network" not in settings, "the loopback is no underlay"
    secrets = json.loads((data / "secrets.json").read_text())
    assert set(secrets) == {*told()["secrets"], "claim", "claimed_with"}
    assert secrets["claim"] == front.asked[0]["claim"]
    assert TOKEN not in (data / "secrets.json").read_text()
    assert {(data / name).stat().st_mode & 0o777 for name in ("host.toml", "secrets.json")} == {0o600}


def test_its_address_on_the_way_there_is_its_underlay(
    front: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(name: str, *words: str) -> Any:
        assert join(tmp_path / name, front.url, TOKEN, *words)[0] == 0
        settings = tomllib.loads((tmp_path / name / "host.toml").read_text())
        return settings.get("network", {}).get("underlay_address")

    assert kept("loopback") is None
    monkeypatch.setattr("cumulet.assembly.join.own_address", lambda url: "10.9.8.7")
    assert kept("found") == "10.9.8.7"
    assert kept("said", "--underlay", "10.1.1.1") == "10.1.1.1"


def test_its_own_settings_are_laid_over_the_cloud_s(front: Door, tmp_path: Path, authority: Authority) -> None:
    """Key by key, however deep; a path and a text may hold anything."""
    data, whole = tmp_path / "a b&c=d?#%é", told(bus_ca=authority.file.read_text())
    whole["settings"]["volume"] = {"backend": "rbd", "ceph": {"pool": "prod", "user": "c1"}}
    whole["settings"]["cloud"]["bus"] = whole["settings"]["cloud"]["bus"].replace("amqp:", "amqps:")
    front.script = nonsense(whole)
    (tmp_path / "own.toml").write_text('[volume.ceph]\nkeyring = "/k 🔑\\u007f"\nuser = "c2"\n', encoding="utf-8")
    assert join(data, front.url, TOKEN, "--settings", str(tmp_path / "own.toml"))[0] == 0
    kept = tomllib.loads((data / "host.toml").read_text(encoding="utf-8"))
    assert kept["volume"] == {"backend": "rbd", "ceph": {"pool": "prod", "user": "c2", "keyring": "/k 🔑\x7f"}}
    assert Address.parse(kept["cloud"]["bus"]).ca_file == str(data / "bus-ca.pem")
    assert Settings.read(data / "host.toml").given("cloud") == kept["cloud"]


def test_the_way_to_an_address_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asking.own_address("https://127.0.0.1:1") is None
    assert asking.own_address("https://[::1]") is None
    assert asking.own_address("https://no-such-name.invalid") is None


# ---- whoever else answers

HTML = b"<html><body>\x1b[31mWelcome to nginx!</body></html>"
NOT_OURS = "is no front door of a cloud of ours"
FINAL = [
    (reply("200 OK", HTML, "Content-Type: text/html"), NOT_OURS),
    (reply("404 Not Found", HTML), NOT_OURS),
    (reply("200 OK", json.dumps(told()).encode()), NOT_OURS),
    (reply("400 Bad Request", b'{"error": "text"}'), NOT_OURS),
    (reply("403 Forbidden", b'{"error": {"message": {"no": "text"}}}'), "refuses"),
    (reply("404 Not Found", b"\xff\xfe"), NOT_OURS),
    (reply("404 Not Found", b"[" * 100_000), NOT_OURS),
    (reply("301 Moved", b"", "Location: https://elsewhere.example/x"), r"\(301: https://elsewhere.example/x\)"),
    (reply("307 Moved"), r"sends us elsewhere \(307\); give the URL of the front door itself"),
    (reply("200 OK", bytes(asking.LARGEST + 1)), "more than a cloud of ours says"),
    (error("403 Forbidden", "This join token is not good here: …"), "Have a new one made: cumulet host token"),
    (error("409 Conflict", "A host named edge is in this cloud already."), "edge is in this cloud already"),
    (error("403 Forbidden", "red\x1b[31m\r\n" + "x" * 9999), "refuses: red"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "words"), FINAL)
def test_who_surely_did_nothing_leaves_nothing(front: Door, tmp_path: Path, script: Script, words: str) -> None:
    front.script = script
    said = refused(tmp_path / "new" / "data", front.url, TOKEN)
    assert re.search(words, said), said
    assert len(said) < 900
    assert "\x1b" not in said
    assert "may be run again" not in said
    assert list(tmp_path.iterdir()) == []


def cut(near: socket.socket) -> None:
    near.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n\r\n{")


def drip(near: socket.socket) -> None:
    near.sendall(b"HTTP/1.1 201 Created\r\n")
    near.settimeout(0.02)
    with contextlib.suppress(OSError):
        while True:
            near.sendall(b"X-Slow: 1\r\n")
            with contextlib.suppress(TimeoutError):
                if not near.recv(1):
                    return


def silent(near: socket.socket) -> None:
    near.settimeout(20)
    near.recv(1)


def nonsense(body: Any) -> Script:
    return reply("201 Created", body if isinstance(body, bytes) else json.dumps(body).encode())


def cloud_of(**changed: Any) -> Script:
    whole = told()
    whole["settings"]["cloud"] |= changed
    return nonsense(whole)


OPEN = [
    (reply("201 Created", bytes(asking.LARGEST + 1)), "more than a cloud of ours says"),
    (error("503 Service Unavailable", "The message broker's management API failed."), "management API failed"),
    (error("429 Too Many Requests", "Too many."), "Too many"),
    (cut, "does not answer"), (drip, "no whole answer within"), (silent, "no whole answer within"),
    (reply("201 Created", HTML, "Content-Type: text/html"), "makes no sense"),
    (nonsense([]), "makes no sense"), (nonsense(told(host="other")), "it is for another host"),
    (nonsense(told(more=1)), "makes no sense"), (nonsense(b"\xff" * 90), "makes no sense"),
    (nonsense(told(secrets={**told()["secrets"], "admin_password": "x" * 20})), "its secrets are not those of a host"),
    (nonsense(told(secrets={**told()["secrets"], "bus": "line\nline-line"})), "its secrets are not those of a host"),
    (nonsense(told(settings={"cloud": told()["settings"]["cloud"], "identity": {}})), "holds what no host needs"),
    (cloud_of(database="postgresql://u:p@h/d"), "holds what no host needs"),
    (cloud_of(bus="amqp://controller@127.0.0.1/v"), "its bus is not for this host"),
    (cloud_of(endpoints={"identity": "file:///etc/passwd"}), "must be a URL"),
    (nonsense(told(settings={**told()["settings"], "compute": {"no_such": 1}})), "no such setting"),
    (reply("201 Created", b"\x1f\x8b" + bytes(100), "Content-Encoding: gzip"), "makes no sense"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "words"), OPEN)
def test_who_may_have_heard_us_is_asked_the_same_again(
    front: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script, words: str
) -> None:
    monkeypatch.setattr(asking, "_SECONDS", 1.0)
    front.script = script
    said = refused(tmp_path / "data", front.url, TOKEN, left=CLAIM)
    assert words in said
    assert "the same command may be run again, with the same token" in said
    assert set(json.loads((tmp_path / "data" / "secrets.json").read_text())) == {"claim_next", "claimed_with"}
    monkeypatch.undo()
    front.script = good()
    assert join(tmp_path / "data", front.url, TOKEN)[0] == 0
    assert len({one["claim"] for one in front.asked}) == 1


def test_a_refusal_ends_what_was_open(front: Door, tmp_path: Path) -> None:
    front.script = error("503 Service Unavailable", "Later.")
    refused(tmp_path / "data", front.url, TOKEN, left=CLAIM)
    front.script = error("403 Forbidden", "No.")
    assert join(tmp_path / "data", front.url, TOKEN)[0] == 1
    assert json.loads((tmp_path / "data" / "secrets.json").read_text()) == {}


def test_a_host_that_may_not_join_again_stays_what_it_is(front: Door, tmp_path: Path) -> None:
    """Whatever the second answer is: the old credentials hold, its claim too."""
    data = tmp_path / "data"
    assert join(data, front.url, TOKEN)[0] == 0
    before = {one.name: one.read_bytes() for one in data.iterdir()}
    for script in (error("403 Forbidden", "No."), error("503 Service Unavailable", "Later."), reply("200 OK", HTML)):
        front.script = script
        assert join(data, front.url, "join-" + "n" * 43)[0] == 1
        kept = json.loads((data / "secrets.json").read_text())
        assert kept["claim"] == front.asked[0]["claim"]
        assert (data / "host.toml").read_bytes() == before["host.toml"]
        assert {key: kept[key] for key in told()["secrets"]} == told()["secrets"]
    front.script = good(secrets={**told()["secrets"], "host": "q" * 43})
    assert join(data, front.url, "join-" + "n" * 43)[0] == 0
    kept = json.loads((data / "secrets.json").read_text())
    assert (kept["host"], kept["claim"]) == ("q" * 43, front.asked[-1]["claim"])
    assert "claim_next" not in kept


def test_a_machine_of_another_cloud(front: Door, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "cloud-id").write_text("another\n")
    status, said = join(data, front.url, TOKEN)
    assert (status, front.asked[0]["cloud"]) == (1, "another")
    assert "belongs to another cloud (another); choose another with --data" in said
    assert not (data / "host.toml").exists()


def test_the_secrets_of_the_cloud_itself(front: Door, tmp_path: Path) -> None:
    """Neither overwritten, where this is a controller, nor kept beside its own, where a host ran with a copy."""
    data = tmp_path / "data"
    data.mkdir()
    text = json.dumps({"cloud_id": CLOUD, "bus": "of controllers", "service:compute": "s" * 43})
    (data / "secrets.json").write_text(text)
    status, said = join(data, front.url, TOKEN)
    assert (status, front.asked, (data / "secrets.json").read_text()) == (1, [], text)
    assert "holds the secrets of the cloud itself" in said
    (data / "secrets.json").unlink()
    assert join(data, front.url, TOKEN)[0] == 0


@pytest.mark.parametrize(
    "text", ["[network]\nunderlay = 1\n", "[nonsense", "[cloud]\nbus = 5\n", "[cloud.endpoints]\nidentity = 'x'\n"]
)
def test_wrong_settings_cost_no_token(front: Door, tmp_path: Path, text: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    refused(tmp_path / "data", front.url, TOKEN, "--settings", str(tmp_path / "own.toml"))
    assert front.asked == []


@pytest.mark.parametrize(
    "url",
    ["cloud.example", "ftp://h", "https://", "https://u:p4ssw0rd@h", "http://h:99999", "http://h?x=1", "http://[::1",
     "http://h:0", "http://a\x00b"],
)  # fmt: skip
def test_what_is_no_url(tmp_path: Path, url: str) -> None:
    said = refused(tmp_path / "data", url, TOKEN)
    assert "p4ssw0rd" not in said
    assert "URL must be that of the cloud's front door" in said


def test_nobody_there(tmp_path: Path) -> None:
    for url in (f"http://127.0.0.1:{free_ports(1)[0]}", "https://no-such-name.invalid"):
        said = refused(tmp_path / "data", url, TOKEN)
        assert "can't be reached" in said
        assert "is the URL right" in said


# ---- TLS


def test_over_tls_with_the_cloud_s_own_authority(tmp_path: Path, authority: Authority) -> None:
    with door(authority.issue("127.0.0.1")) as front:
        front.script = good(ca=authority.file.read_text(), bus_ca=authority.file.read_text())
        assert join(tmp_path / "data", front.url, TOKEN, "--ca", str(authority.file))[0] == 0
        assert front.asked[0]["host"] == NAME
    settings = tomllib.loads((tmp_path / "data" / "host.toml").read_text())
    assert Path(settings["cloud"]["ca"]).read_text() == authority.file.read_text(), "by which it trusts from now on"


def test_an_authority_that_vouches_not(tmp_path: Path, authority: Authority) -> None:
    stranger = Authority(tmp_path / "stranger")
    data = tmp_path / "data"
    with door(authority.issue("127.0.0.1")) as front:
        assert "name the cloud's own authority with --ca FILE" in refused(data, front.url, TOKEN)
        said = refused(data, front.url, TOKEN, "--ca", str(stranger.file))
        assert f"{stranger.file} does not vouch for it" in said
        empty = tmp_path / "empty.pem"
        empty.write_text("no certificate")
        assert "can't be read as certificates" in refused(data, front.url, TOKEN, "--ca", str(empty))
        plain = refused(data, front.url.replace("https:", "http:"), TOKEN, left=CLAIM)
        assert "does not answer" in plain
        assert front.asked == [], "nobody heard the token"
    with door(authority.issue("cloud.test")) as front:
        assert "is not trusted" in refused(tmp_path / "d", front.url, TOKEN, "--ca", str(authority.file))
    with door() as front:
        said = refused(tmp_path / "d", front.url.replace("http:", "https:"), TOKEN, "--ca", str(authority.file))
        assert "speaks no TLS" in said
