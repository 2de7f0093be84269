# SPDX-License-Identifier: Apache-2.0
"""What only a broker can do to a cloud: die, hang, be cut off, be full, hold hostile messages and hostile hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aio_pika
import msgspec
import pytest
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed

from cumulet.cli.chaos.loopback import free_ports
from cumulet.cli.chaos.relay import Relay
from cumulet.kernel import context
from cumulet.kernel.bus import Method, RabbitBus, ensure_speaks_for
from cumulet.kernel.bus.broker import Broker
from cumulet.kernel.bus.link import Session
from cumulet.kernel.bus.model import POISONS, Poison, encode
from cumulet.kernel.bus.names import user_of
from cumulet.kernel.context import Context
from cumulet.kernel.errors import Forbidden, Invalid, Unauthorized, Unavailable
from tests.rabbit import Rabbit

pytestmark = pytest.mark.rabbit

WORK = Method("things.conductor", "work", str, str)
SECRET = Method("things.scheduler", "work", str, str)
BUILD = Method("things.agent", "build", str, str)
HOSTS_CALL, HOSTS_SERVE = ["things.conductor"], ["things.agent"]


class Receiver:
    """Answers at once, or when released; keeps what it was told."""

    def __init__(self, *, slow: bool = False) -> None:
        self.texts: list[str] = []
        self.started, self.release = asyncio.Event(), asyncio.Event()
        if not slow:
            self.release.set()

    async def __call__(self, text: str) -> str:
        self.texts.append(text)
        self.started.set()
        await self.release.wait()
        return text.upper()


@asynccontextmanager
async def _bus(rabbit: Rabbit, *, port: int | None = None, length: int = 10_000) -> AsyncIterator[RabbitBus]:
    bus = await RabbitBus.connect(rabbit.url(port=port), password=rabbit.password, length=length)
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def _host_bus(rabbit: Rabbit, host: str) -> AsyncIterator[RabbitBus]:
    user = await rabbit.broker.ensure_host(host, f"pw-{host}", calls=HOSTS_CALL, serves=HOSTS_SERVE)
    bus = await RabbitBus.connect(rabbit.url(user), password=f"pw-{host}")
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def _raw(rabbit: Rabbit, user: str, password: str) -> AsyncIterator[aio_pika.abc.AbstractConnection]:
    """A connection of somebody who does not use our code."""
    connection = await aio_pika.connect(
        host="127.0.0.1", port=rabbit.node.amqp, login=user, password=password, virtualhost=rabbit.vhost
    )
    try:
        yield connection
    finally:
        await connection.close()


async def _served(bus: RabbitBus, method: Method[str, str] = WORK) -> None:
    """Call until it is answered again, as a saga does."""
    async with asyncio.timeout(60):
        while True:
            try:
                assert await bus.call(method, "again", timeout=5) == "AGAIN"
                return
            except Unavailable:
                await asyncio.sleep(0.05)


def _problem(bus: RabbitBus) -> str | None:
    return bus.problem


# ---- failures of the broker and of the network


async def test_everything_goes_on_after_the_broker_died(rabbit_alone: Rabbit) -> None:
    rabbit, receiver = rabbit_alone, Receiver(slow=True)
    async with _bus(rabbit) as server, _bus(rabbit) as client:
        await server.subscribe({WORK: receiver}, component="conductor")
        in_flight = asyncio.create_task(client.call(WORK, "first", timeout=60))
        await receiver.started.wait()
        rabbit.node.kill()
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable, match="broke"):
                await in_flight
        receiver.release.set()
        meanwhile = asyncio.create_task(client.call(WORK, "meanwhile", timeout=120))
        async with asyncio.timeout(30):
            await client.cast(WORK, "lost")
            with pytest.raises(Unavailable, match="can't be reached"):
                await client.call(WORK, "short", timeout=0.2)
        assert _problem(client) == "the message broker can't be reached"
        await asyncio.to_thread(rabbit.node.start)
        await asyncio.gather(meanwhile, return_exceptions=True)
        await _served(client)
        assert _problem(client) is None
        assert receiver.texts.count("first") == 1
        assert "lost" not in receiver.texts


async def test_a_connection_that_did_not_come_about_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the library begins to close it when it is collected, in whatever loop runs then, or in none."""
    (port,) = free_ports(1)
    tried: list[aio_pika.Connection] = []
    connect = aio_pika.Connection.connect

    async def noted(connection: aio_pika.Connection, timeout: float | None = None) -> None:
        tried.append(connection)
        await connect(connection, timeout)

    monkeypatch.setattr(aio_pika.Connection, "connect", noted)
    with pytest.raises(Unavailable):
        await RabbitBus.connect(f"amqp://nobody@127.0.0.1:{port}/nowhere", password="x", timeout=0.5)
    assert tried
    assert all(one.is_closed for one in tried)


