"""The shell on real sockets: uvloop, grpcio's client, TLS, and the passing of ticks."""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest

from ratelimitd.defects import LINES_PER_SECOND, DefectLog
from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.connection import Call
from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.link import CLOSE_S, Link, Timeouts
from ratelimitd.transport.h2.server import CHECKS_PER_TURN, Server
from tests.support.certificates import Authority, make_authority
from tests.transport.h2 import peer
from tests.transport.h2.peer import METHODS, call

_HELLO = frames.PREFACE + frames.settings({})


def _echo(link: Link, calls: list[Call]) -> None:
    for stream_id, _, body in calls:
        link.answer_all([(stream_id, body)])


class _Pending:
    """A service that answers when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Link, Call]] = []
        self.reads: list[int] = []
        self.arrived = asyncio.Event()

    def __call__(self, link: Link, calls: list[Call]) -> None:
        self.calls.extend((link, each) for each in calls)
        self.reads.append(len(calls))
        self.arrived.set()

    def answer_all(self) -> None:
        for link, (stream_id, _, body) in self.calls:
            link.answer_all([(stream_id, body)])
        self.calls.clear()


Start = Callable[..., Awaitable[tuple[Server, int]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    servers: list[Server] = []

    async def start_one(
        on_calls: Callable[[Link, list[Call]], None] = _echo,
        *,
        bounds: Bounds | None = None,
        timeouts: Timeouts | None = None,
        max_connections: int = 100,
        tls: ssl.SSLContext | None = None,
    ) -> tuple[Server, int]:
        server = Server(
            METHODS, on_calls, bounds=bounds, timeouts=timeouts, max_connections=max_connections
        )
        servers.append(server)
        # Time passes when the test says so.
        server._timer.cancel()  # noqa: SLF001
        listener = socket.create_server(("127.0.0.1", 0))
        await server.listen(listener, tls)
        return server, int(listener.getsockname()[1])

    yield start_one
    for server in servers:
        await server.stop(0)


def _method(
    channel: grpc.aio.Channel, path: str = "/test.Service/Method"
) -> "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]":
    return channel.unary_unary(path)


async def _open(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 5)


async def _read_until(reader: asyncio.StreamReader, kind: int) -> bytes:
    """Return whole frames up to the first of `kind`."""
    output = b""
    while True:
        head = await asyncio.wait_for(reader.readexactly(9), 5)
        output += head + await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == kind:
            return output


async def _end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Return what comes until the server closes."""
    try:
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def _pass_ticks(server: Server, ticks: int) -> None:
    for _ in range(ticks):
        server._on_tick()  # noqa: SLF001
        server._timer.cancel()  # noqa: SLF001


