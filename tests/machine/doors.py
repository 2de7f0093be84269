# SPDX-License-Identifier: Apache-2.0
"""What runs outside all machines (the broker) and is reached at an address inside one, as if it ran there."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import ExitStack

from tests.machine.machines import Visitor


def door(stack: ExitStack, visitor: Visitor, address: tuple[str, int], target: int) -> None:
    """Whoever connects to ``address`` where the visitor lives reaches our own loopback's port ``target``."""
    listener = visitor.call(socket.create_server, address)
    stack.callback(listener.close)
    stack.callback(listener.shutdown, socket.SHUT_RDWR)  # wakes who accepts

    def carry(near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", target), 10) as far:
            ends = {near: far, far: near}
            while True:
                for source in select.select(list(ends), [], [])[0]:
                    try:
                        data = source.recv(65536)
                        ends[source].sendall(data)
                    except OSError:
                        return
                    if not data:
                        return

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(near,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
