"""The receiving side of a connection's streams: requests that did not come in one piece.

Rules:
- The connection's window is replenished when half of it is used, a stream's too: all that
  arrives is taken at once, and `buffered_request_bytes` bounds what is kept.
- A unary request is the first message of its stream; what follows is read and dropped, as
  grpcio does. None at all is UNIMPLEMENTED, as the gRPC protocol says (grpcio never answers it);
  a part of one is INTERNAL.
- A message that is too large or compressed is refused as soon as its prefix says so, a call that
  no service sees as soon as its head does, and then the rest is not asked for: after the answer
  the stream is reset with NO_ERROR unless it ended in the same read.
- Somebody who does not speak gRPC is answered when the request ended.
"""

from typing import Final

from ratelimitd.transport.h2 import answers, frames
from ratelimitd.transport.h2.answers import Refusal, refuse_grpc
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.failures import PeerError, StreamError, over_bound
from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.headers import Head

PREFIX_BYTES: Final = 5

NO_MESSAGE: Final = refuse_grpc(
    "no_message", answers.UNIMPLEMENTED, "a unary call needs exactly one message"
)
CUT_MESSAGE: Final = refuse_grpc(
    "cut_message", answers.INTERNAL, "the stream ended within the message"
)
BAD_FLAG: Final = refuse_grpc(
    "bad_flag", answers.INTERNAL, "the message's compressed flag is neither 0 nor 1"
)
NO_ENCODING: Final = refuse_grpc(
    "compressed", answers.INTERNAL, "Compression bit set but no encoding configured"
)
COMPRESSED: Final = refuse_grpc(
    "compressed",
    answers.UNIMPLEMENTED,
    "compressed messages are not supported; send identity",
    accept=True,
)


class Stream:
    """A request that is not complete."""

    __slots__ = ("_kept", "_needed", "age", "delta", "head", "received", "refusal", "window")

    def __init__(self, head: Head) -> None:
        """Begin the request that `head` opened."""
        self.head = head
        self.refusal = head.refusal
        # What the peer may still send, and how far the window of the answer was opened.
        self.window = frames.DEFAULT_WINDOW
        self.delta = 0
        # Intervals since it began.
        self.age = 0
        self.received = 0
        self._kept = bytearray()
        self._needed = -1

    @property
    def kept_bytes(self) -> int:
        """Return what the request holds of memory."""
        return len(self._kept)

    def add(self, data: bytes, max_message_bytes: int) -> None:
        """Take more of the body."""
        self.received += len(data)
        if self.refusal is not None:
            return
        kept = self._kept
        if self._needed < 0:
            kept += data[: PREFIX_BYTES - len(kept)]
            if len(kept) < PREFIX_BYTES:
                return
            size = int.from_bytes(kept[1:PREFIX_BYTES], "big")
            self._needed = PREFIX_BYTES + size
            data = data[max(0, len(data) - (self.received - PREFIX_BYTES)) :]
            self.refusal = refused_message(kept[0], size, self.head, max_message_bytes)
            if self.refusal is not None:
                self._kept = bytearray()
                return
        kept += data[: self._needed - len(kept)]

    def finish(self) -> bytes:
        """Return the message of a request that ended, or set `refusal`. Raises StreamError."""
        length = self.head.content_length
        if length is not None and length != self.received:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "malformed_content_length")
        if self.refusal is not None:
            return b""
        kept = self._kept
        if not kept:
            self.refusal = NO_MESSAGE
        elif len(kept) != self._needed:
            self.refusal = CUT_MESSAGE
        return bytes(kept[PREFIX_BYTES:])


def refused_message(flag: int, size: int, head: Head, max_bytes: int) -> Refusal | None:
    """Return why a message with this prefix is not read, or None."""
    if flag > 1:
        return BAD_FLAG
    if flag:
        return COMPRESSED if head.encoding not in {None, b"identity"} else NO_ENCODING
    if size > max_bytes:
        return refuse_grpc(
            "message_bytes",
            answers.RESOURCE_EXHAUSTED,
            f"SERVER: Received message larger than max ({size} vs. {max_bytes})",
        )
    return None


class Intake:
    """The streams whose requests are not complete, and the windows that we grant."""

    __slots__ = ("_bounds", "_half", "_window", "early", "kept_bytes", "streams")

    def __init__(self, bounds: Bounds) -> None:
        """Grant what `bounds` says."""
        self._bounds = bounds
        self._window = bounds.connection_window
        self._half = bounds.connection_window // 2
        self.streams: dict[int, Stream] = {}
        self.kept_bytes = 0
        # Streams to refuse at the end of this read unless they end in it.
        self.early: list[int] = []

    def use(self, length: int) -> bytes:
        """Take DATA out of the connection's window; return the update to send, or nothing.

        Raises PeerError when the peer sent more than it may.
        """
        self._window -= length
        if self._window < 0:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        if self._window > self._half:
            return b""
        increment = self._bounds.connection_window - self._window
        self._window = self._bounds.connection_window
        return frames.window_update(0, increment)

    def open(self, stream_id: int, head: Head) -> Stream:
        """Begin a request that has a body."""
        stream = self.streams[stream_id] = Stream(head)
        if head.refusal is not None and head.refusal.body is None:
            self.early.append(stream_id)
        return stream

    def add(self, stream_id: int, stream: Stream, data: bytes, length: int) -> bytes:
        """Take `data` of a DATA frame of `length`; return the update to send, or nothing.

        Raises StreamError beyond the stream's window and PeerError over the bound.
        """
        stream.window -= length
        if stream.window < 0:
            raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "window_overrun")
        before = stream.kept_bytes
        was_refused = stream.refusal is not None
        stream.add(data, self._bounds.message_bytes)
        self.kept_bytes += stream.kept_bytes - before
        if self.kept_bytes > self._bounds.buffered_request_bytes:
            raise over_bound("buffered_request_bytes")
        if stream.refusal is not None and not was_refused:
            self.early.append(stream_id)
        if stream.window > frames.DEFAULT_WINDOW // 2 or stream_id in self.early:
            return b""
        increment = frames.DEFAULT_WINDOW - stream.window
        stream.window = frames.DEFAULT_WINDOW
        return frames.window_update(stream_id, increment)

    def close(self, stream_id: int) -> Stream | None:
        """Drop a request, and return it."""
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            self.kept_bytes -= stream.kept_bytes
        return stream
