"""The gRPC shell answers real grpcio clients, whatever they send."""

import asyncio
import socket
from pathlib import Path

import grpc
import grpc.aio
import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.errors import ConfigError
from ratelimitd.services.context import CallContext
from ratelimitd.services.parse import MAX_REQUEST_BYTES
from ratelimitd.transport.grpc import (
    MAX_MESSAGE_BYTES,
    GrpcPort,
    UnaryMethod,
    start_grpc,
)
from ratelimitd.transport.listen import TcpAddress, UnixAddress
from tests.transport.support import PATH, SERVICE, EchoService, raw_call, serving, status_of

OK_CALL = rls_pb2.RateLimitRequest(domain="d", hits_addend=1).SerializeToString()


async def test_call_is_answered_with_deadline_and_trace() -> None:
    service = EchoService()
    async with (
        serving(service) as server,
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


async def test_call_without_deadline_has_no_timeout() -> None:
    service = EchoService()
    async with (
        serving(service) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        await raw_call(channel)(OK_CALL)

    assert service.contexts[0].timeout_s is None
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
    domain: str, code: grpc.StatusCode, message: str
) -> None:
    service = EchoService()
    async with (
        serving(service) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        data = rls_pb2.RateLimitRequest(domain=domain).SerializeToString()

        assert await status_of(raw_call(channel)(data)) == (code, message)
        assert service.calls == [("ShouldRateLimit", code.name)]


async def test_unforeseen_error_is_internal_with_an_id_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving(EchoService()) as server,
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


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
async def test_garbage_is_an_invalid_argument(data: bytes) -> None:
    service = EchoService()
    async with (
        serving(service) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        code, message = await status_of(raw_call(channel)(data))

        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert message == "the request is not a readable RateLimitRequest"
        assert service.contexts == []
        assert await raw_call(channel)(OK_CALL)


async def test_large_request_is_refused_with_its_size_and_a_huge_one_unread() -> None:
    async with (
        serving(EchoService()) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        large = rls_pb2.RateLimitRequest(domain="x" * MAX_REQUEST_BYTES).SerializeToString()
        code, message = await status_of(raw_call(channel)(large))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"{len(large)} bytes, at most {MAX_REQUEST_BYTES}" in message

        code, _ = await status_of(raw_call(channel)(bytes(MAX_MESSAGE_BYTES + 1)))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

        assert await raw_call(channel)(OK_CALL)


@pytest.mark.parametrize("path", [f"/{SERVICE}/Nothing", "/nobody.Service/ShouldRateLimit", "/x"])
async def test_unknown_method_is_unimplemented(path: str) -> None:
    async with (
        serving(EchoService()) as server,
        grpc.aio.insecure_channel(str(server.address)) as channel,
    ):
        code, _ = await status_of(raw_call(channel, path)(OK_CALL))

        assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_bytes_that_are_no_http2_do_not_harm_the_server() -> None:
    async with serving(EchoService()) as server:
        assert isinstance(server.address, TcpAddress)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.address.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + bytes(100))
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()

        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            assert await raw_call(channel)(OK_CALL)


async def test_unix_socket_serves_and_is_removed(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "grpc.sock"))
    port = GrpcPort(address=address, flag="--grpc")
    async with (
        serving(EchoService(), port),
        grpc.aio.insecure_channel(str(address)) as channel,
    ):
        assert await raw_call(channel)(OK_CALL)

    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - nothing else runs


async def test_draining_server_leaves_the_socket_of_its_successor(tmp_path: Path) -> None:
    # given a call in flight that holds the drain
    address = UnixAddress(str(tmp_path / "grpc.sock"))
    port = GrpcPort(address=address, flag="--grpc")
    service, arrived, held = EchoService(), asyncio.Event(), asyncio.Event()
    asked = service.should_rate_limit

    async def hold(
        message: rls_pb2.RateLimitRequest, context: CallContext
    ) -> rls_pb2.RateLimitResponse:
        answer = await asked(message, context)
        arrived.set()
        await held.wait()
        return answer

    method = UnaryMethod(SERVICE, "ShouldRateLimit", rls_pb2.RateLimitRequest, hold)
    old = await start_grpc(port, [method], observe_call=service.observe_call)
    async with grpc.aio.insecure_channel(str(address)) as channel:
        call = asyncio.ensure_future(raw_call(channel)(OK_CALL))
        await arrived.wait()
        # when
        draining = asyncio.create_task(old.stop(10))
        await asyncio.sleep(0)
        async with serving(EchoService(), port):
            held.set()
            await asyncio.gather(draining, call)
            await old.stop(0)
            # then
            async with grpc.aio.insecure_channel(str(address)) as other:
                assert await raw_call(other)(OK_CALL, timeout=5)


async def test_port_in_use_is_one_line_that_names_flag_and_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        port = GrpcPort(address=TcpAddress("127.0.0.1", number), flag="--grpc")

        with pytest.raises(ConfigError) as caught:
            async with serving(EchoService(), port):
                pass

    assert str(caught.value) == (
        f"--grpc: cannot listen on 127.0.0.1:{number}: address already in use"
    )


async def test_second_server_on_a_port_is_refused() -> None:
    async with serving(EchoService()) as server:
        port = GrpcPort(address=server.address, flag="--admin")

        with pytest.raises(ConfigError, match="--admin: cannot listen on"):
            async with serving(EchoService(), port):
                pass


async def test_stop_lets_calls_in_flight_finish() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    class Slow(EchoService):
        async def should_rate_limit(
            self, message: rls_pb2.RateLimitRequest, context: CallContext
        ) -> rls_pb2.RateLimitResponse:
            entered.set()
            await release.wait()
            return await super().should_rate_limit(message, context)

    async with serving(Slow()) as server, grpc.aio.insecure_channel(str(server.address)) as channel:
        call = asyncio.ensure_future(raw_call(channel, PATH)(OK_CALL))
        await entered.wait()

        stopping = asyncio.create_task(server.stop(10))
        release.set()

        assert rls_pb2.RateLimitResponse.FromString(await call).overall_code == 1
        await stopping
