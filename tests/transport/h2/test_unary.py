"""Methods on the HTTP/2 server, asked by grpcio's client."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio
import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.defects import LINES_PER_SECOND
from ratelimitd.errors import InvalidRequest, StoreOverloaded, StoreUnavailable
from ratelimitd.services.context import CallContext
from ratelimitd.transport.h2.connection import Call
from ratelimitd.transport.h2.headers import Head
from ratelimitd.transport.h2.server import Server
from ratelimitd.transport.h2.unary import Calls, Method, Replies, from_service

DEFAULT_DEADLINE_S = 7.0


class Port:
    """A server with a few methods, what it counted, and a client."""

    def __init__(self) -> None:
        self.observed: list[tuple[str, str]] = []
        self.heads: list[Head] = []
        self.channel: grpc.aio.Channel

    def observe(self, name: str, code: str, seconds: float, count: int) -> None:
        assert seconds >= 0
        self.observed += [(name, code)] * count

    def echo(self, calls: Sequence[Call], replies: Replies) -> None:
        self.heads += [head for _, head, _ in calls]
        replies.answer_all([(stream_id, body) for stream_id, _, body in calls])

    def later(self, calls: Sequence[Call], replies: Replies) -> None:
        answers = [(stream_id, body) for stream_id, _, body in calls]
        asyncio.get_running_loop().call_soon(replies.answer_all, answers)

    def fail(self, calls: Sequence[Call], replies: Replies) -> None:
        errors = {
            b"invalid": InvalidRequest("domain: is empty"),
            b"store": StoreUnavailable("store: away"),
            b"full": StoreOverloaded("store queue: full"),
            b"defect": KeyError("a secret detail"),
        }
        for stream_id, _, body in calls:
            replies.fail(stream_id, errors[body])

    async def serve(
        self, message: rls_pb2.RateLimitRequest, context: CallContext
    ) -> rls_pb2.RateLimitResponse:
        if message.domain == "slow":
            await asyncio.sleep(60)
        if message.domain == "bad":
            raise InvalidRequest("domain: is bad")
        return rls_pb2.RateLimitResponse(raw_body=message.domain.encode())

    async def call(
        self, path: str, body: bytes, timeout_s: float | None = 10.0, traceparent: str = ""
    ) -> bytes:
        metadata = (("traceparent", traceparent),) if traceparent else None
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        return await method(body, timeout=timeout_s, metadata=metadata)


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    made = Port()
    server = Server(
        {
            b"/test/echo": Method("echo", made.echo),
            b"/test/later": Method("later", made.later),
            b"/test/fail": Method("fail", made.fail),
            b"/test/serve": from_service(
                "serve", rls_pb2.RateLimitRequest, made.serve, DEFAULT_DEADLINE_S
            ),
        },
        Calls(made.observe),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    await server.listen(listener)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
        made.channel = channel
        yield made
    await server.stop(0)


async def test_method_answers_at_once_or_later(port: Port) -> None:
    assert await port.call("/test/echo", b"now") == b"now"
    assert await port.call("/test/later", b"soon") == b"soon"
    assert port.observed == [("echo", "OK"), ("later", "OK")]


async def test_head_has_the_callers_deadline_and_trace(port: Port) -> None:
    # when
    await port.call("/test/echo", b"", timeout_s=5, traceparent="00-1-2-01")
    await port.call("/test/echo", b"", timeout_s=None)
    # then
    first, second = port.heads
    assert first.timeout_s is not None
    # The library rounds up what it sends.
    assert 0 < first.timeout_s <= 5.1
    assert first.trace_parent == "00-1-2-01"
    assert (second.timeout_s, second.trace_parent) == (None, None)


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"invalid", grpc.StatusCode.INVALID_ARGUMENT, "domain: is empty"),
        (b"store", grpc.StatusCode.UNAVAILABLE, "store: away"),
        (b"full", grpc.StatusCode.RESOURCE_EXHAUSTED, "store queue: full"),
        (b"defect", grpc.StatusCode.INTERNAL, "internal error "),
    ],
)
async def test_error_becomes_its_status(
    port: Port, body: bytes, code: grpc.StatusCode, text: str
) -> None:
    # when
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await port.call("/test/fail", body)
    # then
    assert caught.value.code() is code
    details = caught.value.details()
    assert details is not None
    assert details.startswith(text)
    assert "secret" not in details
    assert port.observed == [("fail", code.name)]


async def test_defects_are_logged_within_a_bound(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    # when
    calls = [port.call("/test/fail", b"defect") for _ in range(20 * LINES_PER_SECOND)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    # then; a slow machine may begin another second
    assert all(isinstance(result, grpc.aio.AioRpcError) for result in results)
    assert LINES_PER_SECOND <= len(caplog.records) < len(results)
    assert all(record.exc_info for record in caplog.records)


async def test_plain_service_is_mounted_in_one_line(port: Port) -> None:
    # when
    body = rls_pb2.RateLimitRequest(domain="api").SerializeToString()
    answer = await port.call("/test/serve", body)
    # then
    assert rls_pb2.RateLimitResponse.FromString(answer).raw_body == b"api"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (
            rls_pb2.RateLimitRequest(domain="bad").SerializeToString(),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
)
async def test_plain_service_tells_what_is_wrong(
    port: Port, body: bytes, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await port.call("/test/serve", body)
    assert caught.value.code() is code


async def test_plain_service_is_ended_by_its_deadline(port: Port) -> None:
    # when
    body = rls_pb2.RateLimitRequest(domain="slow").SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await port.call("/test/serve", body, timeout_s=0.05)
    # then
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        while not port.observed:  # noqa: ASYNC110 - the server's own clock ends it
            await asyncio.sleep(0.01)
    # The caller's own clock may have been first: then it took the call back.
    assert port.observed in ([("serve", "DEADLINE_EXCEEDED")], [("serve", "CANCELLED")])
