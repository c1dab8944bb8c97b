"""Requests whose heads are unusual, too large, or wrong."""

from tests.differential.case import GOOD, OK, Case, Expected, fields, head, same
from tests.differential.wire import CALL, HIT, call

NOT_FOUND = same("UNIMPLEMENTED: Method not found!")
BAD_TIMEOUT = same("INTERNAL: Error parsing 'grpc-timeout' metadata")
# Who notices first depends on the moment: the service, or grpcio's own clock.
LATE = same(
    "UNAVAILABLE: store queue: the deadline has passed | DEADLINE_EXCEEDED: Deadline Exceeded"
)
RESET = "RST_STREAM PROTOCOL_ERROR"
INTERNAL_RESET = "RST_STREAM INTERNAL_ERROR"
TOO_LARGE = Expected(
    "RESOURCE_EXHAUSTED: *",
    "RESOURCE_EXHAUSTED: received metadata size exceeds the limit",
    "Metadata over 16 KiB",
)


def malformed(grpcio: str) -> Expected:
    """HTTP's rules are broken."""
    return Expected(grpcio, RESET, "A request that HTTP/2 calls malformed")


def not_grpc(grpcio: str, status: int) -> Expected:
    """Somebody speaks HTTP, but not gRPC."""
    return Expected(grpcio, f"HTTP {status}", "Not a gRPC request")


def unread(grpcio: str) -> Expected:
    """A field that decides nothing has a value that it should not have."""
    return Expected(grpcio, OK, "A field that nobody reads")


def unparsed(name: str) -> str:
    """Return grpcio's words for a field with a wrong value."""
    return f"INTERNAL: Error parsing '{name}' metadata"


PATHS = [
    head("path: another method", NOT_FOUND, path=HIT + b"s"),
    head("path: in lower case", NOT_FOUND, path=HIT.lower()),
    head("path: another service", NOT_FOUND, path=b"/no.such.Service/ShouldRateLimit"),
    head("path: no service", NOT_FOUND, path=b"/x"),
    head("path: no slash", NOT_FOUND, path=b"x"),
    head("path: root", NOT_FOUND, path=b"/"),
    head("path: star", NOT_FOUND, path=b"*"),
    head("path: a query", NOT_FOUND, path=HIT + b"?a=1"),
    head("path: a slash more", NOT_FOUND, path=HIT + b"/"),
    head("path: long", NOT_FOUND, path=b"/" + b"x" * 4000),
    head("path: empty", malformed("UNIMPLEMENTED: Method not found!"), path=b""),
    head("path: none", malformed(INTERNAL_RESET), path=None),
    head("path: an admin service", NOT_FOUND, path=b"/ratelimitd.inspect.v1.InspectService/Peek"),
]

DEADLINES = [
    head("timeout: 1 s", same(OK), grpc_timeout=b"1000m"),
    head("timeout: huge", same(OK), grpc_timeout=b"99999999H"),
    head("timeout: leading zeros", same(OK), grpc_timeout=b"00000001H"),
    head("timeout: nine digits", same(OK), grpc_timeout=b"999999999S"),
    head("timeout: zero", same("DEADLINE_EXCEEDED: Deadline Exceeded"), grpc_timeout=b"0n"),
    head("timeout: tiny", LATE, grpc_timeout=b"1n"),
    head("timeout: too short to answer", LATE, grpc_timeout=b"1000u"),
    head("timeout: no unit", BAD_TIMEOUT, grpc_timeout=b"1"),
    head("timeout: no digits", BAD_TIMEOUT, grpc_timeout=b"S"),
    head("timeout: nothing", BAD_TIMEOUT, grpc_timeout=b""),
    head("timeout: unknown unit", BAD_TIMEOUT, grpc_timeout=b"5s"),
    head("timeout: negative", BAD_TIMEOUT, grpc_timeout=b"-5S"),
    head("timeout: a plus", BAD_TIMEOUT, grpc_timeout=b"+5S"),
    head("timeout: a fraction", BAD_TIMEOUT, grpc_timeout=b"1.5S"),
    fields("timeout: twice", same(OK), (b"grpc-timeout", b"5S"), (b"grpc-timeout", b"6S")),
    head(
        "timeout: twenty digits",
        Expected(OK, BAD_TIMEOUT.h2, "A grpc-timeout of over 18 digits, or with a space"),
        grpc_timeout=b"1" * 20 + b"S",
    ),
    head(
        "timeout: a space before the unit",
        Expected(OK, BAD_TIMEOUT.h2, "A grpc-timeout of over 18 digits, or with a space"),
        grpc_timeout=b"5 S",
    ),
]

NOT_GRPC = [
    head("content-type: +proto", same(OK), content_type=b"application/grpc+proto"),
    head("content-type: a parameter", same(OK), content_type=b"application/grpc; charset=utf-8"),
    fields("content-type: another behind it", same(OK), (b"content-type", b"text/html")),
    head("content-type: none", not_grpc(OK, 415), content_type=None),
    head("content-type: empty", not_grpc(OK, 415), content_type=b""),
    head("content-type: JSON", not_grpc(OK, 415), content_type=b"application/json"),
    head("content-type: gRPC with JSON", not_grpc(OK, 415), content_type=b"application/grpc+json"),
    head("content-type: gRPC-Web", not_grpc(OK, 415), content_type=b"application/grpc-web"),
    head("method: GET", not_grpc(INTERNAL_RESET, 405), method=b"GET"),
    head("method: PUT", not_grpc(INTERNAL_RESET, 405), method=b"PUT"),
    head("method: HEAD", not_grpc(unparsed(":method"), 405), method=b"HEAD"),
    head("method: in lower case", not_grpc(unparsed(":method"), 405), method=b"post"),
    head("method: none", malformed(INTERNAL_RESET), method=None),
]

