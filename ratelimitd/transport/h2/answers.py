"""What is answered: response and trailer blocks, gRPC statuses, refusals.

Rules:
- Blocks never touch the peer's dynamic table; the ones of a good answer are constants.
- `grpc-message` is percent-encoded UTF-8. A message over MAX_MESSAGE_BYTES is cut and details
  over MAX_DETAILS_BYTES are left out, so that a block always fits into one frame.
"""

from base64 import b64encode
from functools import lru_cache
from typing import Final, NamedTuple

from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.hpack import encode_static

MAX_MESSAGE_BYTES: Final = 2048
MAX_DETAILS_BYTES: Final = 8192

# The statuses that the transport itself answers with.
DEADLINE_EXCEEDED: Final = 4
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13

RESPONSE_BLOCK: Final = encode_static(
    ((b":status", b"200"), (b"content-type", b"application/grpc"))
)
OK_TRAILERS: Final = encode_static(((b"grpc-status", b"0"),))


class Refusal(NamedTuple):
    """The answer to a request that no service sees; `reason` is its name in the counters.

    With a `reset` the stream is reset. Otherwise `block` is answered, and ends the stream when
    `body` is None.
    """

    reason: str
    reset: ErrorCode | None = None
    block: bytes = b""
    body: bytes | None = None


def status_block(status: int, message: str, details: bytes = b"", accept: bool = False) -> bytes:  # noqa: FBT001, FBT002
    """Return the only block of an answer that is an error; `accept` names our encodings."""
    if details or len(message) > MAX_MESSAGE_BYTES:
        return _status_block(status, message[:MAX_MESSAGE_BYTES], details, accept)
    return _cached_status_block(status, message, details, accept)


def refuse_stream(code: ErrorCode, reason: str) -> Refusal:
    """Return a refusal by RST_STREAM."""
    return Refusal(reason, reset=code)


def refuse_grpc(reason: str, status: int, message: str, *, accept: bool = False) -> Refusal:
    """Return a refusal by a gRPC status."""
    return Refusal(reason, block=status_block(status, message, b"", accept))


def refuse_http(reason: str, status: int, text: str, *, has_body: bool = True) -> Refusal:
    """Return a refusal to somebody who does not speak gRPC."""
    body = text.encode() + b"\n"
    fields = [(b":status", b"%d" % status), (b"content-type", b"text/plain; charset=utf-8")]
    if status == 405:  # noqa: PLR2004 - Method Not Allowed
        fields.append((b"allow", b"POST"))
    fields.append((b"content-length", b"%d" % len(body)))
    return Refusal(reason, block=encode_static(fields), body=body if has_body else None)


def percent_encode(message: str) -> bytes:
    """Return `message` as grpc-message carries it: printable ASCII without %."""
    raw = message.encode("utf-8", "replace")
    if raw.isascii() and message.isprintable() and b"%" not in raw:
        return raw
    return b"".join(_PERCENT[byte] for byte in raw)


_PERCENT: Final = tuple(
    bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte  # noqa: PLR2004
    for byte in range(256)
)


def _status_block(status: int, message: str, details: bytes, accept: bool) -> bytes:  # noqa: FBT001
    fields = [(b"grpc-status", b"%d" % status)]
    if accept:
        fields.append((b"grpc-accept-encoding", b"identity"))
    if message:
        # A cut must not leave half an escape.
        text = percent_encode(message)
        cut = text[:MAX_MESSAGE_BYTES]
        if len(text) > len(cut) and b"%" in cut[-2:]:
            cut = cut[: cut.rindex(b"%")]
        fields.append((b"grpc-message", cut))
    if details and len(details) <= MAX_DETAILS_BYTES:
        fields.append((b"grpc-status-details-bin", b64encode(details).rstrip(b"=")))
    return RESPONSE_BLOCK + encode_static(fields)


# A caller that is refused is mostly refused with the same words.
_cached_status_block = lru_cache(maxsize=256)(_status_block)
