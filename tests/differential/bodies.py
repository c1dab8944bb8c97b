"""Requests whose bodies are unusual, compressed, cut, or not what the method takes."""

import gzip
import zlib

from grpc_health.v1 import health_pb2

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.hpack import encode_static
from tests.differential.case import GOOD, OK, Case, Expected, same
from tests.differential.heads import NOT_FOUND, malformed
from tests.differential.wire import CALL, NO_ANSWER, call, changed, data, headers, message
from tests.support.grpc_client import rate_limit_request

UNREADABLE = same("INVALID_ARGUMENT: the request is not a readable RateLimitRequest")
NO_DOMAIN = "INVALID_ARGUMENT: domain: is empty; name the policy's domain"
NO_ENCODING = same("INTERNAL: Compression bit set but no encoding configured")
CUT = Expected(
    NO_ANSWER, "INTERNAL: the stream ended within the message", "No message, or a part of one"
)
NOTHING = Expected(
    NO_ANSWER,
    "UNIMPLEMENTED: a unary call needs exactly one message",
    "No message, or a part of one",
)
BAD_FLAG = Expected(
    NO_DOMAIN,
    "INTERNAL: the message's compressed flag is neither 0 nor 1",
    "A compressed flag that is neither 0 nor 1",
)
END = frames.END_STREAM | frames.END_HEADERS


def compressed(grpcio: str) -> Expected:
    """We do not take compressed messages."""
    told = "UNIMPLEMENTED: compressed messages are not supported; send identity"
    return Expected(grpcio, told, "A compressed message")


def body(name: str, sent: bytes, expected: Expected, encoding: bytes | None = None) -> Case:
    """A good head and then `sent`."""
    fields = changed(grpc_encoding=encoding)
    return Case(name, headers(1, fields) + data(1, sent), expected)


def health(name: str, message: bytes, expected: Expected, method: bytes = b"Check") -> Case:
    """A call of the health service."""
    return Case(name, call(1, message, changed(path=b"/grpc.health.v1.Health/" + method)), expected)


def _health_of(service: str) -> bytes:
    return bytes(health_pb2.HealthCheckRequest(service=service).SerializeToString())


_GZIP, _DEFLATE = gzip.compress(GOOD), zlib.compress(GOOD)

PROTOBUF = [
    body("protobuf: good", message(GOOD), same(OK)),
    body("protobuf: nothing in it", message(b""), same(NO_DOMAIN)),
    body("protobuf: garbage", message(b"\xff\xff\xff"), UNREADABLE),
    body("protobuf: truncated", message(GOOD[:-1]), UNREADABLE),
    body("protobuf: text that is no UTF-8", message(b"\x0a\x02\xff\xfe"), UNREADABLE),
    body("protobuf: field number 0", message(GOOD + b"\0\0"), UNREADABLE),
    body("protobuf: a group that does not end", message(GOOD + b"\x9b\x06"), UNREADABLE),
    body("protobuf: a group", message(GOOD + b"\x9b\x06\x9c\x06"), same(OK)),
    body("protobuf: an unknown field", message(GOOD + b"\x98\x06\x01"), same(OK)),
    body("protobuf: domain of another type", message(b"\x08\x01"), same(NO_DOMAIN)),
    body("protobuf: domain twice", message(GOOD + b"\x0a\x03api"), same(OK)),
    body(
        "protobuf: a number of eleven bytes",
        message(GOOD + b"\x18" + b"\xff" * 10 + b"\1"),
        UNREADABLE,
    ),
]

_EMPTY_DESCRIPTOR = rate_limit_request("api", "open=x")
_EMPTY_DESCRIPTOR.descriptors.add()
_BAD_UNIT = rate_limit_request("api", "open=x")
_BAD_UNIT.descriptors[0].limit.requests_per_unit = 1

REQUESTS = [
    Case(f"request: {name}", call(1, sent.SerializeToString()), same(expected))
    for name, sent, expected in (
        ("a domain that is not there", rate_limit_request("none", "open=x"), OK),
        ("a descriptor that no rule matches", rate_limit_request("api", "none=x"), OK),
        ("two descriptors", rate_limit_request("api", "open=x", "open=y", hits=3), OK),
        ("a limit of nothing", rate_limit_request("api", "shut=x"), "OK: OVER_LIMIT"),
        ("more hits than the limit", rate_limit_request("api", "two=x", hits=3), "OK: OVER_LIMIT"),
        ("an empty domain", rate_limit_request("", "open=x"), NO_DOMAIN),
        (
            "no descriptor",
            rate_limit_request("api"),
            "INVALID_ARGUMENT: descriptors: is empty; send at least one descriptor",
        ),
        (
            "a descriptor of nothing",
            _EMPTY_DESCRIPTOR,
            (
                "INVALID_ARGUMENT: descriptors[1].entries: is empty; a descriptor has at least one "
                "entry"
            ),
        ),
        (
            "an empty key",
            rate_limit_request("api", "=x"),
            "INVALID_ARGUMENT: descriptors[0].entries[0].key: is empty",
        ),
        (
            "too many descriptors",
            rate_limit_request("api", *["open=x"] * 129),
            "INVALID_ARGUMENT: descriptors: 129 sent, at most 128 allowed",
        ),
        (
            "a long value",
            rate_limit_request("api", f"open={'x' * 16_385}"),
            "INVALID_ARGUMENT: descriptors[0].entries[0].value: longer than 16384 bytes of UTF-8",
        ),
        (
            "a limit without a unit",
            _BAD_UNIT,
            (
                "INVALID_ARGUMENT: descriptors[0].limit.unit: 0 is not a unit; use SECOND, MINUTE, "
                "HOUR, DAY, MONTH or YEAR"
            ),
        ),
    )
]

