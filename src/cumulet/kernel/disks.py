# SPDX-License-Identifier: Apache-2.0
"""What a disk image really is, found in the stream: whoever sent it is not believed.

Invariant: a file that `Inspection.verdict` let through has the declared format
and names no other file (no backing file, no data file, no foreign extents), so
it may be handed to QEMU with its format spelt out. Three services need that:
the one that takes images and the two that put them on disks.
"""

from __future__ import annotations

from typing import Any, cast

RAW_KINDS = frozenset({"raw", "gpt", "luks"})
"""What may hide in a file declared raw: content of a plain disk, not a container format."""
_KERNELS = frozenset({"aki", "ari"})


class Refused(ValueError):
    """The content is not acceptable; the text is fit for the user."""


class _Feed:
    """A file-like source that always holds the next piece."""

    piece: bytes = b""

    def read(self, size: int) -> bytes:
        return self.piece


class Inspection:
    """Looks at one stream. Feed it every byte in order, then ask for the verdict."""

    def __init__(self, declared: str) -> None:
        from oslo_utils.imageutils import format_inspector

        self._module: Any = format_inspector
        self._declared = declared
        self._feed = _Feed()
        self._wrapper: Any = format_inspector.InspectWrapper(cast(Any, self._feed))
        self._size = 0

    def feed(self, piece: bytes) -> None:
        self._feed.piece = piece
        self._size += len(piece)
        self._wrapper.read(len(piece))

    def verdict(self) -> int | None:
        """The virtual size in bytes (None: not known for this format). Raises Refused."""
        self._wrapper.close()
        try:
            inspector = self._inspector()
            found, declared = str(inspector), self._declared
            if found == declared:
                size: int | None = inspector.virtual_size
            elif declared == "raw" and found in RAW_KINDS:
                size = self._size
            elif declared not in self._module.ALL_FORMATS and (
                found == "raw" or (found == "gpt" and declared in _KERNELS)
            ):
                size = None
            else:
                raise Refused(f"Image disk_format {declared} does not match stream data {found}")
            try:
                inspector.safety_check()
            except self._module.SafetyCheckFailed as error:
                # a kernel may carry a boot sector that only looks like a partition table
                if declared not in _KERNELS or set(error.failures) != {"mbr"}:
                    raise Refused("Image failed safety checks") from None
        except self._module.ImageFormatError as error:
            raise Refused(str(error)) from None
        except Refused:
            raise
        except Exception as error:  # the inspectors parse hostile bytes: whatever they stumble over is a refusal
            raise Refused("Image format inspection failed") from error
        if size is not None and not 0 <= size < 2**62:
            raise Refused("Image failed safety checks")
        return size

    def _inspector(self) -> Any:
        matches = {str(one): one for one in self._wrapper.formats}
        if matches.keys() == {"iso", "gpt"}:
            return matches["iso"]  # an ISO that boots as a disk has a partition table in front
        return self._wrapper.format


def inspect_file(path: str, declared: str) -> int | None:
    """The verdict about a local file; blocking, for a worker thread. Raises Refused."""
    inspection = Inspection(declared)
    with open(path, "rb") as file:
        while piece := file.read(1024 * 1024):
            inspection.feed(piece)
    return inspection.verdict()
