# SPDX-License-Identifier: Apache-2.0
"""A machine becomes a host: asks the cloud with a join token, and keeps what it is told in its data directory.

Invariants: nothing that the other side says is believed before it was checked;
what is kept has mode 0600 from its first byte; the settings file is written
last, so a join that was cut off is simply made again, with the same token.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from cumulet.assembly.config import OF_HOSTS, cloud_config
from cumulet.assembly.place import Place, Taken
from cumulet.kernel import ids
from cumulet.kernel.bus.names import user_of
from cumulet.kernel.errors import Invalid
from cumulet.kernel.hostnames import checked_host
from cumulet.kernel.registry import HOST_SECRET, METADATA_KEY
from cumulet.kernel.secrets import SecretFile
from cumulet.kernel.settings import Settings, SettingsError

SETTINGS: Final = "host.toml"
"""The settings of a joined host, in its data directory."""
CLAIM: Final = "claim"
"""The secret by which a host repeats its join, and hears that it was removed."""
_PATH = "/cumulet/v1/join"
_TIMEOUT = 60.0
_LARGEST = 1 << 20
_KEYS = frozenset({"bus", "region", "heartbeat_seconds", "endpoints"})


class JoinError(RuntimeError):
    """The machine did not become a host; the text says why and what to do."""


class Told(msgspec.Struct, forbid_unknown_fields=True):
    """What a cloud tells a machine that joins it."""

    host: str
    settings: dict[str, dict[str, Any]]
    secrets: dict[str, str]
    bus_ca: str | None = None
    ca: str | None = None
    """The authorities that vouch for the cloud's endpoints, if they are its own."""


def joined(data: Path) -> Path | None:
    """The settings file of the host that lives in this data directory, if it joined a cloud."""
    file = data / SETTINGS
    return file if file.exists() else None


def join(
    data: Path, url: str, token: str, name: str, *, ca: Path | None = None, local: Mapping[str, Any] | None = None
) -> None:
    """Make this machine the host ``name`` of the cloud at ``url``; all it needs from then on is in ``data``.

    ``local``: sections of settings that hold for this host, laid over the cloud's. Raises JoinError, Taken, OSError
    or SettingsError; then nothing has changed but the token, which may be used again by this data directory.
    """
    try:
        checked_host(name)
    except Invalid as fault:
        raise JoinError(f"{fault.message} Choose another with --name.") from None
    data.mkdir(parents=True, exist_ok=True)
    place = Place(data)
    place.lock()
    try:
        secrets = SecretFile(data / "secrets.json")
        claim = _claim(secrets, token)
        told = _checked(_ask(url, {"token": token, "host": name, "claim": claim}, ca), name)
        _ensure_ours(data, told.secrets["cloud_id"])
        for text, file in ((told.bus_ca, "bus-ca.pem"), (told.ca, "ca.pem")):
            if text is not None:
                _write(data / file, text)
        settings = _laid(told, data, local or {})
        for key, value in told.secrets.items():
            secrets.put(key, value)
        _write(data / SETTINGS, toml(settings))
    finally:
        place.release()


def _claim(secrets: SecretFile, token: str) -> str:
    """A secret of this host's own, a new one for each token; kept before the token is used."""
    for_token = hashlib.sha256(token.encode()).hexdigest()
    if not (secrets.known(CLAIM) and secrets.known("claimed_with") and secrets.get("claimed_with") == for_token):
        secrets.put(CLAIM, ids.new_secret(32))
        secrets.put("claimed_with", for_token)
    return secrets.get(CLAIM)


def _ensure_ours(data: Path, cloud_id: str) -> None:
    marker = data / "cloud-id"
    if marker.exists() and marker.read_text().strip() != cloud_id:
        raise Taken(f"{data} belongs to another cloud ({marker.read_text().strip()}); choose another with --data")


# ---- asking


def _ask(url: str, document: dict[str, str], ca: Path | None) -> bytes:
    """The body of the answer to one request; raises JoinError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        raise JoinError("URL must be that of the cloud's front door, like https://cloud.example")
    where = f"{parts.scheme}://{parts.netloc}"
    connection = HTTPConnection(host, port, timeout=_TIMEOUT)
    if parts.scheme == "https":
        connection = HTTPSConnection(host, port, timeout=_TIMEOUT, context=ssl.create_default_context(cafile=ca))
    try:
        path = parts.path.rstrip("/") + _PATH
        connection.request("POST", path, json.dumps(document).encode(), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read(_LARGEST + 1)
    except ssl.SSLCertVerificationError as error:
        raise JoinError(f"{where} is not trusted: {error.verify_message}; name its CA with --ca FILE") from None
    except (HTTPException, OSError) as error:
        raise JoinError(f"{where} does not answer: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()
    if answer.status == 201 and len(data) <= _LARGEST:
        return data
    if 300 <= answer.status < 400:
        raise JoinError(f"{where} sends us elsewhere ({answer.status}); give the URL of the front door itself")
    raise JoinError(f"{where} refuses: {_reason(data)} ({answer.status})")


def _reason(data: bytes) -> str:
    try:
        told = msgspec.json.decode(data, type=dict[str, dict[str, Any]])
        message = str(told["error"]["message"])
    except (msgspec.DecodeError, KeyError):
        return "this is no answer of a cloud of ours"
    return "".join(one for one in message if one.isprintable())[:500]


def _checked(data: bytes, name: str) -> Told:
    """The answer, if it is one that a cloud gives; raises JoinError."""
    try:
        told = msgspec.json.decode(data, type=Told)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JoinError(f"what the cloud answers makes no sense: {error}") from None
    cloud = told.settings.get("cloud", {})
    wanted = {"cloud_id", HOST_SECRET, "bus", METADATA_KEY}
    if told.host != name or set(told.settings) - {"cloud", *OF_HOSTS} or set(cloud) - _KEYS:
        raise JoinError("what the cloud answers makes no sense: it is for another host, or holds what no host needs")
    if set(told.secrets) != wanted or not all(_is_secret(value) for value in told.secrets.values()):
        raise JoinError("what the cloud answers makes no sense: its secrets are not those of a host")
    try:
        cloud_config(Settings({"cloud": cloud}, environ={}))
    except SettingsError as error:
        raise JoinError(f"what the cloud answers makes no sense: {error}") from None
    if not cloud.get("bus") or f"{user_of(name, '')}" not in cloud["bus"].replace("%2B", "+"):
        raise JoinError("what the cloud answers makes no sense: its bus is not for this host")
    return told


def _is_secret(text: str) -> bool:
    return 8 <= len(text) <= 200 and text.isascii() and text.isprintable() and " " not in text


# ---- keeping


def _laid(told: Told, data: Path, local: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of this host: the cloud's, this host's own name, and what its operator says over them."""
    settings = {name: dict(values) for name, values in told.settings.items()}
    cloud = settings["cloud"]
    cloud["host"] = told.host
    if told.bus_ca is not None:
        cloud["bus"] += f"?cafile={data / 'bus-ca.pem'}"
    if told.ca is not None:
        cloud["ca"] = str(data / "ca.pem")
    for name, values in local.items():
        settings.setdefault(name, {}).update(values)
    cloud_config(Settings(settings, environ={}))
    return settings


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def toml(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Sections as a settings file. None stands for a key that is not there."""
    lines = ["# Written by `cumulet join`; yours to change from then on."]
    for name, values in settings.items():
        lines += ["", f"[{name}]"]
        lines += [f"{json.dumps(key)} = {_value(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return json.dumps(value)  # JSON's strings, numbers and truth values are TOML's
