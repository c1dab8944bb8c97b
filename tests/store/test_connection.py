import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ratelimitd.errors import StoreReplyLost, StoreUnavailable
from ratelimitd.store.address import AddressOptions, parse_address
from ratelimitd.store.breaker import FAILURES_TO_OPEN
from ratelimitd.store.connection import MAX_CONNECTIONS, NodeClient
from ratelimitd.store.dial import dial
from ratelimitd.store.exchange import Call, Command, read, write
from ratelimitd.store.scripts import Scripts
from ratelimitd.store.single import SingleStore
from tests.store.conftest import MakeClient
from tests.store.plans import make_key, one
from tests.support.odd_store import HANG_UP, LOADING, odd_store
from tests.support.servers import Cluster, MakeServer, Server, free_port
from tests.support.stores import check


async def test_caller_in_a_hurry_leaves_and_the_replies_stay_in_order(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    client = make_client(store_server.url)
    await client.run("PING", timeout_s=5)
    # when
    with store_server.paused():
        started = time.monotonic()
        with pytest.raises(StoreReplyLost, match="no answer in time"):
            await client.run("ECHO", "late", timeout_s=0.05)
        waited_s = time.monotonic() - started
    answers = [await client.run("ECHO", f"{number}", timeout_s=5) for number in range(20)]
    # then
    assert answers == [f"{number}".encode() for number in range(20)]
    assert waited_s < 1


async def test_cancelled_caller_does_not_mix_up_replies(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    client = make_client(store_server.url)
    await client.run("PING", timeout_s=5)
    # when
    with store_server.paused():
        call = asyncio.create_task(client.run("ECHO", "late", timeout_s=5))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    answers = [await client.run("ECHO", f"{number}", timeout_s=5) for number in range(20)]
    # then
    assert answers == [f"{number}".encode() for number in range(20)]


async def test_silent_store_is_given_up_after_the_store_timeout(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    client = make_client(store_server.url, store_timeout_s=0.1)
    await client.run("PING", timeout_s=5)
    # when
    with store_server.paused(), pytest.raises(StoreReplyLost, match="no answer within 100 ms"):
        await client.run("PING", timeout_s=5)
    # then
    assert await client.run("PING", timeout_s=5) == b"PONG"


async def test_lost_reply_is_never_sent_again(
    make_server: MakeServer, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    server = make_server("valkey9")
    client = make_client(server.url)
    store = SingleStore(client, scripts)
    await check(store, [one("a")], timeout_s=5)
    # when
    with server.paused():
        call = asyncio.create_task(check(store, [one("a")], timeout_s=0.05))
        with pytest.raises(StoreReplyLost):
            await call
    await client.run("PING", timeout_s=5)
    (reply,) = await check(store, [one("a")], timeout_s=5)
    # then
    assert reply.results[0].used_before == 2


async def test_store_killed_in_flight_is_a_lost_reply(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # given
    server = make_server("redis7")
    client = make_client(server.url)
    await client.run("PING", timeout_s=5)
    # when
    with server.paused():
        call = asyncio.create_task(client.run("PING", timeout_s=5))
        await _until(lambda: client.is_busy)
        server.kill()
    with pytest.raises(StoreReplyLost, match="the connection broke"):
        await call


async def test_idle_connection_of_a_restarted_store_is_replaced_unnoticed(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # given
    server = make_server("redis7")
    client = make_client(server.url)
    await client.run("PING", timeout_s=5)
    # when
    server.kill()
    server.start()
    answer = await client.run("PING", timeout_s=5)
    # then
    assert answer == b"PONG"


async def test_store_that_is_not_there_was_sent_nothing(make_client: MakeClient) -> None:
    # given
    client = make_client(f"redis://127.0.0.1:{free_port()}")
    # when / then
    with pytest.raises(StoreUnavailable, match="cannot connect: Connection refused"):
        await client.run("PING", timeout_s=5)


async def test_caller_without_time_has_nothing_sent(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # given
    server = make_server("redis7", password="pw")
    client = make_client(f"unix://:pw@{server.unix_path}")
    # when: the dial hangs in its handshake, so nothing of the call is written
    with server.paused(), pytest.raises(StoreUnavailable, match="no connection in time"):
        await client.run("SET", "k", "v", timeout_s=0.05)
    await client.run("PING", timeout_s=5)
    kept = await client.run("GET", "k", timeout_s=5)
    # then
    assert kept is None


async def test_breaker_opens_answers_at_once_and_closes_within_a_second(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # given
    told: list[bool] = []
    server = make_server("valkey9")
    client = make_client(server.url, on_breaker=lambda is_open, _: told.append(is_open))
    await client.run("PING", timeout_s=5)
    # when
    server.kill()
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(StoreUnavailable, match="cannot connect"):
            await client.run("PING", timeout_s=5)
    was_open = client.breaker.is_open
    with pytest.raises(StoreUnavailable, match="not asked again until it answers a probe"):
        await client.run("PING", timeout_s=5)
    server.start()
    returned = time.monotonic()
    await _until(lambda: not client.breaker.is_open)
    recovery_s = time.monotonic() - returned
    answer = await client.run("PING", timeout_s=5)
    # then
    assert was_open
    assert recovery_s < 1
    assert answer == b"PONG"
    assert told == [True, False]


async def test_breaker_opens_on_a_silent_store_and_closes_when_it_goes_on(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # given
    server = make_server("redis7")
    client = make_client(server.url, store_timeout_s=0.05)
    await client.run("PING", timeout_s=5)
    # when
    with server.paused():
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises((StoreUnavailable, StoreReplyLost)):
                await client.run("PING", timeout_s=5)
        was_open = client.breaker.is_open
    await _until(lambda: not client.breaker.is_open)
    answer = await client.run("PING", timeout_s=5)
    # then
    assert was_open
    assert answer == b"PONG"


async def test_breaker_stays_open_while_kept_connections_are_silent(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # given
    told: list[bool] = []
    server = make_server("redis7")
    client = make_client(
        server.url, store_timeout_s=0.1, on_breaker=lambda is_open, _: told.append(is_open)
    )
    with server.paused():
        calls = [
            asyncio.create_task(client.run("PING", timeout_s=5)) for _ in range(MAX_CONNECTIONS)
        ]
        await asyncio.sleep(0)
    await asyncio.gather(*calls)
    # when
    with server.paused():
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises((StoreUnavailable, StoreReplyLost)):
                await client.run("PING", timeout_s=5)
        # The probes say why they failed: a new connection, and nobody there.
        await _until(lambda: "no connection within 500 ms" in _refusal(client))
        told_while_silent = list(told)
    await _until(lambda: not client.breaker.is_open)
    # then
    assert told_while_silent == [True]
    assert told == [True, False]


async def test_caller_deadlines_alone_do_not_open_the_breaker(
    store_server: Server, make_client: MakeClient
) -> None:
    # given
    told: list[bool] = []
    client = make_client(store_server.url, on_breaker=lambda is_open, _: told.append(is_open))
    await client.run("PING", timeout_s=5)
    # when
    with store_server.paused():
        for _ in range(2 * FAILURES_TO_OPEN):
            with pytest.raises((StoreReplyLost, StoreUnavailable)):
                await client.run("PING", timeout_s=0.01)
    # then
    assert await client.run("PING", timeout_s=5) == b"PONG"
    assert told == []


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("unix://:wrong-secret@{path}", "refused our user or password"),
        ("unix://nobody:wrong-secret@{path}", "refused our user or password"),
        ("unix://{path}", "wants a password"),
        ("unix://:right@{path}?db=99", "no such database"),
    ],
)
async def test_refused_handshake_says_what_to_do(
    make_server: MakeServer, make_client: MakeClient, url: str, text: str
) -> None:
    # given
    server = make_server("redis7", password="right")
    client = make_client(url.format(path=server.unix_path))
    # when
    with pytest.raises(StoreUnavailable, match=text) as caught:
        await client.run("PING", timeout_s=5)
    # then
    assert "secret" not in str(caught.value)


async def test_password_file_is_read_on_each_dial(
    tmp_path: Path, make_server: MakeServer, make_client: MakeClient
) -> None:
    # given
    password_file = tmp_path / "password"
    password_file.write_text("first\n")
    server = make_server("redis7", password="first")
    client = make_client(server.url, AddressOptions(password_file=password_file))
    await client.run("PING", timeout_s=5)
    # when
    server.execute("CONFIG", "SET", "requirepass", "second")
    server.password = "second"
    server.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    password_file.write_text("second\n")
    await asyncio.sleep(0.01)
    answer = await client.run("PING", timeout_s=5)
    # then
    assert answer == b"PONG"


async def test_missing_password_file_is_said_and_tried_again(
    redis7: Server, tmp_path: Path, make_client: MakeClient
) -> None:
    # given
    client = make_client(redis7.url, AddressOptions(password_file=tmp_path / "gone"))
    # when / then
    with pytest.raises(StoreUnavailable, match="gone: No such file"):
        await client.run("PING", timeout_s=5)


async def test_cluster_behind_a_single_url_says_so(
    cluster: Cluster, make_client: MakeClient
) -> None:
    # given: a key of slot 12182, which is the last node's
    client = make_client(cluster.nodes[0].tcp_url)
    # when / then
    with pytest.raises(StoreUnavailable, match=r"it is a Cluster: use redis\+cluster://"):
        await client.run("GET", "foo", timeout_s=5)


@pytest.mark.parametrize("kind", ["valkey9", "redis7", "redis62"])
async def test_replica_behind_the_url_says_so(
    make_server: MakeServer, make_client: MakeClient, scripts: Scripts, kind: str
) -> None:
    # given
    options = ["--replicaof", "127.0.0.1", str(free_port())]
    server = make_server(kind, options=options)
    store = SingleStore(make_client(server.url), scripts)
    # when
    with pytest.raises(StoreUnavailable, match="read-only replica"):
        await check(store, [one("a")], timeout_s=5)


@pytest.mark.parametrize("kind", ["valkey9", "redis7", "redis62"])
async def test_store_without_memory_spends_nothing_and_says_so(
    make_server: MakeServer, make_client: MakeClient, scripts: Scripts, kind: str
) -> None:
    # given
    server = make_server(kind)
    store = SingleStore(make_client(server.url), scripts)
    await check(store, [one("a")], timeout_s=5)
    server.execute("CONFIG", "SET", "maxmemory", "1")
    # when
    with pytest.raises(StoreUnavailable, match="out of memory"):
        await check(store, [one("b")], timeout_s=5)
    # then
    kept = server.execute("EXISTS", make_key("b"))
    assert kept == 0


# Redis 6.2 reads 2 MB between two looks at its clients: too much data for a test.
@pytest.mark.parametrize("kind", ["redis7", "valkey9"])
async def test_loading_store_is_waited_for(
    make_server: MakeServer, make_client: MakeClient, kind: str
) -> None:
    # given
    server = make_server(kind, options=["--loading-process-events-interval-bytes", "1024"])
    client = server.client()
    client.mset({f"key{number}": b"x" * 50 for number in range(1000)})
    client.save()
    server.kill()
    server.options = (*server.options, "--key-load-delay", "1000")
    server.start(awaits_data=False)
    patient = make_client(server.url, store_timeout_s=20)
    # when
    with pytest.raises(redis.BusyLoadingError):
        server.client(retry=Retry(NoBackoff(), 0)).get("key1")
    answer = await patient.run("GET", "key1", timeout_s=20)
    # then
    assert answer == b"x" * 50


async def test_connection_that_breaks_after_a_store_was_loading_is_a_lost_reply(
    make_client: MakeClient, scripts: Scripts
) -> None:
    # given a store that ran nothing at first, and then nobody knows what
    async with odd_store(LOADING, HANG_UP) as server:
        store = SingleStore(make_client(f"redis://{server.address}"), scripts)
        # when
        with pytest.raises(StoreReplyLost, match="the connection broke"):
            await check(store, [one("a")], timeout_s=5)
        # then
        assert server.scripts == 2


async def test_connection_that_had_ended_before_was_sent_nothing() -> None:
    # given a connection that ends after it was dialled
    async with odd_store(LOADING) as server:
        address = parse_address(f"redis://{server.address}")
        link = await dial(address, address.endpoints[0])
        link.hang_up()
        call = Call([Command(("PING",))])

        def done(replies: list[object], error: BaseException | None) -> None:
            read(call, address.endpoints[0], replies, error)

        # when
        link.ask(write(call), 1, done)
        # then
        assert isinstance(call.answers[0], StoreUnavailable)
        assert not call.is_written


async def test_error_of_a_command_keeps_its_code_and_hides_its_arguments(
    redis7: Server, make_client: MakeClient
) -> None:
    # given
    client = make_client(redis7.url)
    # when
    with pytest.raises(StoreReplyLost, match="failed there with ERR") as caught:
        await client.run("NOSUCHCOMMAND", "a-secret-value", timeout_s=5)
    # then
    assert "secret" not in str(caught.value)


async def test_store_with_too_many_clients_says_so(
    make_server: MakeServer, make_client: MakeClient
) -> None:
    # given
    server = make_server("redis7", options=["--maxclients", "2"])
    holding = [make_client(server.url) for _ in range(2)]
    for client in holding:
        await client.run("PING", timeout_s=5)
    # when / then: the server may have hung up before it read anything
    with pytest.raises(StoreUnavailable, match=r"too many clients|cannot connect|was closed"):
        await make_client(server.url).run("PING", timeout_s=5)


async def test_port_of_something_else_is_said(make_client: MakeClient) -> None:
    # given a server that speaks HTTP to whatever it is sent
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = make_client(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    # when / then
    with pytest.raises(StoreUnavailable, match="no Redis or Valkey; check host and port"):
        await client.run("PING", timeout_s=5)
    server.close()
    await server.wait_closed()


async def test_closed_client_refuses(redis7: Server, make_client: MakeClient) -> None:
    # given
    client = make_client(redis7.url)
    await client.run("PING", timeout_s=5)
    # when
    await client.close()
    # then
    with pytest.raises(StoreUnavailable, match="shutting down"):
        await client.run("PING", timeout_s=5)


def _refusal(client: NodeClient) -> str:
    try:
        client.breaker.check()
    except StoreUnavailable as error:
        return str(error)
    return ""


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what we wait for happens in another process
            await asyncio.sleep(0.005)