COMPRESSION = [
    body("compression: flag without an encoding", message(_GZIP, 1), NO_ENCODING),
    body("compression: flag with identity", message(_GZIP, 1), NO_ENCODING, b"identity"),
    body("compression: encoding without the flag", message(GOOD), same(OK), b"gzip"),
    body("compression: gzip", message(_GZIP, 1), compressed(OK), b"gzip"),
    body("compression: deflate", message(_DEFLATE, 1), compressed(OK), b"deflate"),
    body(
        "compression: not what it says",
        message(b"garbage", 1),
        compressed("INTERNAL: Decompression failed due to zlib error"),
        b"gzip",
    ),
    body(
        "compression: a bomb",
        message(gzip.compress(bytes(4 << 20)), 1),
        compressed("RESOURCE_EXHAUSTED: Decompressed message larger than max"),
        b"gzip",
    ),
    body(
        "compression: an unknown encoding",
        message(_GZIP, 1),
        compressed("INTERNAL: Error parsing 'grpc-encoding' metadata"),
        b"snappy",
    ),
    body(
        "compression: an unknown encoding without the flag",
        message(GOOD),
        Expected(
            "INTERNAL: Error parsing 'grpc-encoding' metadata", OK, "A field that nobody reads"
        ),
        b"snappy",
    ),
    body("compression: flag 2", message(GOOD, 2), BAD_FLAG),
    body("compression: flag 255 with gzip", message(_GZIP, 255), BAD_FLAG, b"gzip"),
]

_WHOLE = message(GOOD)
_BYTES = b"".join(data(1, _WHOLE[at : at + 1], 0) for at in range(len(_WHOLE)))
_PRIORITY = frames.END_HEADERS | frames.HAS_PRIORITY
_PADDED = frames.END_STREAM | frames.PADDED

FRAMING = [
    body("messages: none", b"", NOTHING),
    Case("messages: none, and no DATA", headers(1, CALL, END), NOTHING),
    body("messages: a part of the prefix", _WHOLE[:3], CUT),
    body("messages: all but a byte", _WHOLE[:-1], CUT),
    body("messages: two", _WHOLE * 2, same(OK)),
    body("messages: one and a part", _WHOLE + b"\0\0", same(OK)),
    body("messages: one and one too large", _WHOLE + b"\0\xff\xff\xff\xff", same(OK)),
    body("messages: one and one compressed", _WHOLE + message(_GZIP, 1), same(OK)),
    Case(
        "messages: two in two frames", headers(1) + data(1, _WHOLE, 0) + data(1, _WHOLE), same(OK)
    ),
    Case("frames: each byte its own", headers(1) + _BYTES + data(1, b""), same(OK)),
    Case(
        "frames: the end behind the message",
        headers(1) + data(1, _WHOLE, 0) + data(1, b""),
        same(OK),
    ),
    Case(
        "frames: no end",
        headers(1) + data(1, _WHOLE, 0),
        Expected(OK, NO_ANSWER, "A request that does not end"),
    ),
    Case(
        "frames: a priority",
        frames.frame(frames.HEADERS, _PRIORITY, 1, b"\0\0\0\0\x10" + encode_static(CALL))
        + data(1, _WHOLE),
        same(OK),
    ),
    Case(
        "frames: padding",
        headers(1) + frames.frame(frames.DATA, _PADDED, 1, b"\5" + _WHOLE + bytes(5)),
        Expected("RST_STREAM PROTOCOL_ERROR", OK, "Padding"),
    ),
    Case(
        "frames: trailers",
        headers(1) + data(1, _WHOLE, 0) + headers(1, [(b"x", b"y")], END),
        same(OK),
    ),
    Case(
        "frames: a pseudo-header in trailers",
        headers(1) + data(1, _WHOLE, 0) + headers(1, [(b":path", b"y")], END),
        malformed(OK),
    ),
    Case(
        "frames: trailers that do not end the request",
        headers(1) + data(1, _WHOLE, 0) + headers(1, [(b"x", b"y")]),
        malformed("UNAVAILABLE: Failed parsing HTTP/2 *"),
    ),
]

HEALTH = [
    health("health: another service", _health_of("nobody"), same("NOT_FOUND: no such service")),
    health("health: a method that is not there", _health_of(""), NOT_FOUND, b"Nothing"),
    health("health: List", _health_of(""), NOT_FOUND, b"List"),
    health(
        "health: garbage",
        b"\xff\xff",
        Expected(
            "UNKNOWN: Unexpected <class 'google.protobuf.message.DecodeError'>: *",
            "INVALID_ARGUMENT: the request is not a readable HealthCheckRequest",
            "A health check that cannot be read",
        ),
    ),
]

BODIES = [*PROTOBUF, *REQUESTS, *COMPRESSION, *FRAMING, *HEALTH]
