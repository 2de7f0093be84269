# SPDX-License-Identifier: Apache-2.0
"""One object of Swift's that is sent while it is still being written.

The client library takes what it is to send from an iterator, and our data comes
by calls of ``feed``: a thread of its own stands between the two.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from typing import Any, Final

_LOOK: Final = 1.0
"""Seconds between two looks at whether the other side of an upload still lives."""


class _Stopped(Exception):
    """The upload is not to be ended well."""


class Segment:
    """A segment of a large object."""

    def __init__(self, connection: Any, container: str, name: str) -> None:
        """``connection``: for this one alone, and without retries: what streamed away can't be sent again."""
        self._connection, self._container, self._name = connection, container, name
        self.size = 0
        self._digest = hashlib.md5(usedforsecurity=False)
        self._pieces: queue.Queue[bytes | None] = queue.Queue(maxsize=2)
        self._stopped = False
        self._answer = ""
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._send, name="swift segment", daemon=True)
        self._thread.start()

    def _send(self) -> None:
        try:
            self._answer = self._connection.put_object(self._container, self._name, self._iterate())
        except Exception as error:
            self._fault = error
        finally:
            self._connection.close()

    def _iterate(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            yield piece
        if self._stopped:
            raise _Stopped

    def feed(self, piece: bytes) -> None:
        """Append; raises what the sending raised."""
        self._put(piece)
        self._digest.update(piece)
        self.size += len(piece)

    def _put(self, piece: bytes | None) -> None:
        while True:
            try:
                self._pieces.put(piece, timeout=_LOOK)
            except queue.Full:
                if self._thread.is_alive():
                    continue
            if self._fault is not None:
                raise self._fault
            return

    def end(self) -> dict[str, Any]:
        """Its line of the manifest, once the server has it all."""
        self._put(None)
        self._thread.join()
        if self._fault is not None:
            raise self._fault
        digest = self._digest.hexdigest()
        if self._answer != digest:
            raise OSError("what arrived is not what was sent")
        return {"path": f"/{self._container}/{self._name}", "etag": digest, "size_bytes": self.size}

    def stop(self) -> None:
        """Have the server throw away what it has of it."""
        self._stopped = True
        try:
            self._put(None)
        except Exception:  # it ended by itself, badly, which is as good
            return
        self._thread.join()
