# SPDX-License-Identifier: Apache-2.0
"""The command line's way to the cloud: ``clouds.yaml``, a token, and requests by the catalogue.

Light on purpose (the standard library's HTTP client): a command answers before
a full client would have started. Every failure is a sentence that says what to do.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import click

from cumulet.cli.options import DEFAULT_DATA

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

_TIMEOUT = 60.0
_LONGEST_TOLD = 500
_NAMES = {"cumulet": "insight"}
"""What a service is called where its catalogue type does not say it."""


class CliError(click.ClickException):
    """What went wrong and what to do about it, for a person."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"cumulet: {self.message}", file=file, err=file is None)


class Refused(CliError):
    """The cloud answered with an error status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Place:
    """Which cloud is meant: its data directory (if told) and its name in ``clouds.yaml``."""

    data: Path | None
    cloud: str

    @property
    def file(self) -> Path:
        """The ``clouds.yaml`` that counts: the data directory's, or the one of the environment."""
        if self.data is None and (named := os.environ.get("OS_CLIENT_CONFIG_FILE")):
            return Path(named)
        return (self.data or Path(DEFAULT_DATA)) / "clouds.yaml"

    @property
    def up(self) -> str:
        """The command that starts this cloud."""
        return "cumulet up" + (f" --data {self.data}" if self.data is not None else "")

    def read(self) -> dict[str, Any]:
        """The cloud's entry in the file; raises CliError."""
        import yaml

        try:
            told = yaml.safe_load(self.file.read_text())
        except FileNotFoundError:
            raise CliError(f"there is no cloud here yet ({self.file} is missing); start it with: {self.up}") from None
        except PermissionError:
            raise CliError(f"{self.file} is another user's (it holds passwords); try it with sudo") from None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise CliError(f"{self.file} can't be read: {error}") from None
        clouds = told.get("clouds") if isinstance(told, dict) else None
        if not isinstance(clouds, dict) or not isinstance(clouds.get(self.cloud), dict):
            known = ", ".join(clouds) if isinstance(clouds, dict) else "none"
            raise CliError(f"{self.file} knows no cloud {self.cloud!r}; it knows: {known}")
        entry: dict[str, Any] = clouds[self.cloud]
        return entry


def cloud_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which cloud is meant; the command gets them as ``place``."""

    @click.option(
        "--data",
        type=click.Path(path_type=Path),
        envvar="CUMULET_DATA",
        help=f"Data directory of the cloud.  [default: {DEFAULT_DATA}]",
    )
    @click.option(
        "--os-cloud", default="cumulet", envvar="OS_CLOUD", show_default=True, help="A cloud of its clouds.yaml."
    )
    @functools.wraps(command)
    def with_place(data: Path | None, os_cloud: str, **more: Any) -> Any:
        return command(place=Place(data.absolute() if data else None, os_cloud), **more)

    return with_place


def say_json(document: Any) -> None:
    """A JSON document on standard output."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))


