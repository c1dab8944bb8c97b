import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from ratelimitd.errors import StoreUnavailable
from ratelimitd.store import subscription as module
from ratelimitd.store.address import Endpoint, parse_address
from ratelimitd.store.subscription import Subscription
from tests.support.servers import MakeServer, Server

CHANNEL = b"rl:1:{10}@changed"
T = 10.0


@dataclass
class Heard:
    """How often there was a message or a subscription; `more` says that there was one more."""

    messages: int = 0
    subscriptions: int = 0
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def on_message(self) -> None:
        self.messages += 1
        self.more.set()

    def on_connected(self) -> None:
        self.subscriptions += 1
        self.more.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(T):
            while not condition():
                await self.more.wait()
                self.more.clear()


@asynccontextmanager
async def hearing(
    url: str, locate: Callable[[], Awaitable[Endpoint]] | None = None
) -> AsyncIterator[Heard]:
    address = parse_address(url)
    heard = Heard()

    async def at_home() -> Endpoint:
        return address.endpoints[0]

    subscription = Subscription(
        address,
        CHANNEL,
        locate=locate or at_home,
        on_message=heard.on_message,
        on_connected=heard.on_connected,
    )
    task = asyncio.create_task(subscription.run())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "LAST_PAUSE_S", 0.05)


async def test_every_message_is_heard_also_many_at_once(store_server: Server) -> None:
    async with hearing(store_server.url) as heard:
        await heard.until(lambda: heard.subscriptions == 1)
        # when
        pipe = store_server.client().pipeline(transaction=False)
        for _ in range(100):
            pipe.publish(CHANNEL, "1")
        pipe.publish(b"other", "1")
        pipe.execute()
        # then
        await heard.until(lambda: heard.messages == 100)
    assert heard.subscriptions == 1


async def test_connection_that_is_idle_stays(
    valkey9: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given pings one after the other
    monkeypatch.setattr(module, "PING_INTERVAL_S", 0.02)
    valkey9.execute("CONFIG", "RESETSTAT")
    async with hearing(valkey9.url) as heard:
        await heard.until(lambda: heard.subscriptions == 1)
        # when
        async with asyncio.timeout(T):
            while _pings(valkey9) < 6:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0)
        # then the same subscription hears
        valkey9.execute("PUBLISH", CHANNEL, "1")
        await heard.until(lambda: heard.messages == 1)
    assert heard.subscriptions == 1


async def test_server_that_falls_silent_is_dialled_again(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    server = make_server("valkey9")
    monkeypatch.setattr(module, "PING_INTERVAL_S", 0.05)
    located = 0
    address = parse_address(server.url)
    again = asyncio.Event()

    async def locate() -> Endpoint:
        nonlocal located
        located += 1
        if located > 1:
            again.set()
        return address.endpoints[0]

    async with hearing(server.url, locate) as heard:
        await heard.until(lambda: heard.subscriptions == 1)
        # when
        with server.paused():
            async with asyncio.timeout(T):
                await again.wait()
        # then
        await heard.until(lambda: heard.subscriptions == 2)


async def test_server_that_was_started_again_is_heard(make_server: MakeServer) -> None:
    # given
    server = make_server("valkey9")
    async with hearing(server.url) as heard:
        await heard.until(lambda: heard.subscriptions == 1)
        # when
        server.kill()
        server.start()
        # then
        await heard.until(lambda: heard.subscriptions == 2)
        server.execute("PUBLISH", CHANNEL, "1")
        await heard.until(lambda: heard.messages == 1)


async def test_subscription_that_worked_is_made_again_soon(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given pauses that would double for a minute
    monkeypatch.setattr(module, "LAST_PAUSE_S", 60.0)
    server = make_server("valkey9")
    async with hearing(server.url) as heard:
        for number in range(1, 13):
            await heard.until(lambda number=number: heard.subscriptions == number)  # type: ignore[misc]
            # when
            server.execute("CLIENT", "KILL", "TYPE", "pubsub")
    # then
    assert heard.subscriptions == 12


async def test_refusal_is_logged_once_and_asked_again(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    # given a user who may not hear
    server = make_server("valkey9")
    may = ("on", ">pw", "~rl:1:*", "resetchannels", "+ping", "+subscribe")
    server.execute("ACL", "SETUSER", "deaf", "reset", *may)
    tries = 0
    address = parse_address(f"unix://deaf:pw@{server.unix_path}")
    enough = asyncio.Event()

    async def locate() -> Endpoint:
        nonlocal tries
        tries += 1
        if tries == 3:
            enough.set()
        return address.endpoints[0]

    with caplog.at_level(logging.WARNING):
        async with hearing(f"unix://deaf:pw@{server.unix_path}", locate) as heard:
            async with asyncio.timeout(T):
                await enough.wait()
            # then
            (record,) = caplog.records
            assert "found by polls alone" in record.getMessage()
            assert "our user may not do this" in record.getMessage()
            # when it may
            server.execute("ACL", "SETUSER", "deaf", "&rl:1:*")
            await heard.until(lambda: heard.subscriptions == 1)


async def test_nobody_knows_where_is_tried_again(valkey9: Server) -> None:
    # given
    tries = 0

    async def locate() -> Endpoint:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreUnavailable("no node has slot 1")
        if tries == 2:
            raise ZeroDivisionError
        return parse_address(valkey9.url).endpoints[0]

    async with hearing(valkey9.url, locate) as heard:
        await heard.until(lambda: heard.subscriptions == 1)
    assert tries == 3


def _pings(server: Server) -> int:
    stats = server.client().info("commandstats")
    return int(stats.get("cmdstat_ping", {}).get("calls", 0))
