# SPDX-License-Identifier: Apache-2.0
"""The same plans again: nothing disturbed, everything back, killed at any point."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cumulet.network.drivers.bridge import links
from cumulet.network.drivers.bridge.driver import BridgeNetwork
from cumulet.network.drivers.bridge.naming import Names
from tests.machine.bridge.plans import (
    PUBLIC,
    apply,
    full,
    mac,
)
from tests.machine.wires import Machine, run

pytestmark = pytest.mark.machine


STRIDE = 6
"""Crashes are tried at every so many-th effect of each plan; 1 tries them all and takes more than a minute."""


async def test_the_same_plans_again_disturb_no_packet(machine: Machine, driver: BridgeNetwork) -> None:
    one, two = machine.guest("tapnet1-11", mac(11)), machine.guest("tapnet1-12", mac(12))
    await apply(driver)
    one.have("10.77.0.11/24", "10.77.0.1")
    two.have("10.77.0.12/24", "10.77.0.1")
    pid = Path(Names(driver._site.cloud).directory, "dhcp/net1/pid").read_text()
    before = machine.left_over()
    assert one.ping("10.77.0.12")
    assert machine.space.ping("172.24.4.105")
    pings = [
        await asyncio.create_subprocess_exec(
            *("ip", "netns", "exec", source, "busybox", "ping", "-c", "100", "-i", "0.02", "-W", "1", to),
            stdout=asyncio.subprocess.PIPE,
        )
        for source, to in ((one.name, "10.77.0.12"), (machine.space.name, "172.24.4.105"))
    ]
    with one.listening(22), machine.space.connect("172.24.4.105", 22) as link:
        while any(ping.returncode is None for ping in pings):
            await apply(driver)
            assert link.alive()
    for ping in pings:
        assert b" 0% packet loss" in (await ping.communicate())[0]
    assert machine.left_over() == before
    assert Path(Names(driver._site.cloud).directory, "dhcp/net1/pid").read_text() == pid


async def test_everything_comes_back_from_the_plans(machine: Machine, driver: BridgeNetwork, tmp_path: Path) -> None:
    """Pieces vanish, as by a reboot or by somebody's hand; the plans bring them back."""
    one, two = machine.guest("tapnet1-11", mac(11)), machine.guest("tapnet1-12", mac(12))
    await apply(driver)
    names = Names(driver._site.cloud)
    whole = machine.left_over()

    async def works() -> None:
        await apply(driver)
        assert machine.left_over() == whole
        assert one.dhcp(tmp_path)["ip"] == "10.77.0.11"
        two.dhcp(tmp_path)
        assert two.ping("10.77.0.11")
        assert machine.space.ping("172.24.4.105")
        assert not machine.space.reaches("172.24.4.105", 23)

    await works()
    machine.space("nft", "flush", "ruleset")
    assert (await driver.observed()).ports == []
    await works()
    run("ip", "netns", "delete", names.dhcp_namespace("net1"))
    await works()
    run("ip", "netns", "delete", names.router_namespace("router1"))
    assert (await driver.observed()).routers == []
    await works()
    machine.space("ip", "link", "delete", names.dhcp_link("net1"))
    await works()
    machine.space("ip", "link", "delete", names.bridge("net1"))
    assert (await driver.observed()).networks == ["public"]
    await works()
    os.kill(int(Path(names.directory, "dhcp/net1/pid").read_text()), 9)
    await works()


async def test_killed_at_any_point_the_plans_repeat(machine: Machine, driver: BridgeNetwork) -> None:
    """Carry a plan out in a process that dies at its n-th effect, for many n; then repeat it and compare."""
    net, one, _, way = full()
    site = driver._site
    await driver.ensure_network(PUBLIC)

    from cumulet.network.drivers.bridge import operations

    steps: list[tuple[Callable[[Any], object], Any]] = [
        (operations.ensure_network, operations.ForNetwork(site, net)),
        (operations.ensure_port, operations.ForPort(site, one)),
        (operations.ensure_router, operations.ForRouter(site, way)),
        (operations.drop_router, operations.Named(site, way.id)),
        (operations.drop_port, operations.Named(site, one.id)),
        (operations.drop_network, operations.Named(site, net.id)),
    ]
    crashes = 0
    for operation, params in steps:
        await _before(machine, driver, operation.__name__)
        await driver._call(operation, params)
        wanted = machine.left_over()
        died, n = True, 1
        while died:
            await _before(machine, driver, operation.__name__)
            died = _dies_at(machine, n, operation, params)
            await driver._call(operation, params)
            assert machine.left_over() == wanted, (operation.__name__, n)
            crashes += died
            n += STRIDE
    assert crashes * STRIDE > 60


async def _before(machine: Machine, driver: BridgeNetwork, step: str) -> None:
    """Bring the machine to where the step begins."""
    net, one, _, way = full()
    match step:
        case "ensure_network":
            await driver.drop_network(net.id)
        case "ensure_port":
            await driver.drop_port(one.id)
        case "ensure_router":
            await driver.drop_router(way.id)
        case "drop_router":
            await driver.ensure_router(way)
        case "drop_port":
            await driver.ensure_port(one)
        case "drop_network":
            await driver.ensure_network(net)


def _dies_at(machine: Machine, n: int, operation: Callable[[Any], object], params: object) -> bool:
    """Fork a process that carries the operation out on the machine and is killed before its n-th effect."""
    if not (pid := os.fork()):
        left = n

        def count() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), 9)

        class Counted:
            """A netlink socket whose changes are counted."""

            def __init__(self, inner: Any) -> None:
                self._inner = inner

            def __getattr__(self, name: str) -> Any:
                inner = getattr(self._inner, name)
                if name not in ("link", "addr", "route", "fdb"):
                    return inner

                def call(verb: str, **kwargs: object) -> object:
                    if verb not in ("get", "dump"):
                        count()
                    return inner(verb, **kwargs)

                return call

        status = 1
        try:
            netlink = links.netlink

            @contextmanager
            def counted_netlink() -> Iterator[Any]:
                with netlink() as ip:
                    yield Counted(ip)

            links.netlink = counted_netlink
            program = links.program

            def counted(*argv: str, **kwargs: object) -> str:
                if argv[:3] != ("nft", "-j", "list"):
                    count()
                return program(*argv, **kwargs)  # type: ignore[arg-type]

            links.program = counted
            from cumulet.network.drivers.bridge import dhcp, filters

            for module in (dhcp, filters):
                module.program = counted  # type: ignore[attr-defined]
            for method in ("mkdir", "replace", "unlink", "write_text", "write_bytes"):
                plain = getattr(Path, method)

                def write(self: Path, *args: object, _plain: object = plain, **kwargs: object) -> object:
                    count()
                    return _plain(self, *args, **kwargs)  # type: ignore[operator]

                setattr(Path, method, write)
            with links.inside(machine.space.name):
                operation(params)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, ended = os.waitpid(pid, 0)
    assert ended in (0, 9), f"status {ended} at effect {n}"
    return ended == 9
