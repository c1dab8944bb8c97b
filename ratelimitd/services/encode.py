"""Verdicts to the bytes of Envoy's RateLimitResponse.

Written by hand because it runs for each request: building the message costs several times as much.
The fields are few and their numbers are Envoy's contract; what is free in shape, the metadata, is
left to protobuf. The wire format is protobuf's (protobuf.dev/programming-guides/encoding).
"""

from collections.abc import Sequence
from functools import lru_cache

from google.protobuf import struct_pb2

from ratelimitd.decisions.verdict import Code, Verdict
from ratelimitd.policy.model import Limit, Unit

UINT32_MAX = 4_294_967_295

# Field numbers of RateLimitResponse and its parts, shifted, with the wire type.
_OVERALL_CODE = b"\x08"
_STATUS = b"\x12"
_HEADER = b"\x1a"
_RAW_BODY = b"\x2a"
_METADATA = b"\x32"
_STATUS_CODE = b"\x08"
_STATUS_LIMIT = b"\x12"
_STATUS_REMAINING = b"\x18"
_STATUS_RESET = b"\x22"
_FIRST_NUMBER = b"\x08"
_SECOND_NUMBER = b"\x10"
_FIRST_TEXT = b"\x0a"
_SECOND_TEXT = b"\x12"
_THIRD_TEXT = b"\x1a"

_ONE_BYTE = tuple(bytes((number,)) for number in range(128))
# Two groups of seven bits that more follow, by their 14 bits: an amount has up to five groups.
_TWO_GROUPS = tuple(bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(1 << 14))
_CODES = {code: _STATUS_CODE + _ONE_BYTE[code] for code in Code}
_OVERALL = {code: _OVERALL_CODE + _ONE_BYTE[code] for code in Code}
OK_RESPONSE = _OVERALL[Code.OK]

# Rules with a name and an amount of their own; a larger policy encodes some of them anew.
MAX_ENCODED_LIMITS = 16_384
# All seconds of an hour: the windows that most limits have.
MAX_ENCODED_RESETS = 4_096


def encode_response(verdict: Verdict) -> bytes:
    """Return the RateLimitResponse of a verdict; amounts beyond uint32 saturate."""
    statuses = [
        encode_status(status_head(code, limit), remaining, reset_s)
        for code, limit, remaining, reset_s, _, _ in verdict.statuses
    ]
    parts = [_OVERALL[verdict.code], join_statuses(statuses)]
    for name, value in verdict.headers:
        encoded = _text(_FIRST_TEXT, name) + _text(_SECOND_TEXT, value)
        parts += (_HEADER, _varint(len(encoded)), encoded)
    if verdict.raw_body:
        parts += (_RAW_BODY, _varint(len(verdict.raw_body)), verdict.raw_body)
    if verdict.metadata is not None:
        struct = struct_pb2.Struct()
        struct.update(verdict.metadata)
        encoded = struct.SerializeToString()
        parts += (_METADATA, _varint(len(encoded)), encoded)
    return b"".join(parts)


def join_statuses(statuses: Sequence[bytes]) -> bytes:
    """Return encoded statuses as the response holds them."""
    if len(statuses) == 1:
        (status,) = statuses
        return _STATUS + _varint(len(status)) + status
    return b"".join([_STATUS + _varint(len(status)) + status for status in statuses])


def status_head(code: Code, limit: Limit | None) -> bytes:
    """Return what does not vary between the statuses of a limit."""
    if limit is None:
        return _CODES[code]
    return _CODES[code] + _limit(limit.requests_per_unit, limit.unit, limit.name)


def encode_status(head: bytes, remaining: int, reset_s: int | None) -> bytes:
    """Return the status that begins with `head`."""
    if remaining:
        head += _STATUS_REMAINING + _varint(min(remaining, UINT32_MAX))
    return head if reset_s is None else head + _reset(reset_s)


@lru_cache(maxsize=MAX_ENCODED_RESETS)
def _reset(reset_s: int) -> bytes:
    seconds = _FIRST_NUMBER + _varint(reset_s)
    return _STATUS_RESET + _ONE_BYTE[len(seconds)] + seconds


@lru_cache(maxsize=MAX_ENCODED_LIMITS)
def _limit(requests_per_unit: int, unit: Unit, name: str) -> bytes:
    encoded = b""
    if requests_per_unit:
        encoded += _FIRST_NUMBER + _varint(min(requests_per_unit, UINT32_MAX))
    if unit:
        encoded += _SECOND_NUMBER + _ONE_BYTE[unit]
    if name:
        encoded += _text(_THIRD_TEXT, name)
    return _STATUS_LIMIT + _varint(len(encoded)) + encoded


def _text(field: bytes, text: str) -> bytes:
    encoded = text.encode()
    return field + _varint(len(encoded)) + encoded


def _varint(number: int) -> bytes:
    """Return a non-negative integer in groups of seven bits, the lowest first."""
    if number < 0x80:  # noqa: PLR2004 - one group
        return _ONE_BYTE[number]
    if number < 0x4000:  # noqa: PLR2004 - two groups
        return bytes((number & 0x7F | 0x80, number >> 7))
    return _TWO_GROUPS[number & 0x3FFF] + _varint(number >> 14)
