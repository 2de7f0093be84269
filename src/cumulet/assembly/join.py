# SPDX-License-Identifier: Apache-2.0
"""A machine becomes a host: asks the cloud with a join token, and keeps what it is told in its data directory.

Invariants: nothing that the other side says is believed before it was checked;
what is kept has mode 0600 from its first byte; the settings file is written
last, so a join that was cut off is simply made again, with the same token; a
join that was refused leaves the data directory as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from cumulet.assembly.asking import JoinError, ask, own_address, parsed
from cumulet.assembly.config import OF_HOSTS, check_other_sections, cloud_config, with_parameter
from cumulet.assembly.place import Place, Taken
from cumulet.assembly.table import SERVICES
from cumulet.kernel import ids
from cumulet.kernel.bus.names import user_of
from cumulet.kernel.errors import Invalid
from cumulet.kernel.files import write_whole
from cumulet.kernel.hostnames import checked_host
from cumulet.kernel.registry import HOST_SECRET, METADATA_KEY
from cumulet.kernel.secrets import SecretFile
from cumulet.kernel.settings import Settings, SettingsError

SETTINGS: Final = "host.toml"
"""The settings of a joined host, in its data directory."""
CLAIM: Final = "claim"
"""The secret by which a host repeats its join, and hears that it was removed."""
_NEXT, _CLAIMED_WITH = "claim_next", "claimed_with"
"""The claim of a join that is under way, and the hash of its token."""
_PATH = "/cumulet/v1/join"
_KEYS = frozenset({"bus", "region", "heartbeat_seconds", "endpoints"})


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

    ``local``: sections of settings that hold for this host, laid over the cloud's; without an underlay address in
    them, this machine's own address on the way to ``url`` is it. Raises JoinError, Taken, OSError or SettingsError;
    then nothing has changed, but where the cloud may have heard us the claim is kept for a repetition.
    """
    try:
        checked_host(name)
    except Invalid as fault:
        raise JoinError(f"{fault.message} Choose another with --name.") from None
    parsed(url)
    mine = Settings(local or {}, environ={})
    cloud_config(mine)
    check_other_sections(mine, ())
    with _in_place(data) as secrets:
        _ensure_no_controller(secrets)
        claim = _claim(secrets, token)
        question = {"token": token, "host": name, "claim": claim}
        marker = data / "cloud-id"
        if marker.exists():
            question["cloud"] = marker.read_text().strip()
        told = _checked(ask(url, _PATH, question, ca), name)
        _ensure_ours(data, told.secrets["cloud_id"])
        for text, file in ((told.bus_ca, "bus-ca.pem"), (told.ca, "ca.pem")):
            if text is not None:
                write_whole(data / file, text, durable=True)
        settings = _laid(told, data, local or {}, own_address(url))
        for key, value in {**told.secrets, CLAIM: claim}.items():
            secrets.put(key, value)
        write_whole(data / SETTINGS, toml(settings), durable=True)
        secrets.drop(_NEXT)


@contextmanager
def _in_place(data: Path) -> Iterator[SecretFile]:
    """The secrets of this data directory, held alone; a join that surely had no effect leaves no trace of itself."""
    made = [one for one in (data, *data.parents) if not one.exists()]
    data.mkdir(parents=True, exist_ok=True)
    before = set(data.iterdir())
    place = Place(data)
    place.lock()
    try:
        secrets = SecretFile(data / "secrets.json")
        yield secrets
    except BaseException as error:
        if not (isinstance(error, JoinError) and not error.open_end):
            raise
        secrets.drop(_NEXT, _CLAIMED_WITH)
        for file in {data / "secrets.json", data / "secrets.lock", data / "lock"} - before:
            file.unlink(missing_ok=True)
        with suppress(OSError):  # somebody else came in
            for folder in made:
                folder.rmdir()
        raise
    finally:
        place.release()


def _claim(secrets: SecretFile, token: str) -> str:
    """A secret of this host's own, a new one for each token; kept before the token is used."""
    for_token = hashlib.sha256(token.encode()).hexdigest()
    if not (secrets.known(_CLAIMED_WITH) and secrets.get(_CLAIMED_WITH) == for_token):
        secrets.put(_NEXT, ids.new_secret(32))
        secrets.put(_CLAIMED_WITH, for_token)
    return secrets.get(_NEXT if secrets.known(_NEXT) else CLAIM)


def _ensure_no_controller(secrets: SecretFile) -> None:
    """A host holds no secrets of the cloud, and those of a controller are not ours to change."""
    if any(secrets.known(f"service:{entry.package}") for entry in SERVICES):
        raise JoinError(
            f"{secrets.path} holds the secrets of the cloud itself: on a host that ran with a copy of them, remove "
            "that file and join again; on a controller, choose another directory with --data"
        )


def _ensure_ours(data: Path, cloud_id: str) -> None:
    marker = data / "cloud-id"
    if marker.exists() and marker.read_text().strip() != cloud_id:
        raise Taken(f"{data} belongs to another cloud ({marker.read_text().strip()}); choose another with --data")


def _checked(data: bytes, name: str) -> Told:
    """The answer, if it is one that a cloud gives; raises JoinError."""
    try:
        return _sensible(msgspec.json.decode(data, type=Told), name)
    except (msgspec.DecodeError, UnicodeDecodeError, SettingsError) as error:
        why = f"what the cloud answers makes no sense: {error}; is its release the same as this machine's?"
        raise JoinError(why, open_end=True) from None


def _sensible(told: Told, name: str) -> Told:
    """The same, or SettingsError."""
    cloud = told.settings.get("cloud", {})
    wanted = {"cloud_id", HOST_SECRET, "bus", METADATA_KEY}
    if told.host != name or set(told.settings) - {"cloud", *OF_HOSTS} or set(cloud) - _KEYS:
        raise SettingsError("it is for another host, or holds what no host needs")
    if set(told.secrets) != wanted or not all(_is_secret(value) for value in told.secrets.values()):
        raise SettingsError("its secrets are not those of a host")
    sections = Settings(told.settings, environ={})
    cloud_config(sections)
    check_other_sections(sections, ())
    if not cloud.get("bus") or f"{user_of(name, '')}" not in cloud["bus"].replace("%2B", "+"):
        raise SettingsError("its bus is not for this host")
    return told


def _is_secret(text: str) -> bool:
    return 8 <= len(text) <= 200 and text.isascii() and text.isprintable() and " " not in text


# ---- keeping


def _laid(told: Told, data: Path, local: Mapping[str, Any], address: str | None) -> dict[str, Any]:
    """The settings of this host: the cloud's, its own name and address, and what its operator says over them."""
    settings = {name: dict(values) for name, values in told.settings.items()}
    cloud = settings["cloud"]
    cloud["host"] = told.host
    if told.bus_ca is not None:
        cloud["bus"] = with_parameter(cloud["bus"], "cafile", str(data / "bus-ca.pem"))
    if told.ca is not None:
        cloud["ca"] = str(data / "ca.pem")
    if address is not None:
        settings.setdefault("network", {})["underlay_address"] = address
    settings = _over(settings, local)
    cloud_config(Settings(settings, environ={}))
    return settings


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, key by key at every depth; where both say something, what is above holds."""
    both = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            both[key] = _over(below[key], above[key])
    return both


def toml(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Sections as a settings file. None stands for a key that is not there."""
    import tomli_w

    return f"# Written by `cumulet join`; yours to change from then on.\n\n{tomli_w.dumps(_known(settings))}"


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same without what is None, at every depth."""
    return {key: _known(one) if isinstance(one, Mapping) else one for key, one in values.items() if one is not None}
