# SPDX-License-Identifier: Apache-2.0
"""Disk images, good and hostile, made here and now, with the manifest by which Tempest knows them."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

_SIZE = 1 << 20
_MADE = {"qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vhd": "vpc", "vhdx": "vhdx"}
"""Published format → qemu-img's name of it."""


def qcow2(*, backing: bytes = b"", incompatible: int = 0, virtual: int = _SIZE) -> bytes:
    """A version 3 header with the refcounts of an empty disk behind it."""
    offset = 104 if backing else 0
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, offset, len(backing), 16, virtual, 0, 1, 196_608, 65_536, 1, 0, 0,
        incompatible, 0, 0, 4, 104,
    )  # fmt: skip
    return (head + backing).ljust(262_144, b"\0")


def iso() -> bytes:
    from cumulet.compute.drivers.configdrive import build

    return build({"hello": b"world"})


def flat(vmdk: bytes) -> bytes:
    """The same disk, but its bytes are said to be in a file of the host's."""
    for was, becomes in (
        (b'createType="monolithicSparse"', b'createType="monolithicFlat"  '),
        (b'SPARSE "vmdk-ok.img"', b'FLAT   "/etc/passwd"'),
    ):
        assert was in vmdk
        assert len(was) == len(becomes)
        vmdk = vmdk.replace(was, becomes)
    return vmdk


_BYTES = {
    "raw-ok": ("raw", True, lambda: bytes(_SIZE)),
    "iso-ok": ("iso", True, iso),
    "qcow2-backing": ("qcow2", False, lambda: qcow2(backing=b"/etc/passwd")),
    "qcow2-data-file": ("qcow2", False, lambda: qcow2(incompatible=4)),
    "qcow2-unknown-features": ("qcow2", False, lambda: qcow2(incompatible=1 << 40)),
}  # fmt: skip
"""Name → published format, whether guests may have it, its bytes."""


def write(folder: Path) -> Path:
    """Make the files and their manifest in ``folder``; returns the manifest (YAML, of which JSON is a part)."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for name, program in _MADE.items():
        file = folder / f"{name}-ok.img"
        subprocess.run(["qemu-img", "create", "-q", "-f", program, str(file), str(_SIZE)], check=True)
        images.append({"name": f"{name}-ok", "filename": file.name, "format": name, "usable": True})
    for name, (format_, usable, content) in _BYTES.items():
        file = folder / f"{name}.img"
        file.write_bytes(content())
        images.append({"name": name, "filename": file.name, "format": format_, "usable": usable})
    file = folder / "vmdk-flat.img"
    file.write_bytes(flat((folder / "vmdk-ok.img").read_bytes()))
    images.append({"name": "vmdk-flat", "filename": file.name, "format": "vmdk", "usable": False})
    manifest = folder / "manifest.yaml"
    manifest.write_text(json.dumps({"images": images}, indent=1))
    return manifest
