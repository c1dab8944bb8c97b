"""grpcio's client asks both data planes the same, also what no good client asks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from ratelimitd.services.health import SERVICE_NAMES
from ratelimitd.services.parse import MAX_REQUEST_BYTES
from ratelimitd.transport.grpc import MAX_MESSAGE_BYTES
from tests.differential.bodies import NOTHING, compressed
from tests.differential.case import GOOD, OK, Expected, same, says
from tests.differential.conftest import Planes
from tests.differential.documented import documented_rows
from tests.differential.heads import LATE
from tests.support.daemon import Daemon
from tests.support.data_plane import PLANES
from tests.support.grpc_client import METHOD, rate_limit_request

TIMEOUT_S = 20
# For calls that one of the two never answers.
SHORT_S = 2
MANY = 3000
HEALTH = "/grpc.health.v1.Health/"
# A request that compressing makes smaller: grpcio sends others as they are.
LONG = rate_limit_request("api", *["open=x"] * 20).SerializeToString()
UNANSWERED = NOTHING._replace(grpcio="DEADLINE_EXCEEDED: Deadline Exceeded")

Ask = Callable[[grpc.Channel], bytes]


class Call(NamedTuple):
    """What is asked, and what each data plane says."""

    name: str
    ask: Ask
    expected: Expected


@contextmanager
def channel_to(daemon: Daemon) -> Iterator[grpc.Channel]:
    """Open a connection that no other test uses."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(daemon.grpc_address, options) as channel:
        yield channel


def outcome(ask: Ask, channel: grpc.Channel) -> str:
    """Return the answer in a line."""
    try:
        answer = ask(channel)
    except grpc.RpcError as error:
        failed = cast("grpc.Call", error)
        return f"{failed.code().name}: {failed.details()}"
    return f"OK: {RateLimitResponse.Code.Name(RateLimitResponse.FromString(answer).overall_code)}"


def unary(
    body: bytes, path: str = METHOD, timeout_s: float | None = TIMEOUT_S, **options: object
) -> Ask:
    """Ask once."""

    def ask(channel: grpc.Channel) -> bytes:
        method: Callable[..., bytes] = channel.unary_unary(path)
        return method(body, timeout=timeout_s, **options)

    return ask


def sending(count: int, timeout_s: float = TIMEOUT_S) -> Ask:
    """Send `count` messages and then the end, to a method that takes one."""

    def ask(channel: grpc.Channel) -> bytes:
        method: Callable[..., bytes] = channel.stream_unary(METHOD)
        return method(iter([GOOD] * count), timeout=timeout_s)

    return ask


def receiving(count: int) -> Ask:
    """Send `count` messages, and expect any number of answers."""

    def ask(channel: grpc.Channel) -> bytes:
        method: Callable[..., Iterator[bytes]] = channel.stream_stream(METHOD)
        (answer,) = method(iter([GOOD] * count), timeout=TIMEOUT_S)
        return answer

    return ask


def watch(channel: grpc.Channel) -> bytes:
    """Return the first thing that health's Watch tells."""
    method: Callable[..., Iterator[bytes]] = channel.unary_stream(HEALTH + "Watch")
    answers = method(b"", timeout=TIMEOUT_S)
    try:
        return next(answers)
    finally:
        answers.cancel()  # type: ignore[attr-defined]  # grpcio's iterator is a call too


def padded(size: int) -> bytes:
    """Return a good request of `size` bytes: a field that nobody knows fills it."""
    room = size - len(GOOD) - 6
    length = bytes([*(room >> shift & 0x7F | 0x80 for shift in (0, 7, 14)), room >> 21])
    return GOOD + b"\xa2\x06" + length + bytes(room)


def too_large(size: int) -> Expected:
    """The service is asked more than it reads."""
    text = f"the request has {size} bytes, at most {MAX_REQUEST_BYTES} are accepted"
    return same(f"INVALID_ARGUMENT: {text}")


def _health(service: str) -> bytes:
    return bytes(health_pb2.HealthCheckRequest(service=service).SerializeToString())


_HUGE = MAX_MESSAGE_BYTES + 1
_ROW = "gRPC health's Watch"

