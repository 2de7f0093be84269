# SPDX-License-Identifier: Apache-2.0
"""Config drives: the ISO 9660 image, labelled ``config-2``, that a guest reads its metadata from.

Invariant: a file on disk is either the whole image or not there; names come
from a fixed set of published paths, contents may be anything.

Source: the OpenStack documentation, "Store metadata on a configuration drive".
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping

LABEL = "config-2"


def build(files: Mapping[str, bytes]) -> bytes:
    """The image with ``files``: relative paths such as ``openstack/latest/meta_data.json`` to their contents.

    Real names are in the Rock Ridge and Joliet trees. CPU work of some milliseconds.
    Raises ValueError for a path that is absolute, empty or climbs up.
    """
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, rock_ridge="1.09", joliet=3, vol_ident=LABEL, sys_ident="LINUX")
    plain: dict[str, str] = {"": ""}  # directory → its path in the ISO 9660 tree, whose names are short and unique
    for number, (path, content) in enumerate(sorted(files.items())):
        parts = path.split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"not a relative path of a file: {path!r}")
        for depth in range(1, len(parts)):
            folder, parent = "/".join(parts[:depth]), "/".join(parts[: depth - 1])
            if folder not in plain:
                plain[folder] = f"{plain[parent]}/D{len(plain):07}"
                iso.add_directory(plain[folder], rr_name=parts[depth - 1], joliet_path=f"/{folder}")
        iso.add_fp(
            io.BytesIO(content),
            len(content),
            f"{plain['/'.join(parts[:-1])]}/F{number:07}.;1",
            rr_name=parts[-1],
            joliet_path=f"/{path}",
        )
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()


def write(path: str | os.PathLike[str], files: Mapping[str, bytes], *, gid: int | None = None) -> None:
    """Put the image at ``path``, readable to its owner and to group ``gid`` only (it holds passwords)."""
    name = os.fspath(path)
    partial = f"{name}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        if gid is not None:
            os.fchown(handle, -1, gid)
            os.fchmod(handle, 0o640)
        file.write(build(files))
    os.replace(partial, name)
