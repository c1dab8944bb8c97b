"""The sending side of a connection: answers, the peer's windows, and what waits for them.

Rules:
- An answer is response HEADERS, one message, trailers. The common one, which the windows have
  room for, is three constants around a message; otherwise HEADERS go at once and DATA as far as
  the windows allow, and the rest waits in the order of the answers.
- A stream's window is kept as its difference to the peer's initial window, so that a change of
  that setting moves all streams at once (RFC 9113, 6.9.2), below zero too.
- What waits is bounded in bytes: a peer that never opens its window must not hold memory.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.answers import OK_TRAILERS, RESPONSE_BLOCK
from ratelimitd.transport.h2.failures import PeerError, StreamError, over_bound
from ratelimitd.transport.h2.frames import (
    DATA,
    DEFAULT_FRAME_SIZE,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    ErrorCode,
)

MESSAGE_PREFIX: Final = 5

# Header of HEADERS with its stream, the block, header of DATA, the message's prefix.
_OPENING: Final = Struct(f">5sI{len(RESPONSE_BLOCK)}sHBBBIBI")
_OPENING_HEAD: Final = frames.frame(HEADERS, END_HEADERS, 0, RESPONSE_BLOCK)[:5]
_CLOSING: Final = Struct(f">5sI{len(OK_TRAILERS)}s")
_CLOSING_HEAD: Final = frames.frame(HEADERS, END_HEADERS | END_STREAM, 0, OK_TRAILERS)[:5]
_PREFIX: Final = Struct(">BI")


class Outbox:
    """What a connection sends."""

    __slots__ = (
        "_chunks",
        "_initial",
        "_max_waiting",
        "_ready",
        "_window",
        "awaiting",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, max_waiting_bytes: int) -> None:
        """Let answers of at most `max_waiting_bytes` wait."""
        self._chunks: list[bytes] = []
        self._window = frames.DEFAULT_WINDOW
        self._initial = frames.DEFAULT_WINDOW
        self._max_waiting = max_waiting_bytes
        # Calls that the service has: stream to the difference of its window.
        self.awaiting: dict[int, int] = {}
        # Answers that the windows have no room for, oldest first; `ready` are those that wait for
        # the connection's window alone, so that opening it never searches.
        self.waiting: dict[int, _Waiting] = {}
        self._ready: dict[int, _Waiting] = {}
        self.waiting_bytes = 0

    def answer_all(self, answers: Sequence[tuple[int, bytes]]) -> int:
        """Send good answers; return for how many nobody waits. Raises PeerError over the bound."""
        awaiting, chunks = self.awaiting, self._chunks
        opening, closing = _OPENING.pack, _CLOSING.pack
        dropped = 0
        for stream_id, message in answers:
            delta = awaiting.pop(stream_id, None)
            if delta is None:
                dropped += 1
                continue
            length = len(message)
            size = length + MESSAGE_PREFIX
            if (
                size <= self._window
                and size <= self._initial + delta
                and size <= DEFAULT_FRAME_SIZE
            ):
                self._window -= size
                chunks += (
                    opening(
                        _OPENING_HEAD,
                        stream_id,
                        RESPONSE_BLOCK,
                        size >> 8,
                        size & 0xFF,
                        DATA,
                        0,
                        stream_id,
                        0,
                        length,
                    ),
                    message,
                    closing(_CLOSING_HEAD, stream_id, OK_TRAILERS),
                )
            else:
                body = _PREFIX.pack(0, length) + message
                self.send(stream_id, delta, RESPONSE_BLOCK, body, OK_TRAILERS)
        return dropped

    def send_only(self, stream_id: int, block: bytes) -> None:
        """Send an answer that is one block."""
        self._chunks.append(frames.frame(HEADERS, END_HEADERS | END_STREAM, stream_id, block))

    def send(
        self, stream_id: int, delta: int, block: bytes, body: bytes, trailers: bytes = b""
    ) -> None:
        """Send a block, then `body` as the windows allow; without `trailers` it ends the stream.

        Raises PeerError when too much waits.
        """
        self._chunks.append(frames.frame(HEADERS, END_HEADERS, stream_id, block))
        answer = _Waiting(delta, body, trailers)
        self.waiting[stream_id] = answer
        self.waiting_bytes += len(body)
        self._pump(stream_id, answer)
        if self.waiting_bytes > self._max_waiting:
            raise over_bound("buffered_answer_bytes")

    def write(self, chunk: bytes) -> None:
        """Send frames that no window restrains."""
        self._chunks.append(chunk)

    def take(self) -> bytes:
        """Return what is to be written, once."""
        chunks = self._chunks
        if not chunks:
            return b""
        out = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return out

    def open_window(self, increment: int) -> None:
        """Let more pass on the connection. Raises PeerError beyond the largest window."""
        self._window += increment
        if self._window > frames.MAX_WINDOW:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a connection window over 2 ** 31 - 1")
        self._pump_ready()

    def open_stream_window(self, stream_id: int, increment: int) -> None:
        """Let more pass on a stream whose answer is being made or waits; others have no need.

        Raises StreamError beyond the largest window.
        """
        answer = self.waiting.get(stream_id)
        if answer is not None:
            answer.delta = self.raised(answer.delta, increment)
            self._pump(stream_id, answer)
        elif stream_id in self.awaiting:
            self.awaiting[stream_id] = self.raised(self.awaiting[stream_id], increment)

    def raised(self, delta: int, increment: int) -> int:
        """Return `delta` and `increment`. Raises StreamError beyond the largest window."""
        if self._initial + delta + increment > frames.MAX_WINDOW:
            raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "window_overflow")
        return delta + increment

    def set_initial_window(self, size: int, largest_delta: int) -> None:
        """Take the peer's setting; `largest_delta` is that of streams not answered yet.

        What waits is sent by `use_initial_window`, behind the acknowledgement. Raises PeerError
        if it lifts a stream beyond the largest window.
        """
        deltas = [largest_delta, *self.awaiting.values()]
        deltas.extend(answer.delta for answer in self.waiting.values())
        if size + max(deltas) > frames.MAX_WINDOW:
            raise PeerError(ErrorCode.FLOW_CONTROL_ERROR, "a stream window over 2 ** 31 - 1")
        self._initial = size

    def use_initial_window(self) -> None:
        """Send what the peer's new setting has room for."""
        for stream_id, answer in list(self.waiting.items()):
            self._pump(stream_id, answer)

    def forget(self, stream_id: int) -> None:
        """Drop what would be sent on a stream."""
        answer = self.waiting.pop(stream_id, None)
        if answer is not None:
            self._ready.pop(stream_id, None)
            self.waiting_bytes -= len(answer.body)
        self.awaiting.pop(stream_id, None)

    def grown_old(self, limit: int) -> list[int]:
        """Count an interval; return the streams whose answers waited for more than `limit`."""
        for answer in self.waiting.values():
            answer.age += 1
        return [each for each, answer in self.waiting.items() if answer.age > limit]

    def drop_all(self) -> None:
        """Forget every stream: the connection ends."""
        self.awaiting = {}
        self.waiting.clear()
        self._ready.clear()
        self.waiting_bytes = 0

    def _pump_ready(self) -> None:
        while self._window > 0 and self._ready:
            stream_id = next(iter(self._ready))
            self._pump(stream_id, self._ready[stream_id])

    def _pump(self, stream_id: int, answer: "_Waiting") -> None:
        """Send as much of `answer` as the windows allow, and the trailers when all is sent."""
        body = answer.body
        at = answer.at
        room = max(0, min(self._window, self._initial + answer.delta, len(body) - at))
        end = at + room
        while at < end:
            part = body[at : min(at + DEFAULT_FRAME_SIZE, end)]
            at += len(part)
            is_last = at == len(body) and not answer.trailers
            self._chunks.append(frames.frame(DATA, END_STREAM if is_last else 0, stream_id, part))
        self._window -= room
        answer.delta -= room
        answer.at = at
        if at == len(body):
            self.forget(stream_id)
            if answer.trailers:
                self.send_only(stream_id, answer.trailers)
        elif self._initial + answer.delta > 0:
            self._ready[stream_id] = answer
        else:
            self._ready.pop(stream_id, None)


class _Waiting:
    """An answer of which `at` bytes are sent."""

    __slots__ = ("age", "at", "body", "delta", "trailers")

    def __init__(self, delta: int, body: bytes, trailers: bytes) -> None:
        assert body, "an answer without a body never waits"
        self.age = 0
        self.at = 0
        self.delta = delta
        self.body = body
        self.trailers = trailers