async def test_a_connection_without_channels_is_closed(rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[aio_pika.Connection] = []

    async def refuse(session: Session) -> None:
        tried.append(session._connection)  # type: ignore[arg-type]
        raise OSError("no channel")

    monkeypatch.setattr(Session, "open", refuse)
    with pytest.raises(Unavailable):
        await RabbitBus.connect(rabbit.url(), password=rabbit.password, timeout=0.5)
    assert tried
    assert all(one.is_closed for one in tried)


async def test_a_broker_short_of_memory_takes_nothing_and_later_goes_on(rabbit_alone: Rabbit) -> None:
    receiver = Receiver()
    async with _bus(rabbit_alone) as server, _bus(rabbit_alone) as client:
        await server.subscribe({WORK: receiver}, component="conductor")
        await asyncio.to_thread(rabbit_alone.node.control, "set_vm_memory_high_watermark", "0.0000001")
        try:
            async with asyncio.timeout(30):
                with pytest.raises(Unavailable, match="did not answer"):
                    await client.call(WORK, "late", timeout=0.5)
                await client.cast(WORK, "lost")
        finally:
            await asyncio.to_thread(rabbit_alone.node.control, "set_vm_memory_high_watermark", "0.4")
        assert await client.call(WORK, "next") == "NEXT"
        assert "late" not in receiver.texts


async def test_a_bus_waits_for_a_broker_that_is_late(rabbit: Rabbit) -> None:
    proxy = Relay(("127.0.0.1", rabbit.node.amqp))
    async with proxy:
        proxy.silence()
        connecting = asyncio.create_task(RabbitBus.connect(rabbit.url(port=proxy.port), password=rabbit.password))
        await asyncio.sleep(0)
        proxy.mend()
        await (await connecting).close()
    with pytest.raises(Unavailable, match="can't be reached"):
        await RabbitBus.connect(rabbit.url(port=proxy.port), password=rabbit.password, timeout=0.3)


@pytest.mark.parametrize("whose", ["client", "server"])
async def test_a_cut_connection_fails_calls_at_once_and_carries_out_nothing_twice(rabbit: Rabbit, whose: str) -> None:
    receiver = Receiver(slow=True)
    async with Relay(("127.0.0.1", rabbit.node.amqp)) as proxy:
        ports = {whose: proxy.port}
        async with _bus(rabbit, port=ports.get("server")) as server, _bus(rabbit, port=ports.get("client")) as client:
            await server.subscribe({WORK: receiver}, component="conductor")
            call = asyncio.create_task(client.call(WORK, "first", timeout=60))
            await receiver.started.wait()
            proxy.reset()
            if whose == "client":
                async with asyncio.timeout(30):
                    with pytest.raises(Unavailable, match="broke"):
                        await call
            receiver.release.set()
            if whose == "server":
                assert await call == "FIRST"
            await _served(client)
            assert receiver.texts.count("first") == 1
            assert await client.poison() == []


async def test_a_silent_broker_is_noticed_within_seconds(rabbit: Rabbit) -> None:
    receiver = Receiver(slow=True)
    async with (
        Relay(("127.0.0.1", rabbit.node.amqp)) as proxy,
        _bus(rabbit) as server,
        _bus(rabbit, port=proxy.port) as client,
    ):
        await server.subscribe({WORK: receiver}, component="conductor")
        call = asyncio.create_task(client.call(WORK, "first", timeout=60))
        await receiver.started.wait()
        proxy.silence()
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable, match="broke"):
                await call
        proxy.mend()
        receiver.release.set()
        await _served(client)


async def test_a_message_whose_receiver_died_is_refused_and_set_aside(rabbit: Rabbit) -> None:
    doomed, heir = Receiver(slow=True), Receiver()
    async with (
        Relay(("127.0.0.1", rabbit.node.amqp)) as proxy,
        _bus(rabbit) as client,
        _bus(rabbit) as second,
        _bus(rabbit, port=proxy.port) as first,
    ):
        await first.subscribe({WORK: doomed}, component="conductor", host="a")
        call = asyncio.create_task(client.call(WORK, "deadly", timeout=60))
        await doomed.started.wait()
        await second.subscribe({WORK: heir}, component="conductor", host="b")
        await proxy.close()  # for good: that process is gone
        async with asyncio.timeout(30):
            with pytest.raises(Unavailable, match="went away"):
                await call
        (poison,) = await client.poison()
        assert (poison.host, poison.method, heir.texts) == ("b", "work", [])
        doomed.release.set()
        assert await client.call(WORK, "next") == "NEXT"