@dataclass
class Answer:
    """An answer whose body was read whole."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data) if self.data else None


@dataclass
class Session:
    """Requests to the services of one cloud as one of its users."""

    place: Place
    entry: dict[str, Any] = field(init=False)
    project_id: str | None = None
    roles: list[str] = field(default_factory=list)
    _token: str | None = None
    _endpoints: dict[str, str] = field(default_factory=dict)
    _connections: dict[str, HTTPConnection] = field(default_factory=dict)
    _streams: list[HTTPConnection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.entry = self.place.read()
        if (command := click.get_current_context(silent=True)) is not None:
            command.call_on_close(self.close)

    # ---- requests

    def call(self, service: str, method: str, path: str, document: Any = None, **more: Any) -> Any:
        """One request with JSON both ways; returns the parsed answer. Raises Refused for an error status."""
        headers = dict(more.pop("headers", None) or {})
        body = None
        if document is not None:
            body = json.dumps(document).encode()
            headers.setdefault("Content-Type", "application/json")
        answer = self.request(service, method, path, body, headers=headers)
        return answer.json

    def request(
        self, service: str, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request below a service's endpoint. ``body`` is bytes or an iterable of bytes. Raises Refused."""
        url = self.endpoint(service) + path
        sent = {"X-Auth-Token": self.token(), "Accept": "application/json", **(headers or {})}
        return self._answered(service, self._send(method, url, body, sent))

    def stream(self, service: str, path: str, headers: Mapping[str, str]) -> HTTPResponse:
        """An answer that is read as it comes, on a connection of its own. Raises Refused."""
        url = self.endpoint(service) + path
        sent = {"X-Auth-Token": self.token(), **headers}
        connection = self._connect(url)
        self._streams.append(connection)
        response = self._send("GET", url, None, sent, connection=connection)
        if response.status >= 400:
            self._answered(service, response)
        return response

    def token(self) -> str:
        """Our token, issued at the first use."""
        if self._token is None:
            self._authenticate()
        assert self._token is not None
        return self._token

    def endpoint(self, service: str) -> str:
        """The URL of a service by its catalogue type."""
        self.token()
        if service not in self._endpoints:
            raise CliError(f"the cloud offers no service of the type {service!r}")
        return self._endpoints[service]

    # ---- identity

    def _authenticate(self) -> None:
        given = self.entry.get("auth") or {}
        try:
            url = str(given["auth_url"]).rstrip("/")
            user = {"name": given["username"], "password": given["password"]}
        except KeyError as error:
            raise CliError(f"{self.place.file}: cloud {self.place.cloud!r} lacks auth.{error.args[0]}") from None
        user["domain"] = _domain(given, "user_domain")
        scope: dict[str, Any] = {}
        if given.get("system_scope"):
            scope = {"scope": {"system": {"all": True}}}
        elif given.get("project_id"):
            scope = {"scope": {"project": {"id": given["project_id"]}}}
        elif given.get("project_name"):
            project = {"name": given["project_name"], "domain": _domain(given, "project_domain")}
            scope = {"scope": {"project": project}}
        if not url.endswith("/v3"):
            url += "/v3"
        auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, **scope}}
        body = json.dumps(auth).encode()
        response = self._send("POST", url + "/auth/tokens", body, {"Content-Type": "application/json"})
        if response.status == 401:
            response.read()
            raise Refused(
                f"the cloud refuses the password in {self.place.file}; `{self.place.up}` writes the file anew", 401
            )
        answer = self._answered("identity", response)
        self._token = answer.headers["x-subject-token"]
        token = answer.json["token"]
        self.project_id = (token.get("project") or {}).get("id")
        self.roles = [role["name"] for role in token.get("roles", [])]
        region = self.entry.get("region_name")
        for service in token.get("catalog", []):
            for endpoint in service.get("endpoints", []):
                if endpoint["interface"] == "public" and region in (None, endpoint.get("region_id")):
                    self._endpoints.setdefault(service["type"], endpoint["url"].rstrip("/"))

    # ---- the wire

    def _connect(self, url: str) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme != "https":
            return HTTPConnection(host, port, timeout=_TIMEOUT)
        import ssl

        trust = ssl.create_default_context(cafile=self.entry.get("cacert"))
        if self.entry.get("verify") is False:
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        return HTTPSConnection(host, port, timeout=_TIMEOUT, context=trust)

    def _send(
        self,
        method: str,
        url: str,
        body: Any,
        headers: Mapping[str, str],
        *,
        connection: HTTPConnection | None = None,
    ) -> HTTPResponse:
        from http.client import HTTPException, RemoteDisconnected

        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        known = connection or self._connections.get(parts.netloc)
        reused = known is not None and connection is None
        used = known or self._connections.setdefault(parts.netloc, self._connect(url))
        try:
            used.request(method, target, body=body, headers=dict(headers))
            return used.getresponse()
        except (HTTPException, OSError) as error:
            used.close()
            if reused and method == "GET" and isinstance(error, RemoteDisconnected | ConnectionError):
                del self._connections[parts.netloc]  # it was kept open too long
                return self._send(method, url, body, headers)
            if isinstance(error, ConnectionRefusedError):
                raise CliError(
                    f"the cloud does not answer at {parts.scheme}://{parts.netloc}; start it with: {self.place.up}"
                ) from None
            raise CliError(f"{method} {parts.scheme}://{parts.netloc}{parts.path} failed: {_told(error)}") from None

    def _answered(self, service: str, response: HTTPResponse) -> Answer:
        data = response.read()
        answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, data)
        if answer.status >= 400:
            raise Refused(f"{_NAMES.get(service, service)} says: {_message(answer)} ({answer.status})", answer.status)
        return answer

    # ---- what several commands need

    def find_server(self, named: str) -> tuple[str, dict[str, Any] | None]:
        """The id of a server by id or name, and what compute shows of it (None when it is gone)."""
        if _is_uuid(named):
            try:
                server: dict[str, Any] = self.call("compute", "GET", f"/servers/{named}")["server"]
                return server["id"], server
            except Refused as refused:
                if refused.status != 404:
                    raise
                return named.lower(), None
        import re

        wanted = quote(f"^{re.escape(named)}$", safe="")
        wide = ["", "&all_tenants=1"] if "admin" in self.roles_now() else [""]
        for more in wide:
            found = self.call("compute", "GET", f"/servers/detail?name={wanted}{more}")["servers"]
            found = [one for one in found if one["name"] == named]
            if len(found) > 1:
                ids = "\n  ".join(f"{one['id']}  {one['status']:<8} {one['created']}" for one in found)
                raise CliError(f"{len(found)} servers are called {named!r}; name one by its id:\n  {ids}")
            if found:
                return found[0]["id"], found[0]
        hint = "" if "admin" in self.roles else " (servers of all projects: --os-cloud cumulet-admin)"
        raise CliError(f"no server is called {named!r} in this project{hint}")

    def find_volume(self, named: str) -> tuple[str, str]:
        """The id and the name of a volume by either; an id is taken as it is."""
        if _is_uuid(named):
            return named.lower(), ""
        found = self.call("block-storage", "GET", f"/volumes?name={quote(named, safe='')}")["volumes"]
        if len(found) != 1:
            raise CliError(f"{len(found) or 'no'} volumes are called {named!r} in this project")
        return found[0]["id"], found[0]["name"]

    def roles_now(self) -> list[str]:
        self.token()
        return self.roles

    def end_streams(self) -> None:
        """Whoever reads a stream, in another thread, finds that it has ended."""
        for connection in self._streams:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End every connection."""
        self.end_streams()
        for connection in (*self._connections.values(), *self._streams):
            connection.close()
        self._connections.clear()
        self._streams.clear()


def events_of(response: HTTPResponse) -> Iterator[tuple[str | None, Any]]:
    """The server-sent events of an answer as (id, document); (None, None) is a sign of life."""
    number: str | None = None
    data: list[str] = []
    while line := response.readline():
        text = line.decode().rstrip("\r\n")
        if not text:
            if data:
                yield number, json.loads("\n".join(data))
            number, data = None, []
        elif text.startswith(":"):
            yield None, None
        elif text.startswith("id:"):
            number = text[3:].strip()
        elif text.startswith("data:"):
            data.append(text[5:].strip())


def _domain(given: Mapping[str, Any], prefix: str) -> dict[str, str]:
    if name := given.get(f"{prefix}_name"):
        return {"name": str(name)}
    return {"id": str(given.get(f"{prefix}_id", "default"))}


def _is_uuid(text: str) -> bool:
    import re

    return re.fullmatch(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}", text) is not None


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def _message(answer: Answer) -> str:
    """The sentence in an error answer, whatever service wrote it."""
    try:
        told = answer.json
    except ValueError:
        return answer.data.decode(errors="replace").strip()[:_LONGEST_TOLD] or "no reason was given"
    if isinstance(told, dict):
        inner: Any = told if "message" in told else next(iter(told.values()), {})
        if isinstance(inner, list) and inner:
            inner = inner[0]
        if isinstance(inner, dict):
            inner = inner.get("message") or inner.get("detail")
        if isinstance(inner, str) and inner:
            return inner.replace("<br />", "").strip()[:_LONGEST_TOLD]
    return "no reason was given"
