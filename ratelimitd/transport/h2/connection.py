"""One HTTP/2 connection of a gRPC server, without I/O and without a clock: bytes in, calls out.

Rules:
- `receive` never raises. A connection error becomes GOAWAY in the output and `is_closing`, and
  the calls of that read are not handed out: GOAWAY names the last stream of the reads before, so
  the peer may send them again elsewhere.
- A call is (stream id, head, message): `head.method` is the handle, with `timeout_s` and
  `trace_parent`. Each is answered once by `answer` or `fail`, in any order, at any time; an
  answer that nobody waits for any more is dropped and counted.
- Nobody is told of a call that the peer takes back: `is_awaited` says so to whoever asks.
- The common request, HEADERS and DATA in one read, with a block that is remembered or decodes to
  a plain call, never becomes a Stream: a few comparisons and one tuple.
- A block is remembered by its bytes if decoding it left the dynamic table alone, until the table
  changes.
- The shell writes `take_output` after each `receive`, answer or drain; once it is written and
  `is_closing`, it closes. It calls `new_interval` once a second, or after each second in which
  something arrived.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.answers import status_block
from ratelimitd.transport.h2.dispatch import Dispatch
from ratelimitd.transport.h2.failures import PeerError, over_bound
from ratelimitd.transport.h2.frames import (
    DATA,
    DEFAULT_FRAME_SIZE,
    END_HEADERS,
    END_STREAM,
    HEADER_LENGTH,
    HEADERS,
    PREFACE,
    STREAM_MASK,
    ErrorCode,
)
from ratelimitd.transport.h2.headers import Head
from ratelimitd.transport.h2.profile import Profile

Call = tuple[int, Head, bytes]

# The header of a DATA frame and the prefix of a message.
_DATA_HEAD: Final = Struct(">HBBBIBI")
_DATA_HEAD_LENGTH: Final = 14
_PREFIX: Final = 5


class Connection(Dispatch):
    """The server's side of one connection; a few hundred bytes while it is quiet."""

    __slots__ = ("_has_preface", "_is_stalled", "_stalled_intervals", "_tail")

    def __init__(self, profile: Profile) -> None:
        """Greet the peer; the greeting is the first output."""
        super().__init__(profile)
        self._has_preface = False
        # The beginning of a frame whose end has not come.
        self._tail = b""
        self._is_stalled = True
        self._stalled_intervals = 0

    def receive(self, data: bytes) -> list[Call]:
        """Take what was read; return the calls that it completed."""
        if self.is_closing:
            return []
        if self._tail:
            data = self._tail + data
        calls: list[Call] = []
        last_before = self._last_id
        try:
            position = self._read(data, calls)
            if self._intake.early:
                self._refuse_early()
        except PeerError as error:
            # What this read brought was not begun: the peer may repeat it.
            self._last_id = last_before
            self._end(error)
            return []
        self._tail = data[position:]
        if position:
            self._is_stalled = False
        self._meter.calls += len(calls)
        self._counters.calls += len(calls)
        return calls

    def answer(self, stream_id: int, message: bytes) -> None:
        """Answer a call with its message."""
        self.answer_all([(stream_id, message)])

    def answer_all(self, answers: Sequence[tuple[int, bytes]]) -> int:
        """Answer calls with their messages, in order; return for how many nobody waits."""
        try:
            dropped = self._out.answer_all(answers)
        except PeerError as error:
            self._end(error)
            return 0
        self._counters.answers_dropped += dropped
        return dropped

    def fail(self, stream_id: int, status: int, message: str, details: bytes = b"") -> bool:
        """Answer a call with a gRPC status that is not OK; return whether somebody waits."""
        if self._out.awaiting.pop(stream_id, None) is None:
            self._counters.answers_dropped += 1
            return False
        self._out.send_only(stream_id, status_block(status, message, details))
        return True

    def is_awaited(self, stream_id: int) -> bool:
        """Return whether somebody still waits for the answer to a call."""
        return stream_id in self._out.awaiting

    def lose(self) -> None:
        """Note that the peer is gone: nobody waits for any answer."""
        self._tail = b""
        self._drop_all()

    def take_output(self) -> bytes:
        """Return what is to be written now."""
        return self._out.take()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being received, served or answered."""
        return not (self._out.awaiting or self._out.waiting or self._intake.streams)

    @property
    def is_drained(self) -> bool:
        """Whether the connection drains, and nothing more is to be done on it."""
        return self._is_final and self.is_idle

    @property
    def has_begun(self) -> bool:
        """Whether a handshake, a frame, a block, a request or an answer has begun and not ended."""
        return bool(
            self._tail
            or self._block_stream
            or self._intake.streams
            or self._out.waiting
            or not self._is_greeted
        )

    @property
    def calls_in_flight(self) -> int:
        """Return how many calls the service has."""
        return len(self._out.awaiting)

    @property
    def buffered_bytes(self) -> int:
        """Return what is kept of requests and answers that are not complete."""
        return (
            len(self._tail) + len(self._block) + self._intake.kept_bytes + self._out.waiting_bytes
        )

    def new_interval(self) -> None:
        """Begin an interval: forget the counts, and end what takes too long."""
        if self.is_closing:
            return
        self._meter.reset()
        try:
            self._check_progress()
            self._age_streams()
        except PeerError as error:
            self._end(error)

    def _check_progress(self) -> None:
        waits = self._tail or self._block_stream or not self._is_greeted
        if not waits or not self._is_stalled:
            self._stalled_intervals = 0
        self._is_stalled = True
        if waits:
            self._stalled_intervals += 1
            if self._stalled_intervals > self._bounds.header_intervals:
                raise over_bound("header_intervals")

    def _read(self, data: bytes, calls: list[Call]) -> int:
        """Read all frames that are complete; return where they end."""
        if self._has_preface:
            return self._read_frames(data, 0, calls)
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise PeerError(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
        if len(data) < len(PREFACE):
            return 0
        self._has_preface = True
        return self._read_frames(data, len(PREFACE), calls)

    def _read_frames(self, data: bytes, position: int, calls: list[Call]) -> int:
        end = len(data)
        unpack = frames.HEADER.unpack_from
        unpack_data = _DATA_HEAD.unpack_from
        blocks = self._blocks
        awaiting = self._out.awaiting
        room = self._room()
        largest = self._profile.largest_plain
        used = 0
        while end - position >= HEADER_LENGTH:
            high, low, kind, flags, stream_id = unpack(data, position)
            start = position + HEADER_LENGTH
            stop = start + (high << 8 | low)
            if stop - start > DEFAULT_FRAME_SIZE:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "a frame over 16384 bytes")
            if stop > end:
                break
            position = stop
            # Behind the largest stream none is expected, and the reserved bit is not part of one.
            if (
                kind == HEADERS
                and flags == END_HEADERS
                and stream_id == self._expected <= STREAM_MASK
            ):
                block = data[start:stop]
                head = blocks.get(block)
                if head is None:
                    head = self._read_head(block)
                else:
                    self._counters.block_hits += 1
                self._last_id = stream_id
                self._expected = stream_id + 2
                if head.is_plain and end - stop >= _DATA_HEAD_LENGTH and len(awaiting) < room:
                    high, low, kind, flags, of_stream, flag, size = unpack_data(data, stop)
                    length = high << 8 | low
                    body = stop + _DATA_HEAD_LENGTH
                    if (
                        kind == DATA
                        and flags == END_STREAM
                        and of_stream == stream_id
                        and not flag
                        and length == size + _PREFIX
                        and length <= largest
                        and body + size <= end
                    ):
                        position = body + size
                        used += length
                        awaiting[stream_id] = 0
                        calls.append((stream_id, head, data[body:position]))
                        continue
                self._open(stream_id, head, is_ended=False)
            else:
                self._on_frame(kind, flags, stream_id, data[start:stop], calls)
            room = self._room()
        if used:
            self._use(used)
        return position
