"""Every client works on our HTTP/2 server: good calls, refused ones, deadlines, many at once."""

from base64 import b64encode
from collections import Counter

from grpc_health.v1 import health_pb2

from ratelimitd.transport.grpc import MAX_MESSAGE_BYTES
from tests.support.daemon import Daemon
from tests.support.grpc_client import METHOD, rate_limit_request
from tests.support.servers import Server
from tests.transport.clients.plan import Call, Client, overall_codes

GOOD = rate_limit_request("api", "open=x").SerializeToString()
# A request that compressing makes smaller: some clients send others as they are.
LONG = rate_limit_request("api", *["open=x"] * 20).SerializeToString()
# More than a connection may have in flight at once: clients wait for their turn.
MANY = 1500
SOME = 50


def test_client_is_served_and_refused_in_the_servers_words(client: Client, daemon: Daemon) -> None:
    shut = rate_limit_request("api", "shut=x").SerializeToString()
    no_domain = rate_limit_request("", "open=x").SerializeToString()
    huge = MAX_MESSAGE_BYTES + 1
    # when
    seen = client(
        daemon.grpc_address,
        [
            Call("good", METHOD, GOOD, repeats=3),
            Call("refused", METHOD, shut),
            Call("unknown method", METHOD + "s", GOOD),
            Call("unknown service", "/no.Such/Method", GOOD),
            Call("garbage", METHOD, b"\xff\xff"),
            Call("empty", METHOD, no_domain),
            Call("huge", METHOD, bytes(huge)),
            Call("metadata", METHOD, GOOD, text_bytes=8000, binary_bytes=3000),
            Call("gzip", METHOD, LONG, is_gzip=True),
            Call("health", "/grpc.health.v1.Health/Check", b""),
            Call("last", METHOD, GOOD),
        ],
    )
    # then
    serving = health_pb2.HealthCheckResponse(status="SERVING").SerializeToString()
    assert seen.pop("health") == {f"OK {b64encode(serving).decode()}": 1}
    assert {name: dict(overall_codes(lines)) for name, lines in seen.items()} == {
        "good": {"OK": 3},
        "refused": {"OVER_LIMIT": 1},
        "unknown method": {"UNIMPLEMENTED: Method not found!": 1},
        "unknown service": {"UNIMPLEMENTED: Method not found!": 1},
        "garbage": {"INVALID_ARGUMENT: the request is not a readable RateLimitRequest": 1},
        "empty": {"INVALID_ARGUMENT: domain: is empty; name the policy's domain": 1},
        "huge": {
            f"RESOURCE_EXHAUSTED: SERVER: Received message larger than max ({huge} vs. "
            f"{MAX_MESSAGE_BYTES})": 1
        },
        "metadata": {"OK": 1},
        "gzip": {"UNIMPLEMENTED: compressed messages are not supported; send identity": 1},
        "last": {"OK": 1},
    }


def test_client_with_too_large_metadata_is_refused_and_goes_on(
    client: Client, daemon: Daemon
) -> None:
    seen = client(
        daemon.grpc_address,
        [Call("large", METHOD, GOOD, text_bytes=20_000), Call("last", METHOD, GOOD)],
    )

    ((told, _),) = seen["large"].items()
    # grpc-go knows our bound and does not even send.
    assert told in {
        "RESOURCE_EXHAUSTED: received metadata size exceeds the limit",
        "INTERNAL: header list size to send violates the maximum size (16384 bytes) set by server",
    }
    assert overall_codes(seen["last"]) == {"OK": 1}


def test_client_has_many_calls_in_flight(client: Client, daemon: Daemon) -> None:
    seen = client(daemon.grpc_address, [Call("many", METHOD, GOOD, repeats=MANY)])

    assert overall_codes(seen["many"]) == {"OK": MANY}


def test_client_gives_up_at_its_deadline_and_may_cancel(
    client: Client, daemon: Daemon, client_store: Server
) -> None:
    # given a store that is silent
    with client_store.paused():
        seen = client(
            daemon.grpc_address,
            [
                Call("cancelled", METHOD, GOOD, repeats=SOME, is_cancelled=True),
                Call("deadline", METHOD, GOOD, repeats=SOME, timeout_ms=300),
            ],
        )
    after = client(daemon.grpc_address, [Call("after", METHOD, GOOD, repeats=SOME)])

    # then; the server answers just before the client's own clock
    assert _codes(seen["cancelled"]) == {"CANCELLED": SOME}
    assert set(_codes(seen["deadline"])) <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
    assert overall_codes(after["after"]) == {"OK": SOME}


def _codes(seen: Counter[str]) -> Counter[str]:
    codes: Counter[str] = Counter()
    for line, count in seen.items():
        codes[line.partition(":")[0]] += count
    return codes
