# SPDX-License-Identifier: Apache-2.0
"""`cumulet image`: brings an image file, or what a URL gives, into the cloud.

What is uploaded is looked at first (format, size): a page that says "not found"
does not become an image. The cloud inspects it again and decides.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click

from cumulet.cli import LazyGroup
from cumulet.cli.session import CliError, Place, Refused, Session, cloud_options, say_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PIECE = 1 << 20
_SECONDS = 60.0
_INSPECTED_BYTES = 8 << 20
"""Every format shows itself in so many bytes from the beginning."""
FORMATS = ("qcow2", "raw", "iso", "vmdk", "vdi", "vhd", "vhdx")
_SIZE = click.FloatRange(0, min_open=True)
_INSPECTED = {"gpt": "raw", "vpc": "vhd"}
"""What an inspector calls a format → what the image API calls it."""
_SUFFIXES = (".img", ".qcow2", ".raw", ".iso", ".vmdk", ".vdi", ".vhd", ".vhdx")


@click.group(cls=LazyGroup, table={"import": ("cumulet.cli.image:import_image", "Upload a file, or what a URL gives.")})
def image() -> None:
    """Bring images into the cloud."""


@click.command("import")
@click.argument("source", metavar="FILE|URL")
@cloud_options
@click.option("--name", help="Name of the image.  [default: the file's name]")
@click.option("--format", "disk_format", type=click.Choice(FORMATS), help="Its format.  [default: found out]")
@click.option("--public", is_flag=True, help="For all projects; needs an admin: --os-cloud cumulet-admin.")
@click.option(
    "--max-gib", type=click.FloatRange(0, min_open=True), default=20.0, show_default=True, help="The most to download."
)
@click.option("--json", "as_json", is_flag=True, help="The image as JSON, without a progress bar.")
def import_image(
    place: Place, source: str, name: str | None, disk_format: str | None, public: bool, max_gib: float, as_json: bool
) -> None:
    """Upload FILE, or what an http or https URL gives, as an image."""
    session = Session(place)
    with _progress(quiet=as_json) as progress, _opened(source, int(max_gib * 2**30), progress) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise CliError(f"{source} is empty")
        found = disk_format or detect(file)
        document = {
            "name": name or _name_of(source),
            "disk_format": found,
            "container_format": "bare",
            "visibility": "public" if public else "private",
        }
        made = _create(session, document)
        try:
            _upload(session, made["id"], file, size, progress)
        except BaseException:
            _forget(session, made["id"])
            raise
    shown = session.call("image", "GET", f"/v2/images/{made['id']}")
    if as_json:
        say_json(shown)
        return
    click.echo(f"{shown['name']}  {shown['id']}  {shown['disk_format']}  {shown['size']} bytes  {shown['status']}")


def detect(file: IO[bytes]) -> str:
    """The format of an image file as the image API names it; raises CliError for what is none."""
    from oslo_utils.imageutils import format_inspector

    file.seek(0)
    head = file.read(_INSPECTED_BYTES)
    file.seek(0)
    wrapper = format_inspector.InspectWrapper(io.BytesIO(head))
    while wrapper.read(_PIECE):
        pass
    wrapper.close()
    try:
        kinds = {str(one) for one in wrapper.formats or ()}
    except format_inspector.ImageFormatError as error:
        raise CliError(f"the format can't be told ({error}); name it with --format") from None
    if kinds == {"iso", "gpt"}:
        kinds = {"iso"}  # an ISO that boots as a disk has a partition table in front
    if len(kinds) != 1:
        raise CliError(f"this may be {' or '.join(sorted(kinds))}; name its format with --format")
    kind = kinds.pop()
    kind = _INSPECTED.get(kind, kind)
    if kind not in FORMATS:
        raise CliError(f"images of the format {kind} can't be used here")
    if kind == "raw" and head.lstrip()[:1] in (b"<", b"{") and b"\0" not in head[:512]:
        raise CliError("this looks like a web page, not an image; if it is one, name its format with --format")
    return kind


def _create(session: Session, document: dict[str, Any]) -> dict[str, Any]:
    try:
        made: dict[str, Any] = session.call("image", "POST", "/v2/images", document)
    except Refused as refused:
        if refused.status == 403 and document["visibility"] == "public":
            raise CliError(f"{refused.message}; public images need an admin: --os-cloud cumulet-admin") from None
        raise
    return made


def _forget(session: Session, image_id: str) -> None:
    try:
        session.close()
        session.request("image", "DELETE", f"/v2/images/{image_id}")
    except CliError as error:
        click.echo(f"the unfinished image {image_id} is left: {error.message}", err=True)


def _upload(session: Session, image_id: str, file: IO[bytes], size: int, progress: Progress) -> None:
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    task = progress.add_task("uploading", total=size)
    session.request("image", "PUT", f"/v2/images/{image_id}/file", _pieces(file, progress, task), headers=headers)


def _pieces(file: IO[bytes], progress: Progress, task: TaskID) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
        progress.advance(task, len(piece))


# ---- where it comes from


@contextmanager
def _opened(source: str, most: int, progress: Progress) -> Iterator[IO[bytes]]:
    """The image as a file that can be read twice; a URL is downloaded to a temporary one."""
    scheme = urlsplit(source).scheme.lower() if "://" in source else ""
    if scheme in ("http", "https"):
        with tempfile.TemporaryFile() as file:
            _download(source, file, most, progress)
            yield file
        return
    if scheme:
        raise CliError(f"{scheme} is no way to get an image: a file, http or https is")
    try:
        opened = Path(source).open("rb")  # noqa: SIM115 - closed by whoever asked for it
    except OSError as error:
        raise CliError(f"{source}: {error.strerror}") from None
    with opened:
        yield opened


def _download(url: str, file: IO[bytes], most: int, progress: Progress) -> None:
    import http.client
    import urllib.error
    import urllib.request

    # only these two schemes, in redirects too: there is no handler for any other
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler, urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    limit = f"{most / 2**30:.3g} GiB"
    try:
        with opener.open(url, timeout=_SECONDS) as response:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdigit() else None
            if total is not None and total > most:
                raise CliError(f"{url} has {total} bytes, more than {limit}; allow more with --max-gib")
            task = progress.add_task("downloading", total=total)
            done = 0
            while piece := response.read(_PIECE):
                done += len(piece)
                if done > most:
                    raise CliError(f"{url} gives more than {limit}; allow more with --max-gib")
                file.write(piece)
                progress.advance(task, len(piece))
    except urllib.error.HTTPError as error:
        error.close()
        raise CliError(f"{url} answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise CliError(f"{url} can't be read: {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CliError(f"{url} can't be read: {error}") from None
    if total is not None and done != total:
        raise CliError(f"{url} ended after {done} of {total} bytes")
    file.flush()
    file.seek(0)


def _name_of(source: str) -> str:
    path = unquote(urlsplit(source).path) if "://" in source else source
    name = Path(path).name or "image"
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name[:255] or "image"


def _progress(*, quiet: bool) -> Progress:
    """Bars on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description:<11}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=quiet or not console.is_terminal)
