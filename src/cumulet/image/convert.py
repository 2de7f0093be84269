# SPDX-License-Identifier: Apache-2.0
"""One disk image into another format, by a program that is held short.

Invariant: the program gets a file that was inspected before (it names no other
file), its format spelt out, and bounds for memory, processor time, time and the
size of what it writes; it gets no environment, no network and no other file.
"""

from __future__ import annotations

import json
from pathlib import Path

from cumulet.kernel.confined import run_confined
from cumulet.kernel.pools import ProgramFailed

_VIRTUAL_CAP = 16 * 1024**4
"""Bytes of the largest disk that a conversion may describe."""


class ConvertError(Exception):
    """The disk can't be converted; the text is fit for the user."""


async def convert(
    source: Path,
    source_format: str,
    target: Path,
    target_format: str,
    *,
    memory_bytes: int,
    seconds: float,
    size_cap_bytes: int,
) -> None:
    """Write ``source`` as ``target``; nothing is left there when it fails (ConvertError)."""
    limits = {"as": memory_bytes, "cpu": int(seconds) + 1, "fsize": size_cap_bytes, "core": 0, "nofile": 64}
    part = target.with_name(target.name + ".part")
    try:
        told = await run_confined(
            ["qemu-img", "info", "-f", source_format, "--output=json", str(source)],
            read=source, timeout=60.0, limits=limits, output_limit=1024 * 1024,
        )  # fmt: skip
        described = json.loads(told.stdout)
        if described.get("backing-filename") or described.get("full-backing-filename"):
            raise ConvertError("The disk names another file.")
        if described["virtual-size"] > _VIRTUAL_CAP:
            raise ConvertError("The disk is too large to be converted.")
        await run_confined(
            [
                "qemu-img", "convert", "-q", "-f", source_format, "-O", target_format, "-t", "writeback",
                str(source), str(part),
            ],
            read=source, write=part, timeout=seconds, limits=limits,
        )  # fmt: skip
        part.rename(target)
    except TimeoutError:
        raise ConvertError("The conversion took too long.") from None
    except ProgramFailed as error:
        raise ConvertError("The disk can't be converted.") from error
    finally:
        part.unlink(missing_ok=True)
