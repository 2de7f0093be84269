# SPDX-License-Identifier: Apache-2.0
"""One suite over both buses: what services may rely on, in one process and over a real broker."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from cumulet.kernel import clock, context, trace
from cumulet.kernel.bus import Bus, Handlers, MemoryBus, Method, RabbitBus, Subscription
from cumulet.kernel.context import Context
from cumulet.kernel.errors import Conflict, Fault, Invalid, NotSupported, Unavailable
from tests.rabbit import Rabbit


class Order(msgspec.Struct):
    text: str
    count: int = 1


class Carried(msgspec.Struct):
    text: str


WORK = Method("things.conductor", "work", Order, Carried)
OTHER = Method("things.conductor", "other", Order, Carried)
WRONG = Method("things.conductor", "work", int, Carried)
BUILD = Method("things.agent", "build", Order, Carried)
ELSE = Method("others.agent", "build", Order, Carried)

Connect = Callable[[], Awaitable[Bus]]


@pytest.fixture(params=["memory", pytest.param("rabbit", marks=pytest.mark.rabbit)])
def broker(request: pytest.FixtureRequest) -> Rabbit | None:
    """The broker, or none for the bus in memory."""
    return request.getfixturevalue("rabbit") if request.param == "rabbit" else None


@pytest.fixture
async def connect(broker: Rabbit | None) -> AsyncIterator[Connect]:
    """Gives the bus of one more process of a cloud."""
    made: list[Bus] = []
    if broker is None:
        only = MemoryBus()

        async def one() -> Bus:
            made.append(only)
            return only
    else:
        rabbit = broker

        async def one() -> Bus:
            made.append(await RabbitBus.connect(rabbit.url(), password=rabbit.password))
            return made[-1]

    yield one
    for bus in made:
        await bus.close()


async def _echo(order: Order) -> Carried:
    return Carried(order.text * order.count)


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)


class Receiver:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def __call__(self, order: Order) -> Carried:
        self.texts.append(order.text)
        return Carried(order.text)


async def test_a_call_is_answered(connect: Connect) -> None:
    server, client = await connect(), await connect()
    await server.subscribe({WORK: _echo}, component="conductor")
    assert await client.call(WORK, Order("ab", 3)) == Carried("ababab")


async def test_many_calls_get_each_its_own_answer(connect: Connect) -> None:
    server, client = await connect(), await connect()

    async def slow_first(order: Order) -> Carried:
        await asyncio.sleep(0.2 if order.text == "0" else 0)
        return Carried(order.text)

    await server.subscribe({WORK: slow_first}, component="conductor")
    answers = await asyncio.gather(*(client.call(WORK, Order(str(n))) for n in range(200)))
    assert [answer.text for answer in answers] == [str(n) for n in range(200)]


async def test_a_large_message_passes(connect: Connect) -> None:
    server, client = await connect(), await connect()
    await server.subscribe({WORK: _echo}, component="conductor")
    assert len((await client.call(WORK, Order("x" * 1_000_000, 2))).text) == 2_000_000


async def test_caller_and_flow_travel_without_the_token(connect: Connect) -> None:
    server, client = await connect(), await connect()
    seen: list[tuple[Context | None, dict[str, str]]] = []

    async def look(order: Order) -> Carried:
        seen.append((context.current(), trace.baggage()))
        return Carried("")

    await server.subscribe({WORK: look}, component="conductor", host="h0")
    context.use(Context(request_id="req-1", user_id="u1", project_id="p1", roles=["member"], token="gAAAAsecret"))
    await client.call(WORK, Order(""))
    context.use(None)
    await client.call(WORK, Order(""))
    first, second = seen
    assert first[0] is not None
    assert (first[0].user_id, first[0].project_id, first[0].roles, first[0].token) == ("u1", "p1", ["member"], None)
    assert second[0] is None


async def test_a_fault_is_raised_where_the_call_was_made(connect: Connect) -> None:
    server, client = await connect(), await connect()

    async def refuse(order: Order) -> Carried:
        raise Conflict("It is busy.", kind="ThingBusy")

    await server.subscribe({WORK: refuse}, component="conductor")
    with pytest.raises(Conflict, match=r"It is busy\.") as caught:
        await client.call(WORK, Order(""))
    assert caught.value.kind == "ThingBusy"
    assert await client.poison() == []


async def test_nobody_there_is_told_at_once(connect: Connect) -> None:
    client = await connect()
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable, match="does not answer"):
            await client.call(WORK, Order(""), timeout=60)
        with pytest.raises(Unavailable, match="does not answer"):
            await client.call(BUILD, Order(""), host="h1", timeout=60)
        await client.cast(WORK, Order(""))
        await client.cast(BUILD, Order(""), host="h1")
        await client.fanout(WORK, Order(""))


async def test_an_answer_that_comes_too_late_hurts_nobody(connect: Connect) -> None:
    server, client = await connect(), await connect()
    release, ended = asyncio.Event(), asyncio.Event()

    async def slow(order: Order) -> Carried:
        if order.text == "slow":
            await release.wait()
            ended.set()
        return Carried(order.text)

    await server.subscribe({WORK: slow}, component="conductor")
    with pytest.raises(Unavailable, match=r"did not answer in 0\.2 s"):
        await client.call(WORK, Order("slow"), timeout=0.2)
    release.set()
    await ended.wait()
    assert (await client.call(WORK, Order("next"))).text == "next"


async def test_a_caller_may_give_up(connect: Connect) -> None:
    server, client = await connect(), await connect()
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(order: Order) -> Carried:
        started.set()
        await release.wait()
        return Carried(order.text)

    await server.subscribe({WORK: slow}, component="conductor")
    call = asyncio.create_task(client.call(WORK, Order("a")))
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    release.set()
    assert (await client.call(WORK, Order("b"))).text == "b"


async def test_a_message_after_its_deadline_is_not_carried_out(connect: Connect) -> None:
    server, client = await connect(), await connect()
    receiver = Receiver()
    late = contextvars.copy_context()
    late.run(clock.use, clock.FakeClock(clock.now() + 3600))
    subscribing = server.subscribe({WORK: receiver}, component="conductor")
    await asyncio.get_running_loop().create_task(_await(subscribing), context=late)
    with pytest.raises(Unavailable, match="too late"):
        await client.call(WORK, Order(""))
    assert receiver.texts == []


async def _await(subscribing: Awaitable[Subscription]) -> Subscription:
    return await subscribing


async def test_a_host_gets_what_is_addressed_to_it(connect: Connect) -> None:
    one, two, client = await connect(), await connect(), await connect()
    first, second = Receiver(), Receiver()
    await one.subscribe({BUILD: first}, component="agent", host="h1", own_host=True)
    await two.subscribe({BUILD: second}, component="agent", host="h1.example", own_host=True)
    await client.call(BUILD, Order("1"), host="h1")
    await client.call(BUILD, Order("2"), host="h1.example")
    await client.cast(BUILD, Order("3"), host="h1")
    await _until(lambda: len(first.texts) == 2)
    assert (first.texts, second.texts) == (["1", "3"], ["2"])


async def test_receivers_of_a_role_take_turns(connect: Connect) -> None:
    one, two, client = await connect(), await connect(), await connect()
    first, second = Receiver(), Receiver()
    await one.subscribe({WORK: first}, component="conductor", host="a")
    await two.subscribe({WORK: second}, component="conductor", host="b")
    for n in range(10):
        await client.call(WORK, Order(str(n)))
    assert len(first.texts) == len(second.texts) == 5
    await client.cast(WORK, Order("cast"))
    await _until(lambda: len(first.texts) + len(second.texts) == 11)


async def test_fanout_reaches_every_receiver_of_the_topic(connect: Connect) -> None:
    buses = [await connect() for _ in range(4)]
    receivers = [Receiver() for _ in range(4)]
    topics: list[tuple[Handlers, str]] = [
        ({BUILD: receivers[0]}, "h1"), ({BUILD: receivers[1]}, "h2"), ({BUILD: receivers[2]}, ""),
        ({ELSE: receivers[3]}, "h1"),
    ]  # fmt: skip
    for bus, (handlers, host) in zip(buses, topics, strict=True):
        await bus.subscribe(handlers, component="agent", host=host, own_host=bool(host))
    await buses[3].fanout(BUILD, Order("all"))
    await _until(lambda: all(one.texts for one in receivers[:3]))
    await buses[3].call(ELSE, Order("one"), host="h1")
    assert [one.texts for one in receivers] == [["all"], ["all"], ["all"], ["one"]]


async def test_a_handler_may_call_back(connect: Connect) -> None:
    server, client = await connect(), await connect()

    async def ask(order: Order) -> Carried:
        return await server.call(BUILD, order, host="h1")

    await server.subscribe({WORK: ask}, component="conductor")
    await client.subscribe({BUILD: _echo}, component="agent", host="h1", own_host=True)
    assert (await client.call(WORK, Order("x", 2))).text == "xx"


async def test_stop_finishes_what_is_in_work(connect: Connect) -> None:
    server, client = await connect(), await connect()
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(order: Order) -> Carried:
        started.set()
        await release.wait()
        return Carried(order.text)

    subscription = await server.subscribe({WORK: slow}, component="conductor")
    call = asyncio.create_task(client.call(WORK, Order("last")))
    await started.wait()
    stopping = asyncio.create_task(subscription.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    release.set()
    assert (await call).text == "last"
    await stopping
    with pytest.raises(Unavailable):
        await client.call(WORK, Order("after"), timeout=0.2)


@pytest.mark.parametrize(
    ("method", "request_", "fault", "reason"),
    [
        (WORK, Order("password=hunter2"), Unavailable, "RuntimeError: no admin_pass=*** here"),
        (WRONG, 7, Invalid, "Expected `object`, got `int`"),
        (OTHER, Order("x"), NotSupported, "No method other."),
    ],
)
async def test_a_bad_message_is_set_aside_and_the_next_is_served(
    connect: Connect, method: Method[object, Carried], request_: object, fault: type[Fault], reason: str
) -> None:
    server, client = await connect(), await connect()

    async def crash(order: Order) -> Carried:
        if "password" in order.text:
            raise RuntimeError("no admin_pass=hunter3 here")
        return Carried(order.text)

    await server.subscribe({WORK: crash}, component="conductor", host="h0")
    with pytest.raises(fault):
        await client.call(method, request_)
    await client.cast(method, request_)
    while len(found := await client.poison()) < 2:
        await asyncio.sleep(0.01)
    assert {(one.component, one.host, one.method, one.reason) for one in found} == {
        ("conductor", "h0", method.name, reason)
    }
    assert all(abs(one.at - clock.now()) < 60 and one.excerpt.startswith('{"method"') for one in found)
    assert "hunter" not in str(found)
    assert len(await server.poison(limit=1)) == 1
    assert len(await client.poison()) == 2
    assert (await client.call(WORK, Order("next"))).text == "next"


async def test_a_full_queue_in_memory_refuses_calls_and_loses_casts() -> None:
    bus = MemoryBus(length=2)
    release = asyncio.Event()
    receiver = Receiver()

    async def slow(order: Order) -> Carried:
        await release.wait()
        return await receiver(order)

    await bus.subscribe({WORK: slow}, component="conductor")
    await bus.cast(WORK, Order("1"))
    await bus.cast(WORK, Order("2"))
    await bus.cast(WORK, Order("lost"))
    with pytest.raises(Unavailable, match="full"):
        await bus.call(WORK, Order("refused"))
    release.set()
    await bus.close()
    assert receiver.texts == ["1", "2"]
