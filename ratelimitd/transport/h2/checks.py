"""What a frame must be by its own format (RFC 9113, 6); each check raises PeerError."""

from typing import Final

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.failures import PeerError
from ratelimitd.transport.h2.frames import STREAM_MASK, ErrorCode

SETTING_LENGTH: Final = 6


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return the settings of a frame, in order, if each may have its value (6.5.2)."""
    if len(payload) % SETTING_LENGTH:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
    settings = frames.parse_settings(payload)
    for name, value in settings:
        _check_setting(name, value)
    return settings


def check_length(payload: bytes, length: int) -> None:
    """Refuse a frame whose payload is not `length` bytes."""
    if len(payload) != length:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {len(payload)} bytes")


def check_priority(stream_id: int, payload: bytes) -> None:
    """Refuse a priority that refers to its own stream."""
    if not stream_id:
        raise protocol_error("PRIORITY of no stream")
    if frames.to_u32(payload) & STREAM_MASK == stream_id:
        raise protocol_error("a stream that depends on itself")


def without_padding(payload: bytes) -> bytes:
    """Return the payload of a padded frame without its padding."""
    if not payload:
        raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its padding")
    padding = payload[0]
    if padding >= len(payload):
        raise protocol_error("padding longer than its frame")
    return payload[1 : len(payload) - padding]


def protocol_error(reason: str) -> PeerError:
    """Return a connection error PROTOCOL_ERROR."""
    return PeerError(ErrorCode.PROTOCOL_ERROR, reason)


def _check_setting(name: int, value: int) -> None:
    if name == frames.ENABLE_PUSH and value > 1:
        raise protocol_error("ENABLE_PUSH is neither 0 nor 1")
    if name == frames.INITIAL_WINDOW_SIZE and value > frames.MAX_WINDOW:
        raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE over 2 ** 31 - 1")
    if name == frames.MAX_FRAME_SIZE and not (
        frames.DEFAULT_FRAME_SIZE <= value <= frames.LARGEST_FRAME_SIZE
    ):
        raise protocol_error("MAX_FRAME_SIZE out of its range")
