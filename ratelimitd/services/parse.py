"""Bytes to messages, for every transport: one bound, and one way to say what is wrong."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from ratelimitd.errors import InvalidRequest

# What a service may be asked to read. A gateway's request has some hundred bytes.
MAX_REQUEST_BYTES = 64 * 1024

Q = TypeVar("Q", bound=Message)


def parse_request(kind: type[Q], body: bytes, max_bytes: int = MAX_REQUEST_BYTES) -> Q:
    """Return the message of a request; InvalidRequest if it is none, or too large."""
    if len(body) > max_bytes:
        raise InvalidRequest(f"the request has {len(body)} bytes, at most {max_bytes} are accepted")
    return decode(kind, body)


def decode(kind: type[Q], body: bytes) -> Q:
    """Return the message of a request whose size somebody else bounds."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise InvalidRequest(f"the request is not a readable {kind.DESCRIPTOR.name}") from error