TE = [
    head("te: none", same(INTERNAL_RESET), te=None),
    fields("te: twice", same(OK), (b"te", b"trailers")),
    head("te: gzip", malformed(unparsed("te")), te=b"gzip"),
    head("te: trailers and more", malformed(unparsed("te")), te=b"trailers, gzip"),
    head("te: empty", malformed(unparsed("te")), te=b""),
]

ORIGIN = [
    head("scheme: https", same(OK), scheme=b"https"),
    head("scheme: another", unread(unparsed(":scheme")), scheme=b"ftp"),
    head("scheme: none", malformed(INTERNAL_RESET), scheme=None),
    head("authority: host in its place", same(OK), authority=None, host=b"ratelimit"),
    head("authority: host beside it", same(OK), host=b"other"),
    head("authority: none", unread(INTERNAL_RESET), authority=None),
    Case(
        "authority: twice",
        call(1, GOOD, [(b":authority", b"a"), *CALL]),
        malformed("INTERNAL: Duplicate ':authority' header received"),
    ),
    Case(
        "pseudo-header: unknown",
        call(1, GOOD, [(b":foo", b"x"), *CALL]),
        malformed("INTERNAL: Illegal header key: :foo"),
    ),
    Case("pseudo-header: behind a field", call(1, GOOD, [*CALL[1:], CALL[0]]), malformed(OK)),
]

FIELDS = [
    *(
        fields(f"name: {name!r}", malformed(f"INTERNAL: {words}"), (name, b"x"))
        for name, words in (
            (b"Upper", "Illegal header key: Upper"),
            (b"a b", "Illegal header key: a b"),
            (b"a:b", "Illegal header key: a:b"),
            (b"a\0b", "Illegal header key: a\0b"),
            (b"", "Metadata keys cannot be zero length"),
        )
    ),
    *(
        fields(f"name: {name!r}", malformed(OK), (name, b"x"))
        for name in (
            *(b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"),
        )
    ),
    *(
        fields(f"value: {value!r}", same(OK), (b"x-value", value))
        for value in (b"", b"\x80\xff", b"\x7f", b"a\x01b")
    ),
    *(
        fields(f"value: {value!r}", malformed(OK), (b"x-value", value))
        for value in (b"a\0b", b"a\nb", b"a\rb", b" a", b"a ", b"\t")
    ),
    *(
        fields(f"binary: {value!r}", same(OK), (b"x-bin", value))
        for value in (b"", b"AAEC", b"AAE", b"AAEC==")
    ),
    *(
        fields(
            f"binary: {value!r}",
            unread("INTERNAL: Error parsing 'x-bin' metadata: illegal base64 encoding"),
            (b"x-bin", value),
        )
        for value in (b"A", b"!!!!", b"AAEC,AAEC")
    ),
    fields("binary: not encoded", malformed(OK), (b"x-bin", b"\0\1\2")),
    fields("field: grpc-status", same(OK), (b"grpc-status", b"5")),
    fields("field: grpc-accept-encoding", same(OK), (b"grpc-accept-encoding", b"identity, gzip")),
    fields("field: unknown of gRPC's", same(OK), (b"grpc-foo", b"x")),
    fields(
        "field: grpc-previous-rpc-attempts",
        unread(unparsed("grpc-previous-rpc-attempts")),
        (b"grpc-previous-rpc-attempts", b"x"),
    ),
    fields("field: cookie twice", same(OK), (b"cookie", b"a"), (b"cookie", b"b")),
    head("content-length: right", same(OK), content_length=b"%d" % (5 + len(GOOD))),
    head("content-length: too small", malformed(OK), content_length=b"3"),
    head("content-length: too large", malformed(OK), content_length=b"3000"),
    head("content-length: no number", malformed(OK), content_length=b"+5"),
]

# All fields together count as RFC 9113 says: names, values, and 32 bytes for each.
_USED = sum(len(name) + len(value) + 32 for name, value in CALL)
_ROOM = 16 * 1024 - _USED - len("x-large") - 32


def _many(count: int, size: int) -> list[tuple[bytes, bytes]]:
    return [(b"x-%05d" % index, b"v" * size) for index in range(count)]


METADATA = [
    fields("metadata: 8 KiB", same(OK), (b"x-large", b"v" * 8192)),
    fields("metadata: below the bound", same(OK), (b"x-large", b"v" * (_ROOM - 1))),
    fields("metadata: the bound", TOO_LARGE._replace(h2=OK), (b"x-large", b"v" * _ROOM)),
    fields("metadata: one byte more", TOO_LARGE, (b"x-large", b"v" * (_ROOM + 1))),
    fields("metadata: 20 KB", TOO_LARGE, (b"x-large", b"v" * 20_000)),
    fields("metadata: many fields", same(OK), *_many(300, 10)),
    fields("metadata: too many fields", TOO_LARGE, *_many(350, 10)),
    fields(
        "metadata: 70 KB",
        Expected("RESOURCE_EXHAUSTED: *", "GOAWAY ENHANCE_YOUR_CALM", "Metadata over 32 KiB"),
        (b"x-large", b"v" * 70_000),
    ),
]

HEADS = [*PATHS, *DEADLINES, *NOT_GRPC, *TE, *ORIGIN, *FIELDS, *METADATA]