async def test_a_deleted_queue_comes_back(rabbit: Rabbit) -> None:
    receiver = Receiver()
    async with _bus(rabbit) as server, _bus(rabbit) as client:
        await server.subscribe({WORK: receiver}, component="conductor")
        async with _raw(rabbit, rabbit.user, rabbit.password) as connection:
            channel = await connection.channel()
            await channel.queue_delete("cumulet/role/things.conductor")
        await _served(client)


# ---- limits


async def test_a_full_queue_refuses_calls_and_loses_casts(rabbit: Rabbit) -> None:
    receiver = Receiver()
    async with _bus(rabbit, length=3) as server, _bus(rabbit, length=3) as client:
        subscription = await server.subscribe({WORK: receiver}, component="conductor")
        await subscription.stop()
        for text in ("1", "2", "3", "lost"):
            await client.cast(WORK, text)
        with pytest.raises(Unavailable, match="full"):
            await client.call(WORK, "refused", timeout=60)
        await server.subscribe({WORK: receiver}, component="conductor")
        assert await client.call(WORK, "served") == "SERVED"
        assert receiver.texts == ["1", "2", "3", "served"]


async def test_a_message_whose_time_ends_in_the_queue_is_not_carried_out(rabbit: Rabbit) -> None:
    receiver = Receiver()
    async with _bus(rabbit) as server, _bus(rabbit) as client:
        subscription = await server.subscribe({WORK: receiver}, component="conductor")
        await subscription.stop()
        with pytest.raises(Unavailable, match="did not answer"):
            await client.call(WORK, "late", timeout=0.3)
        await server.subscribe({WORK: receiver}, component="conductor")
        assert await client.call(WORK, "on time") == "ON TIME"
        assert receiver.texts == ["on time"]


async def test_another_length_of_the_same_queue_is_a_conflict(rabbit: Rabbit) -> None:
    async with _bus(rabbit) as one, _bus(rabbit, length=5) as two:
        await one.subscribe({WORK: Receiver()}, component="conductor")
        with pytest.raises(Exception, match="already"):
            await two.subscribe({WORK: Receiver()}, component="conductor")
        await two.subscribe({BUILD: Receiver()}, component="agent", host="h1", own_host=True)
        assert await one.call(BUILD, "x", host="h1") == "X"


# ---- hostile and broken messages


async def _send(channel: AbstractChannel, body: bytes, *, number: str = "n1", user: str | None, to: str = "") -> None:
    exchange = await channel.get_exchange("cumulet/role", ensure=False)
    message = aio_pika.Message(body, message_id=number, user_id=user, reply_to=to or None)
    await exchange.publish(message, "things.conductor")


async def test_unreadable_and_unsigned_messages_are_set_aside(rabbit: Rabbit) -> None:
    receiver = Receiver()
    async with _bus(rabbit) as server, _raw(rabbit, rabbit.user, rabbit.password) as connection:
        await server.subscribe({WORK: receiver}, component="conductor", host="h0")
        channel = await connection.channel()
        await _send(channel, b"\xff\x00 password: hunter2", user=rabbit.user)
        await _send(channel, encode(WORK, "unsigned", 60.0), number="n2", user=None)
        assert await server.call(WORK, "good") == "GOOD"
        while len(found := await server.poison()) < 2:
            await asyncio.sleep(0.01)
        reasons = {one.sender: one.reason for one in found}
        assert reasons[rabbit.user].startswith("unreadable")
        assert reasons[""] == "its sender is not known to the broker"
        assert "hunter2" not in str(found)
        assert receiver.texts == ["good"]


async def test_only_the_newest_bad_messages_are_kept(rabbit: Rabbit) -> None:
    async with _bus(rabbit) as bus, _raw(rabbit, rabbit.user, rabbit.password) as connection:
        channel = await connection.channel(publisher_confirms=False)
        exchange = await channel.get_exchange("cumulet/poison", ensure=False)
        for n in range(POISONS + 5):
            body = msgspec.json.encode(Poison(float(n), "c", "h", "u", "m", "r", "e")) if n < POISONS else b"nonsense"
            await exchange.publish(aio_pika.Message(body), "")
        while (found := await bus.poison(POISONS + 5))[-1].reason != "not a report" or len(found) < POISONS:
            await asyncio.sleep(0.01)
        assert (len(found), found[0].at) == (POISONS, 5.0)


# ---- hostile hosts


