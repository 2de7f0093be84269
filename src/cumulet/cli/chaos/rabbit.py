# SPDX-License-Identifier: Apache-2.0
"""A RabbitMQ of our own for a storm or a test: a node in a temporary directory, on free ports of the loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cumulet.cli.chaos.loopback import free_ports, let_go
from cumulet.kernel.bus.broker import Broker

ADMIN, PASSWORD = "admin", "a-passing-node's-password"
_CHILDREN: dict[str, int] = {}
"""Home of a node → its process, in the process that started it: the node may outlive that one."""


@dataclass(frozen=True)
class Node:
    """A broker that runs, or did a moment ago."""

    home: str
    amqp: int
    amqps: int
    management: int
    management_tls: int
    distribution: int
    names: int

    @property
    def ca_file(self) -> str:
        return f"{self.home}/tls.pem"

    def _program(self, name: str) -> str:
        return str(sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))[-1] / name)

    def _run(self, argv: list[str]) -> subprocess.Popen[bytes]:
        user = pwd.getpwnam("rabbitmq") if os.geteuid() == 0 else None
        drop: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        environment = {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": self.home,
            "LANG": "C.UTF-8",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": f"cumulet{self.amqp}@localhost",
            "RABBITMQ_CONFIG_FILE": f"{self.home}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self.home}/plugins",
            "RABBITMQ_MNESIA_BASE": f"{self.home}/data",
            "RABBITMQ_LOG_BASE": f"{self.home}/log",
            "RABBITMQ_PID_FILE": f"{self.home}/pid",
            "RABBITMQ_DIST_PORT": str(self.distribution),
            "ERL_EPMD_PORT": str(self.names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
        }
        with open(f"{self.home}/out", "ab") as out:
            return subprocess.Popen(
                argv, env=environment, cwd=self.home, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True, **drop,
            )  # fmt: skip

    def start(self) -> None:
        """Start the node and wait until it takes connections."""
        process = self._run([self._program("rabbitmq-server")])
        _CHILDREN[self.home] = process.pid
        end = time.monotonic() + 120
        for port in (self.amqp, self.amqps, self.management, self.management_tls):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    said = Path(self.home, "out").read_text(errors="replace")[-2000:]
                    assert process.poll() is None, f"RabbitMQ does not start: {said}"
                    assert time.monotonic() < end, f"RabbitMQ is slow to start: {said}"
                    time.sleep(0.05)
        let_go(process)

    def kill(self) -> None:
        """Let the node die at once, as in a power cut."""
        said = Path(self.home, "pid")
        pid = int(said.read_text()) if said.exists() else 0
        if (child := _CHILDREN.pop(self.home, 0)) != 0:
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(child, 0)
        elif pid:  # another process started it
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 30
        while pid and _runs(pid) and time.monotonic() < end:
            time.sleep(0.02)
        said.unlink(missing_ok=True)  # the number may be another process's soon

    def control(self, *arguments: str) -> None:
        """What an operator does on the broker's machine."""
        assert self._run([self._program("rabbitmqctl"), *arguments]).wait(60) == 0

    def remove(self) -> None:
        """Stop everything and leave no file."""
        self.kill()
        for _ in range(50):  # it goes once it has seen that the node is dead
            if self._run(["epmd", "-port", str(self.names), "-kill"]).wait(30) == 0:
                break
            time.sleep(0.1)
        shutil.rmtree(self.home, ignore_errors=True)

    def broker(self, vhost: str) -> Broker:
        return Broker(f"http://{ADMIN}@127.0.0.1:{self.management}", vhost, password=PASSWORD)


def _runs(pid: int) -> bool:
    """Whether that process runs; a dead one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def make_node(folder: str) -> Node:
    """Make a node below ``folder`` and start it; raises RuntimeError where RabbitMQ is not installed."""
    if not shutil.which("rabbitmq-server"):
        raise RuntimeError("RabbitMQ is not installed; run tools/setup.sh machine")
    home = tempfile.mkdtemp(prefix="cumulet-mq-", dir=folder)
    amqp, amqps, management, management_tls, distribution, names = free_ports(6)
    node = Node(home, amqp, amqps, management, management_tls, distribution, names)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", f"{home}/tls.key", "-out", node.ca_file],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    settings = {
        "listeners.tcp.1": f"127.0.0.1:{amqp}",
        "listeners.ssl.1": f"127.0.0.1:{amqps}",
        "ssl_options.certfile": node.ca_file,
        "ssl_options.cacertfile": node.ca_file,
        "ssl_options.keyfile": f"{home}/tls.key",
        "management.tcp.ip": "127.0.0.1",
        "management.tcp.port": management,
        "management.ssl.ip": "127.0.0.1",
        "management.ssl.port": management_tls,
        "management.ssl.cacertfile": node.ca_file,
        "management.ssl.certfile": node.ca_file,
        "management.ssl.keyfile": f"{home}/tls.key",
        "default_user": ADMIN,
        "default_pass": PASSWORD,
    }
    Path(home, "rabbitmq.conf").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
    Path(home, "plugins").write_text("[rabbitmq_management].\n")
    if os.geteuid() == 0:
        user = pwd.getpwnam("rabbitmq")
        for path in (Path(home), *Path(home).iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
    try:
        node.start()
    except BaseException:
        node.remove()
        raise
    return node