CALLS = [
    Call("good", unary(GOOD), same(OK)),
    Call("no deadline", unary(GOOD, timeout_s=None), same(OK)),
    Call("a deadline in thirty years", unary(GOOD, timeout_s=1e9), same(OK)),
    Call("a deadline in the past", unary(GOOD, timeout_s=-1), LATE),
    Call("a deadline now", unary(GOOD, timeout_s=0), LATE),
    Call("an unknown method", unary(GOOD, METHOD + "s"), same("UNIMPLEMENTED: Method not found!")),
    Call("an unknown service", unary(GOOD, "/no.Such/X"), same("UNIMPLEMENTED: Method not found!")),
    Call(
        "garbage",
        unary(b"\xff\xff"),
        same("INVALID_ARGUMENT: the request is not a readable RateLimitRequest"),
    ),
    Call(
        "an empty domain",
        unary(rate_limit_request("", "open=x").SerializeToString()),
        same("INVALID_ARGUMENT: domain: is empty; name the policy's domain"),
    ),
    Call("64 KiB", unary(padded(MAX_REQUEST_BYTES)), same(OK)),
    Call("over 64 KiB", unary(padded(MAX_REQUEST_BYTES + 1)), too_large(MAX_REQUEST_BYTES + 1)),
    Call("1 MiB", unary(padded(MAX_MESSAGE_BYTES)), too_large(MAX_MESSAGE_BYTES)),
    Call(
        "over 1 MiB",
        unary(padded(_HUGE)),
        same(
            f"RESOURCE_EXHAUSTED: SERVER: Received message larger than max "
            f"({_HUGE} vs. {MAX_MESSAGE_BYTES})"
        ),
    ),
    Call("metadata", unary(GOOD, metadata=[("x-a", "v"), ("x-a", "w")]), same(OK)),
    Call("large metadata", unary(GOOD, metadata=[("x-large", "v" * 15_000)]), same(OK)),
    Call(
        "metadata over the bound",
        unary(GOOD, metadata=[("x-large", "v" * 17_000)]),
        Expected(
            "RESOURCE_EXHAUSTED: received metadata size exceeds hard limit *",
            "RESOURCE_EXHAUSTED: received metadata size exceeds the limit",
            "Metadata over 16 KiB",
        ),
    ),
    Call("binary metadata", unary(GOOD, metadata=[("x-bin", bytes(range(256)))]), same(OK)),
    Call("large binary metadata", unary(GOOD, metadata=[("x-bin", bytes(11_000))]), same(OK)),
    Call("gzip, where it does not help", unary(GOOD, compression=grpc.Compression.Gzip), same(OK)),
    Call("gzip", unary(LONG, compression=grpc.Compression.Gzip), compressed(OK)),
    Call("deflate", unary(LONG, compression=grpc.Compression.Deflate), compressed(OK)),
    Call("a stream of one message", sending(1), same(OK)),
    Call("a stream of two messages", sending(2), same(OK)),
    Call("a stream of no message", sending(0, SHORT_S), UNANSWERED),
    Call("a stream both ways", receiving(1), same(OK)),
    Call("a stream both ways of three messages", receiving(3), same(OK)),
    *(
        Call(f"health of {name!r}", unary(_health(name), HEALTH + "Check"), same(OK))
        for name in SERVICE_NAMES
    ),
    Call(
        "health of another name",
        unary(_health("nobody"), HEALTH + "Check"),
        same("NOT_FOUND: no such service"),
    ),
    Call("health's Watch", watch, Expected(OK, "UNIMPLEMENTED: Method not found!", _ROW)),
]


@pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])
def test_call_is_answered_alike_or_the_difference_is_documented(planes: Planes, call: Call) -> None:
    expected = call.expected
    assert expected.grpcio == expected.h2 or expected.row in documented_rows()
    for plane, wanted in (("grpcio", expected.grpcio), ("h2", expected.h2)):
        with channel_to(planes[plane]) as channel:
            told = outcome(call.ask, channel)
            assert says(told, wanted), f"{plane}: {told}"

            # The connection goes on.
            assert outcome(unary(GOOD), channel) == OK


def test_answers_are_alike_to_the_last_byte(planes: Planes) -> None:
    requests = [
        rate_limit_request("api", "two=alike"),
        rate_limit_request("api", "two=alike", "open=alike", "none=x", hits=2),
        rate_limit_request("api", "held=alike"),
        rate_limit_request("api", "held=alike,user=alike", "shut=x"),
        rate_limit_request("none", "open=x"),
    ]
    told = {plane: list(_answers(planes[plane], requests)) for plane in PLANES}

    assert told["grpcio"] == told["h2"]
    assert len(told["h2"]) == 3 * len(requests)


def _answers(daemon: Daemon, requests: list[RateLimitRequest]) -> Iterator[RateLimitResponse]:
    """Ask each three times; the time until a window ends is left out."""
    with channel_to(daemon) as channel:
        for request in requests:
            for _ in range(3):
                answer = RateLimitResponse.FromString(unary(request.SerializeToString())(channel))
                for status in answer.statuses:
                    status.ClearField("duration_until_reset")
                for header in answer.response_headers_to_add:
                    if header.key == "RateLimit-Reset":
                        header.value = "" if header.value.isdecimal() else header.value
                yield answer


def test_thousands_of_calls_at_once_are_all_served(planes: Planes) -> None:
    # given a burst beyond what a connection may have in flight: the client waits
    for plane in PLANES:
        with channel_to(planes[plane]) as channel:
            method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            # when
            calls = [method.future(GOOD, timeout=TIMEOUT_S * 2) for _ in range(MANY)]
            codes = {call.code() for call in calls}
            # then
            assert codes == {grpc.StatusCode.OK}, plane