async def test_a_host_works_with_its_rights(rabbit: Rabbit) -> None:
    conductor, agent = Receiver(), Receiver()
    async with _bus(rabbit) as server, _host_bus(rabbit, "h1.example") as host:
        await server.subscribe({WORK: conductor}, component="conductor")
        await host.subscribe({BUILD: agent}, component="agent", host="h1.example", own_host=True)
        assert await host.call(WORK, "ask") == "ASK"
        assert await server.call(BUILD, "order", host="h1.example") == "ORDER"
        await server.fanout(BUILD, "all")
        await host.cast(WORK, "told")
        async with asyncio.timeout(30):
            while agent.texts != ["order", "all"] or conductor.texts != ["ask", "told"]:
                await asyncio.sleep(0.01)


async def test_a_host_can_neither_serve_nor_address_nor_ask_for_others(rabbit: Rabbit) -> None:
    async with _bus(rabbit) as server, _host_bus(rabbit, "h1") as host, _host_bus(rabbit, "h2") as victim:
        await server.subscribe({WORK: Receiver()}, component="conductor")
        await server.subscribe({SECRET: Receiver()}, component="scheduler")
        await victim.subscribe({BUILD: Receiver()}, component="agent", host="h2", own_host=True)
        with pytest.raises(Forbidden):
            await host.subscribe({BUILD: Receiver()}, component="agent", host="h2", own_host=True)
        with pytest.raises(Forbidden):
            await host.subscribe({WORK: Receiver()}, component="conductor", host="h1")
        with pytest.raises(Forbidden):
            await host.call(BUILD, "x", host="h2")
        with pytest.raises(Forbidden):
            await host.call(SECRET, "x")
        with pytest.raises(Forbidden):
            await host.fanout(BUILD, "x")
        with pytest.raises(Forbidden):
            await host.poison()
        assert await host.call(WORK, "still here") == "STILL HERE"
        assert await server.call(BUILD, "x", host="h2") == "X"


@pytest.mark.parametrize(
    "what",
    ["consume other", "get other", "declare other", "delete other", "purge other", "declare exchange",
     "bind other's keys", "bind to hosts", "bind role", "publish default", "read answers"],
)  # fmt: skip
async def test_the_broker_refuses_what_a_host_must_not_do(rabbit: Rabbit, what: str) -> None:
    async with _host_bus(rabbit, "h1"), _host_bus(rabbit, "h2") as victim, _bus(rabbit) as server:
        await victim.subscribe({BUILD: Receiver()}, component="agent", host="h2", own_host=True)
        await server.subscribe({WORK: Receiver()}, component="conductor")
        async with _raw(rabbit, user_of("h1", rabbit.vhost), "pw-h1") as connection:
            channel = await connection.channel()
            own = await channel.declare_queue("cumulet/host/h1/mine", auto_delete=True, durable=True)
            other = await channel.get_queue("cumulet/host/h2/things.agent", ensure=False)

            async def ignore(message: aio_pika.abc.AbstractIncomingMessage) -> None: ...

            async def consume() -> None:
                await other.consume(ignore)

            async def publish() -> None:
                await channel.default_exchange.publish(aio_pika.Message(b"x"), "cumulet/host/h2/things.agent")

            attempts: dict[str, Callable[[], Awaitable[object]]] = {
                "consume other": consume,
                "get other": lambda: other.get(fail=False),
                "declare other": lambda: channel.declare_queue("cumulet/host/h1x/mine", durable=True),
                "delete other": lambda: channel.queue_delete("cumulet/host/h2/things.agent"),
                "purge other": other.purge,
                "declare exchange": lambda: channel.declare_exchange("cumulet/mine"),
                "bind other's keys": lambda: own.bind("cumulet/all", "#"),
                "bind to hosts": lambda: own.bind("cumulet/answers", "cumulet/own/answers/x"),
                "bind role": lambda: own.bind("cumulet/role", "things.conductor"),
                "publish default": publish,
                "read answers": lambda: own.bind("cumulet/answers", "#"),
            }
            with pytest.raises(ChannelAccessRefused):
                await attempts[what]()


