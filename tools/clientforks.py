# SPDX-License-Identifier: Apache-2.0
"""Imports the `openstack` client once and forks for each command that comes through a socket.

Runs in the suites' own environment. A connection brings the words of one command and its
three streams; its exit status goes back. A fork is a whole process: nothing of one command
is seen by another.
"""

import importlib.metadata
import os
import signal
import socket
import sys

from openstackclient import shell


def warm() -> None:
    """Import what every command needs: the commands' modules of the groups, and the scan of all plug-ins."""
    entries = [entry for one in importlib.metadata.distributions() for entry in one.entry_points]
    for entry in entries:
        if entry.group.startswith(("openstack.", "keystoneauth1.plugin", "cliff.formatter")):
            try:
                entry.load()
            except Exception:  # noqa: S112
                continue  # a plug-in whose own library is not installed fails as it likes


def serve(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print("ready", flush=True)
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os._exit(handle(client))
            client.close()


def handle(client: socket.socket) -> int:
    """Run the command and tell its status; a command's own children are none of ours."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, streams, _, _ = socket.recv_fds(client, 65536, 3)
    while more := client.recv(65536):
        message += more
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.argv = message.decode().split("\0")
    try:
        status = shell.main(sys.argv[1:])
    except SystemExit as stop:
        status = stop.code
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    code = status if isinstance(status, int) else int(bool(status))
    client.send(str(code).encode())
    return code


if __name__ == "__main__":
    warm()
    serve(sys.argv[1])
