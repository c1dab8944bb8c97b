"""From the fields of a request to its head: is it well formed, and is it a call we serve?

Rules (RFC 9113, 8.2 and 8.3; the gRPC protocol):
- Malformed is a stream error PROTOCOL_ERROR: a name that is not a lower-case token; a value with
  NUL, CR or LF, or with space around it; a pseudo-header that is unknown, repeated or after a
  regular field; no :method, :scheme or :path; a connection-specific field; te other than
  "trailers"; a content-length that is no number or comes twice.
- A call is POST with content-type application/grpc or application/grpc+proto. Anything else is
  answered in HTTP's own words: 405, 415.
- A call without `te: trailers` is reset with INTERNAL_ERROR, an unknown path is UNIMPLEMENTED, an
  unreadable grpc-timeout is INTERNAL and one of zero DEADLINE_EXCEEDED: grpcio's answers.

Callers send the same names in the same order and mostly the same values, so two bounded
memories carry the work: what a sequence of names means, and what the values that do not vary
mean. Both hold nothing of a caller but its constants, and all connections share them.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple

from ratelimitd.transport.h2 import answers
from ratelimitd.transport.h2.answers import Refusal, refuse_grpc, refuse_http, refuse_stream
from ratelimitd.transport.h2.frames import ErrorCode

# Sequences of names, and sets of values, that are remembered. A fleet has a handful.
MAX_SHAPES: Final = 256
MAX_CONSTANTS: Final = 256
# Larger ones are worked out each time, so that a memory has at most some hundred KiB.
MAX_REMEMBERED_BYTES: Final = 512
# Different timeouts that are remembered; some clients send what is left of their own to the us.
MAX_TIMEOUTS: Final = 1_024

METHOD_NOT_FOUND: Final = "Method not found!"


class Head(NamedTuple):
    """What a request's header block says; `method` is the handle, None when it is refused.

    `is_plain` says that nothing but its one message is needed to call the method.
    """

    method: object
    timeout_s: float | None = None
    trace_parent: str | None = None
    refusal: Refusal | None = None
    content_length: int | None = None
    encoding: bytes | None = None
    is_plain: bool = False


class HeadReader:
    """Reads heads for all connections of a server that serves `methods`, path to handle."""

    __slots__ = ("_constants", "_methods", "_shapes")

    def __init__(self, methods: Mapping[bytes, object]) -> None:
        """Serve `methods`."""
        self._methods = methods
        self._shapes: dict[tuple[bytes, ...], _Shape] = {}
        self._constants: dict[tuple[bytes | None, ...], Head] = {}

    def read(self, names: tuple[bytes, ...], values: tuple[bytes, ...]) -> Head:
        """Return the head of a request whose fields are `names` and `values`."""
        shape = self._shapes.get(names)
        if shape is None:
            shape = _to_shape(names)
            if sum(map(len, names)) <= MAX_REMEMBERED_BYTES:
                if len(self._shapes) >= MAX_SHAPES:
                    self._shapes.clear()
                self._shapes[names] = shape
        if shape.malformed is not None:
            return shape.malformed
        # What is left is no printable byte: only the joints, or it needs a closer look.
        odd = b"\n".join(values).translate(None, _PRINTABLE)
        if len(odd) != len(values) - 1 and not all(map(_VALUE.fullmatch, values)):
            return _BAD_VALUE
        constants = shape.pick((*values, None))
        head = self._constants.get(constants)
        if head is None:
            head = self._to_head(constants)
        timeout_at, trace_at = shape.timeout_at, shape.trace_at
        if head.refusal is not None or (timeout_at is None and trace_at is None):
            return head
        return _with_call(head, values, timeout_at, trace_at)

    def _to_head(self, constants: tuple[bytes | None, ...]) -> Head:
        head = _read_constants(constants, self._methods)
        if sum(len(value) for value in constants if value) <= MAX_REMEMBERED_BYTES:
            if len(self._constants) >= MAX_CONSTANTS:
                self._constants.clear()
            self._constants[constants] = head
        return head


def parse_timeout(value: bytes) -> float | None:
    """Return the seconds of a grpc-timeout, None for one that cannot be read.

    The protocol allows eight digits; as grpcio does, more are taken for the long time they are.
    """
    return _parse_timeout(value) if len(value) <= MAX_DIGITS + 1 else None


@lru_cache(maxsize=MAX_TIMEOUTS)
def _parse_timeout(value: bytes) -> float | None:
    unit_s = _UNIT_S.get(value[-1:])
    digits = value[:-1]
    if unit_s is None or not digits.isdigit():
        return None
    return int(digits) * unit_s


def check_trailers(names: tuple[bytes, ...], values: tuple[bytes, ...]) -> str:
    """Return what is wrong with the trailers of a request, or nothing."""
    if any(name[:1] == b":" for name in names):
        return "a pseudo-header in trailers"
    if not all(map(_NAME.fullmatch, names)) or not all(map(_VALUE.fullmatch, values)):
        return "trailers that are not well formed"
    return ""


MAX_DIGITS: Final = 18
_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CONTENT_TYPES: Final = (b"application/grpc", b"application/grpc+proto")
_PRINTABLE: Final = bytes(range(0x21, 0x7F)) + bytes(range(0x80, 0x100))
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE: Final = re.compile(rb"(?:[^\0\r\n \t](?:[^\0\r\n]*[^\0\r\n \t])?)?")
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_REQUIRED: Final = (b":method", b":scheme", b":path")
_FORBIDDEN: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
# The fields whose values decide what a request is; they hardly vary.
_CONSTANT: Final = (
    *(b":method", b":path", b"content-type", b"te", b"content-length", b"grpc-encoding"),
)


def _malformed(reason: str) -> Head:
    return Head(None, refusal=refuse_stream(ErrorCode.PROTOCOL_ERROR, reason))


_BAD_VALUE: Final = _malformed("malformed_value")
_BAD_TIMEOUT: Final = Head(
    None,
    refusal=refuse_grpc("timeout", answers.INTERNAL, "Error parsing 'grpc-timeout' metadata"),
)
_NO_TIME: Final = Head(
    None, refusal=refuse_grpc("no_time", answers.DEADLINE_EXCEEDED, "Deadline Exceeded")
)
_NO_TE: Final = Head(None, refusal=refuse_stream(ErrorCode.INTERNAL_ERROR, "no_te"))
_NOT_FOUND: Final = Head(
    None, refusal=refuse_grpc("unknown_method", answers.UNIMPLEMENTED, METHOD_NOT_FOUND)
)
_NOT_POST: Final = Head(
    None, refusal=refuse_http("not_grpc", 405, "This is a gRPC server: it takes POST.")
)
_HEAD: Final = Head(None, refusal=refuse_http("not_grpc", 405, "", has_body=False))
_NOT_GRPC: Final = Head(
    None,
    refusal=refuse_http("not_grpc", 415, "This is a gRPC server: it takes application/grpc."),
)


class _Shape(NamedTuple):
    """What a sequence of names means: where the fields that we read are."""

    malformed: Head | None
    pick: Callable[[tuple[bytes | None, ...]], tuple[bytes | None, ...]]
    timeout_at: int | None = None
    trace_at: int | None = None


def _with_call(
    head: Head, values: tuple[bytes, ...], timeout_at: int | None, trace_at: int | None
) -> Head:
    """Return `head` with what varies from call to call."""
    timeout_s = None
    if timeout_at is not None:
        timeout_s = parse_timeout(values[timeout_at])
        if timeout_s is None:
            return _BAD_TIMEOUT
        if not timeout_s:
            return _NO_TIME
    trace = None if trace_at is None else values[trace_at].decode("latin-1")
    method, _, _, _, content_length, encoding, is_plain = head
    fields = (method, timeout_s, trace, None, content_length, encoding, is_plain)
    # Half of what the named tuple's own constructor takes; this runs for each call.
    return tuple.__new__(Head, fields)


def _to_shape(names: tuple[bytes, ...]) -> _Shape:
    positions: dict[bytes, int] = {}
    is_regular = False
    problem = ""
    for position, name in enumerate(names):
        if name[:1] == b":":
            if is_regular or name not in _PSEUDO or name in positions:
                problem = problem or "malformed_pseudo_header"
        else:
            is_regular = True
            if not _NAME.fullmatch(name):
                problem = problem or "malformed_name"
            elif name in _FORBIDDEN:
                problem = problem or "connection_specific_field"
            elif name == b"content-length" and name in positions:
                problem = problem or "malformed_content_length"
        positions.setdefault(name, position)
    if any(name not in positions for name in _REQUIRED):
        problem = problem or "missing_pseudo_header"
    # The reader adds a None behind the values, which stands for every field that is not there.
    pick = itemgetter(*(positions.get(name, len(names)) for name in _CONSTANT))
    return _Shape(
        _malformed(problem) if problem else None,
        pick,
        positions.get(b"grpc-timeout"),
        positions.get(b"traceparent"),
    )


def _read_constants(constants: tuple[bytes | None, ...], methods: Mapping[bytes, object]) -> Head:
    method, path, content_type, te, length, encoding = constants
    assert path is not None, "the shape has a :path"
    if not path:
        return _malformed("empty_path")
    if te is not None and te != b"trailers":
        return _malformed("malformed_te")
    content_length = None
    if length is not None:
        if not length.isdigit() or len(length) > MAX_DIGITS:
            return _malformed("malformed_content_length")
        content_length = int(length)
    head = _refused(method, content_type, te)
    if head is None and path in methods:
        is_plain = content_length is None
        return Head(methods[path], None, None, None, content_length, encoding, is_plain)
    head = head or _NOT_FOUND
    return head._replace(content_length=content_length)


def _refused(method: bytes | None, content_type: bytes | None, te: bytes | None) -> Head | None:
    if method != b"POST":
        return _HEAD if method == b"HEAD" else _NOT_POST
    if content_type is None or content_type.partition(b";")[0].rstrip() not in _CONTENT_TYPES:
        return _NOT_GRPC
    return None if te else _NO_TE
