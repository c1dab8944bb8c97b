"""The two servers of the gRPC port answer real grpcio clients, whatever they send."""

import asyncio
import socket
from pathlib import Path

import grpc
import grpc.aio
import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.defects import LINES_PER_SECOND
from ratelimitd.errors import ConfigError
from ratelimitd.services.context import CallContext
from ratelimitd.services.parse import MAX_REQUEST_BYTES
from ratelimitd.transport.grpc import MAX_MESSAGE_BYTES, GrpcPort
from ratelimitd.transport.listen import TcpAddress, UnixAddress
from tests.transport.support import (
    DEFAULT_DEADLINE_S,
    PATH,
    SERVICE,
    EchoService,
    Serve,
    raw_call,
    serving,
    status_of,
)

OK_CALL = rls_pb2.RateLimitRequest(domain="d", hits_addend=1).SerializeToString()
MANY = 4 * LINES_PER_SECOND


class Slow(EchoService):
    """Answers when it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.release = asyncio.Event(), asyncio.Event()

    async def should_rate_limit(
        self, message: rls_pb2.RateLimitRequest, context: CallContext
    ) -> rls_pb2.RateLimitResponse:
        self.entered.set()
        await self.release.wait()
        return await super().should_rate_limit(message, context)


async def test_call_is_answered_with_deadline_and_trace(serve: Serve) -> None:
    service = EchoService()
    async with (
        serve(service) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

        answer = rls_pb2.RateLimitResponse.FromString(
            await raw_call(channel)(OK_CALL, timeout=5, metadata=(("traceparent", trace),))
        )

        assert answer.overall_code == rls_pb2.RateLimitResponse.OK
        (context,) = service.contexts
        assert context.trace_parent == trace
        assert context.timeout_s is not None
        assert 0 < context.timeout_s <= 5.1
        assert service.calls == [("ShouldRateLimit", "OK")]


async def test_call_without_deadline_has_the_default_at_most(serve: Serve, data_plane: str) -> None:
    service = EchoService()
    async with (
        serve(service) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        await raw_call(channel)(OK_CALL)

    # grpcio leaves the default to the service.
    default_s = None if data_plane == "grpcio" else DEFAULT_DEADLINE_S
    assert service.contexts[0].timeout_s == default_s
    assert service.contexts[0].trace_parent is None


@pytest.mark.parametrize(
    ("domain", "code", "message"),
    [
        ("invalid", grpc.StatusCode.INVALID_ARGUMENT, "domain: is empty"),
        ("store", grpc.StatusCode.UNAVAILABLE, "the store does not answer"),
        ("not_ready", grpc.StatusCode.UNAVAILABLE, "no policy is loaded"),
    ],
)
async def test_error_of_a_service_becomes_its_status(
    domain: str, code: grpc.StatusCode, message: str, serve: Serve
) -> None:
    service = EchoService()
    async with (
        serve(service) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        data = rls_pb2.RateLimitRequest(domain=domain).SerializeToString()

        assert await status_of(raw_call(channel)(data)) == (code, message)
        assert service.calls == [("ShouldRateLimit", code.name)]


async def test_unforeseen_error_is_internal_with_an_id_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture, serve: Serve
) -> None:
    async with (
        serve(EchoService()) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        data = rls_pb2.RateLimitRequest(domain="bug").SerializeToString()

        code, message = await status_of(raw_call(channel)(data))

        assert code is grpc.StatusCode.INTERNAL
        assert message.startswith("internal error ")
        assert "secret" not in message
        error_id = message.removeprefix("internal error ")
        assert any(error_id in record.getMessage() for record in caplog.records)
        assert await raw_call(channel)(OK_CALL)


async def test_defects_of_many_calls_are_a_few_lines(
    caplog: pytest.LogCaptureFixture, serve: Serve
) -> None:
    data = rls_pb2.RateLimitRequest(domain="bug").SerializeToString()
    async with (
        serve(EchoService()) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        calls = (raw_call(channel)(data, timeout=10) for _ in range(MANY))
        failures = await asyncio.gather(*calls, return_exceptions=True)

    assert all("internal error" in str(failure) for failure in failures)
    lines = [each for each in caplog.records if each.name.startswith("ratelimitd.transport")]
    assert LINES_PER_SECOND <= len(lines) < MANY


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
async def test_garbage_is_an_invalid_argument(data: bytes, serve: Serve) -> None:
    service = EchoService()
    async with (
        serve(service) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        code, message = await status_of(raw_call(channel)(data))

        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message == "the request is not a readable RateLimitRequest"
        assert service.contexts == []
        assert await raw_call(channel)(OK_CALL)


async def test_huge_request_is_refused_unread(serve: Serve) -> None:
    service = EchoService()
    async with (
        serve(service) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        size = MAX_MESSAGE_BYTES + 1

        assert await status_of(raw_call(channel)(bytes(size))) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"SERVER: Received message larger than max ({size} vs. {MAX_MESSAGE_BYTES})",
        )
        assert service.contexts == []
        assert await raw_call(channel)(OK_CALL)


async def test_large_request_is_refused_with_its_size() -> None:
    # On our own server the rate-limit service itself does that; its tests hold it.
    async with (
        serving(EchoService()) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        large = rls_pb2.RateLimitRequest(domain="x" * MAX_REQUEST_BYTES).SerializeToString()
        code, message = await status_of(raw_call(channel)(large))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"{len(large)} bytes, at most {MAX_REQUEST_BYTES}" in message
        assert await raw_call(channel)(OK_CALL)


@pytest.mark.parametrize("path", [f"/{SERVICE}/Nothing", "/nobody.Service/ShouldRateLimit", "/x"])
async def test_unknown_method_is_unimplemented(path: str, serve: Serve) -> None:
    async with (
        serve(EchoService()) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        told = await status_of(raw_call(channel, path)(OK_CALL))

        assert told == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def test_bytes_that_are_no_http2_do_not_harm_the_server(serve: Serve) -> None:
    async with serve(EchoService()) as server:
        assert isinstance(server.address, TcpAddress)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.address.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + bytes(100))
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()

        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            assert await raw_call(channel)(OK_CALL)


async def test_unix_socket_serves_and_is_removed(tmp_path: Path, serve: Serve) -> None:
    address = UnixAddress(str(tmp_path / "grpc.sock"))
    port = GrpcPort(address=address, flag="--grpc")
    async with (
        serve(EchoService(), port),
        grpc.aio.insecure_channel(str(address)) as channel,
    ):
        assert await raw_call(channel)(OK_CALL)

    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - nothing else runs


async def test_draining_server_leaves_the_socket_of_its_successor(
    tmp_path: Path, serve: Serve
) -> None:
    # given a call in flight that holds the drain
    address = UnixAddress(str(tmp_path / "grpc.sock"))
    port = GrpcPort(address=address, flag="--grpc")
    service = Slow()
    async with (
        serve(service, port) as old,
        grpc.aio.insecure_channel(str(address)) as channel,
    ):
        call = asyncio.ensure_future(raw_call(channel)(OK_CALL))
        await service.entered.wait()
        # when
        draining = asyncio.create_task(old.stop(10))
        await asyncio.sleep(0)
        async with serve(EchoService(), port):
            service.release.set()
            await asyncio.gather(draining, call)
            await old.stop(0)
            # then
            async with grpc.aio.insecure_channel(str(address)) as other:
                assert await raw_call(other)(OK_CALL, timeout=5)


async def test_port_in_use_is_one_line_that_names_flag_and_port(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        port = GrpcPort(address=TcpAddress("127.0.0.1", number), flag="--grpc")

        with pytest.raises(ConfigError) as caught:
            async with serve(EchoService(), port):
                pass

    assert str(caught.value) == (
        f"--grpc: cannot listen on 127.0.0.1:{number}: address already in use"
    )


async def test_second_server_on_a_port_is_refused(serve: Serve) -> None:
    async with serve(EchoService()) as server:
        port = GrpcPort(address=server.address, flag="--admin")

        with pytest.raises(ConfigError, match="--admin: cannot listen on"):
            async with serve(EchoService(), port):
                pass


async def test_stop_lets_calls_in_flight_finish(serve: Serve) -> None:
    service = Slow()
    async with serve(service) as server, grpc.aio.insecure_channel(str(server.address)) as channel:
        call = asyncio.ensure_future(raw_call(channel, PATH)(OK_CALL))
        await service.entered.wait()

        stopping = asyncio.create_task(server.stop(10))
        service.release.set()

        assert rls_pb2.RateLimitResponse.FromString(await call).overall_code == 1
        await stopping