async def _settle(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_grpcio_client_is_answered(start: Start) -> None:
    _, port = await start()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = _method(channel)
        bodies = [bytes([i]) * (i * 1000) for i in range(120)]
        answers = await asyncio.gather(*(method(body, timeout=10) for body in bodies))
        assert answers == bodies
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await _method(channel, "/no/such")(b"", timeout=5)

    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert error.value.details() == "Method not found!"


async def test_adopted_connections_over_unix_sockets_are_served(
    start: Start, tmp_path: Path
) -> None:
    # Given a listener of somebody else
    server, _ = await start()
    path = tmp_path / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        connecting = asyncio.create_task(asyncio.open_unix_connection(str(path)))
        accepted, _ = await asyncio.to_thread(listener.accept)
    reader, writer = await connecting

    # When a connection that it accepted is handed over
    await server.adopt(accepted)
    writer.write(_HELLO + call(1))

    # Then it is served
    output = await _read_until(reader, frames.DATA)
    assert output.endswith(peer.message(b"hello"))
    writer.close()


async def test_calls_of_one_read_come_together_and_answers_go_in_one_write(start: Start) -> None:
    service = _Pending()
    _, port = await start(service)
    reader, writer = await _open(port)

    writer.write(_HELLO + b"".join(call(stream_id) for stream_id in range(1, 41, 2)))
    await asyncio.wait_for(service.arrived.wait(), 5)
    service.answer_all()

    assert service.reads == [20]
    for _ in range(20):
        await _read_until(reader, frames.DATA)
    writer.close()


async def test_service_that_raises_fails_its_calls_and_nobody_else(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(link: Link, calls: list[Call]) -> None:
        raise ZeroDivisionError

    _, port = await start(broken)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await _method(channel)(b"", timeout=5)
            assert error.value.code() == grpc.StatusCode.INTERNAL

    assert "a service failed on 1 calls" in caplog.text


async def test_defects_of_all_connections_together_are_logged_within_a_bound(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(link: Link, calls: list[Call]) -> None:
        raise ZeroDivisionError

    server, port = await start(broken)
    server.defects = DefectLog(logging.getLogger("tests.defects"), now=lambda: 7.0)
    for _ in range(3):
        reader, writer = await _open(port)
        writer.write(_HELLO)
        for number in range(10):
            writer.write(call(2 * number + 1))
            await _read_until(reader, frames.HEADERS)
        writer.close()
    await _settle(lambda: not server.links)

    # And what time brings to light is in the same bound.
    reader, writer = await _open(port)
    await _settle(lambda: bool(server.links))
    monkeypatch.setattr(Link, "on_tick", lambda *_: 1 // 0)
    _pass_ticks(server, 1)
    await _end(reader, writer)

    lines = [record for record in caplog.records if record.exc_info]
    assert len(lines) == LINES_PER_SECOND
    assert server.defects.suppressed == 31 - LINES_PER_SECOND


async def test_peer_error_is_told_before_the_connection_closes(start: Start) -> None:
    server, port = await start()
    reader, writer = await _open(port)

    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    output = await _end(reader, writer)

    assert peer.goaways(output) == [(0, ErrorCode.PROTOCOL_ERROR)]
    await _settle(lambda: not server.links)
    assert server.counters.closed == {"peer_error": 1}


async def test_connections_beyond_the_limit_are_closed(start: Start) -> None:
    server, port = await start(max_connections=1)
    reader, writer = await _open(port)
    await _read_until(reader, frames.SETTINGS)

    assert await _end(*await _open(port)) == b""

    assert server.counters.over_limit == 1
    writer.write(_HELLO + call(1))
    await _read_until(reader, frames.DATA)
    writer.close()


async def test_connection_without_a_preface_is_closed(start: Start) -> None:
    server, port = await start(bounds=Bounds(header_intervals=3))
    reader, writer = await _open(port)
    await _read_until(reader, frames.WINDOW_UPDATE)

    _pass_ticks(server, 4)

    assert peer.goaways(await _end(reader, writer)) == [(0, ErrorCode.ENHANCE_YOUR_CALM)]


async def test_many_connections_are_looked_at_a_few_in_a_turn(start: Start) -> None:
    # given more than one turn takes, all of which just came
    server, port = await start()
    opened = [await _open(port) for _ in range(CHECKS_PER_TURN + 6)]
    await _settle(lambda: len(server.links) == len(opened))
    # when a second passes
    _pass_ticks(server, 1)
    # then calls come between the first and the last of them
    assert len(server._checks) == 6  # noqa: SLF001
    await _settle(lambda: not server._checks)  # noqa: SLF001
    for _, writer in opened:
        writer.close()


async def test_idle_connection_is_closed_and_a_used_one_is_not(start: Start) -> None:
    service = _Pending()
    server, port = await start(service, timeouts=Timeouts(idle_s=10, keepalive_s=None))
    idle, used = await _open(port), await _open(port)
    for each in (idle, used):
        each[1].write(_HELLO)
        await _read_until(each[0], frames.WINDOW_UPDATE)
    used[1].write(call(1))
    await asyncio.wait_for(service.arrived.wait(), 5)

    _pass_ticks(server, 30)

    assert peer.goaways(await _end(*idle))[-1] == (0, ErrorCode.NO_ERROR)
    assert len(server.links) == 1
    service.answer_all()
    await _read_until(used[0], frames.DATA)
    _pass_ticks(server, 11)
    assert peer.goaways(await _end(*used))[-1] == (1, ErrorCode.NO_ERROR)
    await _settle(lambda: not server.links)
    assert server.counters.closed == {"idle": 2}


async def test_quiet_connections_are_not_looked_at(start: Start) -> None:
    server, port = await start()
    reader, writer = await _open(port)
    writer.write(_HELLO + call(1))
    await _read_until(reader, frames.DATA)

    _pass_ticks(server, 3)

    assert not server._busy  # noqa: SLF001
    assert sum(map(len, server._wheel.values())) == 1  # noqa: SLF001
    writer.close()
    await _settle(lambda: not server.links)
    assert sum(map(len, server._wheel.values())) == 0  # noqa: SLF001

    # And one that is gone before a tick is not kept
    reader, writer = await _open(port)
    await _read_until(reader, frames.SETTINGS)
    writer.close()
    await _settle(lambda: not server.links)
    assert not server._busy  # noqa: SLF001


async def test_silent_peer_is_asked_and_given_up(start: Start) -> None:
    server, port = await start(timeouts=Timeouts(keepalive_s=10, keepalive_timeout_s=5))
    reader, writer = await _open(port)
    writer.write(_HELLO)
    await _read_until(reader, frames.WINDOW_UPDATE)
    await _settle(lambda: all(link.connection.is_idle for link in server.links))

    _pass_ticks(server, 12)
    await _read_until(reader, frames.PING)
    assert server.links
    _pass_ticks(server, 6)

    await _end(reader, writer)
    await _settle(lambda: not server.links)
    assert server.counters.closed == {"keepalive": 1}


async def test_peer_that_answers_pings_stays(start: Start) -> None:
    server, port = await start(timeouts=Timeouts(keepalive_s=10, keepalive_timeout_s=5))
    reader, writer = await _open(port)
    writer.write(_HELLO)
    await _read_until(reader, frames.WINDOW_UPDATE)

    for _ in range(3):
        _pass_ticks(server, 12)
        ping = await _read_until(reader, frames.PING)
        writer.write(frames.frame(frames.PING, frames.ACK, 0, ping[-8:]))
        (link,) = server.links
        link.connection.last_ping_ack = None
        await _settle(lambda: link.connection.last_ping_ack is not None)  # noqa: B023

    assert len(server.links) == 1
    writer.close()


async def test_old_connection_drains_and_ends_when_its_calls_are_answered(start: Start) -> None:
    service = _Pending()
    server, port = await start(service, timeouts=Timeouts(max_age_s=10, keepalive_s=None))
    reader, writer = await _open(port)
    writer.write(_HELLO + call(1))
    await asyncio.wait_for(service.arrived.wait(), 5)

    _pass_ticks(server, 13)
    await _settle(lambda: all(link.is_draining for link in server.links))
    service.answer_all()

    output = await _end(reader, writer)
    assert peer.goaways(output) == [(2**31 - 1, ErrorCode.NO_ERROR), (1, ErrorCode.NO_ERROR)]
    assert output.endswith(b"grpc-status\x010") or b"hello" in output


async def test_drain_that_takes_too_long_is_cut(start: Start) -> None:
    service = _Pending()
    timeouts = Timeouts(max_age_s=10, grace_s=5, keepalive_s=None)
    server, port = await start(service, timeouts=timeouts)
    reader, writer = await _open(port)
    writer.write(_HELLO + call(1))
    await asyncio.wait_for(service.arrived.wait(), 5)

    _pass_ticks(server, 19)

    await _end(reader, writer)
    await _settle(lambda: not server.links)
    assert server.counters.closed == {"drain": 1}
    (link, _) = service.calls[0]
    assert not link.connection.is_awaited(1)
    service.answer_all()
    assert server.profile.counters.answers_dropped == 1


async def test_stop_waits_for_the_calls_in_flight(start: Start) -> None:
    service = _Pending()
    server, port = await start(service)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        asked = asyncio.ensure_future(_method(channel)(b"x", timeout=9))
        await asyncio.wait_for(service.arrived.wait(), 5)

        stopping = asyncio.create_task(server.stop(5))
        await _settle(lambda: all(link.is_draining for link in server.links))
        assert not stopping.done()
        service.answer_all()

        assert await asked == b"x"
        await asyncio.wait_for(stopping, 5)
    assert server.counters.closed == {"drained": 1}


async def test_connection_handed_over_while_stopping_is_closed(start: Start) -> None:
    server, _ = await start()
    await server.stop(0)
    ours, theirs = socket.socketpair()

    await server.adopt(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)

    assert await _end(reader, writer) == b""


async def test_peer_that_does_not_read_is_not_read_from_and_given_up(start: Start) -> None:
    # Given answers that nobody reads, with windows that are open
    def verbose(link: Link, calls: list[Call]) -> None:
        for stream_id, _, _ in calls:
            link.answer_all([(stream_id, bytes(60_000))])

    server, port = await start(verbose, timeouts=Timeouts(write_s=5))
    reader, writer = await _open(port)
    writer.transport.pause_reading()  # type: ignore[attr-defined] # streams type it as writing only
    del reader
    writer.write(_HELLO + frames.window_update(0, 2**30))
    stream_id = 1
    await _settle(lambda: bool(server.links))
    (link,) = server.links
    async with asyncio.timeout(10):
        while link._stalled_since is None:  # noqa: SLF001
            writer.write(call(stream_id))
            stream_id += 2
            await asyncio.sleep(0)

    transport = link._transport  # noqa: SLF001
    assert transport is not None
    assert not transport.is_reading()
    _pass_ticks(server, 7)

    await _settle(lambda: not server.links)
    assert server.counters.closed == {"write": 1}
    writer.close()


async def test_peer_that_does_not_read_its_goaway_is_closed_in_the_end(start: Start) -> None:
    # Given a peer that has not read what it was sent
    def verbose(link: Link, calls: list[Call]) -> None:
        for stream_id, _, _ in calls:
            link.answer_all([(stream_id, bytes(60_000))])

    server, port = await start(verbose, timeouts=Timeouts(write_s=100, keepalive_s=None))
    reader, writer = await _open(port)
    writer.transport.pause_reading()  # type: ignore[attr-defined] # streams type it as writing only
    writer.write(_HELLO + frames.window_update(0, 2**30))
    await _settle(lambda: bool(server.links))
    (link,) = server.links
    stream_id = 1
    async with asyncio.timeout(10):
        while link._stalled_since is None:  # noqa: SLF001
            writer.write(call(stream_id))
            stream_id += 2
            await asyncio.sleep(0)

    # When it is told that the connection ends, for a flood that was read before
    link.connection.receive(frames.window_update(0, 0))
    link.flush()
    _pass_ticks(server, CLOSE_S - 1)
    assert server.links == {link}
    _pass_ticks(server, 2)

    # Then it has CLOSE_S to read that
    await _settle(lambda: not server.links)
    assert server.counters.closed == {"peer_error": 1}
    writer.close()
    del reader


async def test_peer_that_never_opens_its_windows_is_given_up_and_goes_idle(start: Start) -> None:
    # Given an answer that the peer lets not through
    service = _Pending()
    timeouts = Timeouts(idle_s=20, keepalive_s=None)
    server, port = await start(service, bounds=Bounds(answer_intervals=5), timeouts=timeouts)
    reader, writer = await _open(port)
    writer.write(_HELLO + frames.settings({frames.INITIAL_WINDOW_SIZE: 0}) + call(1))
    await asyncio.wait_for(service.arrived.wait(), 5)
    service.answer_all()

    # When time passes
    _pass_ticks(server, 22)

    # Then the answer is taken back, and in the end the connection closed
    output = await _end(reader, writer)
    assert peer.resets(output) == [(1, ErrorCode.CANCEL)]
    assert peer.goaways(output) == [(1, ErrorCode.NO_ERROR)]
    await _settle(lambda: not server.links)
    assert server.counters.closed == {"idle": 1}


def _tls(authority: Authority) -> ssl.SSLContext:
    pair = authority.issue("server", ("localhost", "127.0.0.1"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    context.set_alpn_protocols(["h2"])
    return context


async def test_grpcio_client_is_answered_over_tls(start: Start, tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    _, port = await start(tls=_tls(authority))
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())

    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        assert await _method(channel)(b"hello" * 10_000, timeout=5) == b"hello" * 10_000


async def test_tls_client_without_h2_is_closed(start: Start, tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    server, port = await start(tls=_tls(authority))
    context = ssl.create_default_context(cafile=authority.certificate)

    reader, writer = await asyncio.wait_for(
        asyncio.open_connection("127.0.0.1", port, ssl=context), 5
    )
    await _end(reader, writer)

    await _settle(lambda: not server.links)
    assert server.counters.closed == {"no_alpn": 1}


@pytest.mark.parametrize("is_adopted", [False, True])
@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_tls_handshake_that_does_not_end_is_cut(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes, is_adopted: bool
) -> None:
    # Given little time for handshakes, and a peer that begins one at most
    monkeypatch.setattr("ratelimitd.transport.h2.server.HANDSHAKE_S", 0.2)
    authority = make_authority(tmp_path)
    tls = _tls(authority)
    server, port = await start(tls=tls)
    adopting = None
    if is_adopted:
        ours, theirs = socket.socketpair()
        adopting = asyncio.create_task(server.adopt(theirs, tls))
        reader, writer = await asyncio.open_connection(sock=ours)
    else:
        reader, writer = await _open(port)
    writer.write(begun)

    # When nothing more comes, then it is closed, and was never among the connections
    assert await _end(reader, writer) == b""
    if adopting is not None:
        with pytest.raises(OSError, match="TLS handshake failed: timeout"):
            await asyncio.wait_for(adopting, 5)
    assert server.counters.accepted == 0

    # And the others are served
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        assert await _method(channel)(b"hello", timeout=5) == b"hello"


async def test_move_one_asks_one_client_to_go(start: Start) -> None:
    server, port = await start()
    peers = [await _open(port) for _ in range(3)]
    for reader, writer in peers:
        writer.write(_HELLO + call(1))
        await _read_until(reader, frames.DATA)

    assert server.move_one()

    assert sum(link.is_draining for link in server.links) == 1
    for _, writer in peers:
        writer.close()