async def test_a_host_can_forge_neither_its_name_nor_where_answers_go(rabbit: Rabbit) -> None:
    receiver, victim = Receiver(), Receiver()
    async with _bus(rabbit) as server, _host_bus(rabbit, "h1"), _host_bus(rabbit, "h2") as other:
        await server.subscribe({WORK: receiver}, component="conductor")
        await other.subscribe({BUILD: victim}, component="agent", host="h2", own_host=True)
        async with _raw(rabbit, user_of("h1", rabbit.vhost), "pw-h1") as connection:
            channel = await connection.channel()
            order = encode(BUILD, "steal", 60.0)
            for queue in ("cumulet/host/h2/things.agent", "cumulet/role/things.conductor", "cumulet/own/answers/x"):
                await _send(channel, order, number=queue, user=user_of("h1", rabbit.vhost), to=queue)
            while len(found := await server.poison()) < 3:
                await asyncio.sleep(0.01)
            assert {one.reason for one in found} == {"it wants its answer in somebody else's queue"}
            with pytest.raises(ChannelPreconditionFailed):
                await _send(channel, encode(WORK, "forged", 60.0), user=user_of("h2", rabbit.vhost))
        assert (receiver.texts, victim.texts) == ([], [])


class Report(msgspec.Struct):
    host: str


REPORT = Method("things.conductor", "report", Report, list[str])


async def test_a_host_speaks_only_for_itself_and_lends_no_roles(rabbit: Rabbit) -> None:
    async def report(told: Report) -> list[str]:
        caller = context.current()
        return caller.roles if caller is not None else []

    async def look(text: str) -> str:
        ensure_speaks_for(text)
        return "seen"

    context.use(Context(request_id="req-1", user_id="u1", roles=["admin"], system=True))
    async with _bus(rabbit) as server, _host_bus(rabbit, "h1") as host:
        await server.subscribe({REPORT: report, WORK: look}, component="conductor")
        assert await host.call(REPORT, Report("h1")) == []
        assert await host.call(REPORT, Report("h1@disks")) == []
        assert await server.call(REPORT, Report("h1")) == ["admin"]
        assert await host.call(WORK, "h1") == await server.call(WORK, "h2") == "seen"
        for told in (Report("h2"), Report("h2@disks")):
            with pytest.raises(Forbidden, match="Host h1 can't speak for host h2"):
                await host.call(REPORT, told)
        with pytest.raises(Forbidden, match="Host h1 can't speak for host h2"):
            await host.call(WORK, "h2")


async def test_a_dropped_host_is_out(rabbit: Rabbit) -> None:
    async with _bus(rabbit) as server, _host_bus(rabbit, "h1") as host:
        await server.subscribe({WORK: Receiver()}, component="conductor")
        assert await host.call(WORK, "in") == "IN"
        await rabbit.broker.drop_host("h1")
        await rabbit.broker.drop_host("h1")
        async with asyncio.timeout(20):
            while True:
                try:
                    await host.call(WORK, "x", timeout=0.5)
                except Unavailable as error:
                    if "can't be reached" in error.message:
                        break
        with pytest.raises(Unauthorized):
            await RabbitBus.connect(rabbit.url(user_of("h1", rabbit.vhost)), password="pw-h1")


# ---- passwords, TLS, names


async def test_a_wrong_password_is_told_at_once_and_no_password_is_shown(
    rabbit: Rabbit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Unauthorized) as refused:
        await RabbitBus.connect(rabbit.url(), password="hunter2")
    async with (
        _bus(rabbit) as bus,
        Relay(("127.0.0.1", rabbit.node.amqp)) as proxy,
        _bus(rabbit, port=proxy.port) as other,
    ):
        await bus.subscribe({WORK: Receiver()}, component="conductor")
        proxy.reset()
        await _served(other)
        shown = f"{bus!r} {vars(bus)!r} {vars(bus._link)!r} {refused.value!r} {caplog.text}"
    assert "hunter2" not in shown
    assert rabbit.password not in shown
    assert "broker" in caplog.text


async def test_tls_with_the_operators_ca(rabbit: Rabbit) -> None:
    bus = await RabbitBus.connect(rabbit.tls_url(), password=rabbit.password)
    await bus.subscribe({WORK: Receiver()}, component="conductor")
    assert await bus.call(WORK, "x") == "X"
    await bus.close()
    with pytest.raises(Unavailable, match="can't be reached"):
        await RabbitBus.connect(rabbit.tls_url().partition("?")[0], password=rabbit.password, timeout=2)
    with pytest.raises(Invalid, match="CA file"):
        await RabbitBus.connect(rabbit.tls_url() + ".gone", password=rabbit.password)


async def test_users_need_an_administrator(rabbit: Rabbit) -> None:
    stranger = Broker(f"http://{rabbit.user}@127.0.0.1:{rabbit.node.management}", rabbit.vhost, password="wrong")
    with pytest.raises(Unavailable, match="401"):
        await stranger.ensure_host("h1", "x", calls=[], serves=[])
    for name in ("", "a/b", "a#b", "h1\n", "*"):
        with pytest.raises(Invalid):
            await rabbit.broker.ensure_host(name, "x", calls=[], serves=[])
