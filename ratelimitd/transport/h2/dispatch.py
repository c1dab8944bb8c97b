"""The frames of a connection beside the common request: what each must be, and what it does.

Rules (RFC 9113, 5 and 6), where it leaves a choice:
- HEADERS on a stream that ended, more DATA than the connection's window, and every frame that
  breaks its own format end the connection; DATA on a stream that ended resets that stream.
- A stream id below the highest that was never used is PROTOCOL_ERROR, one that was used
  STREAM_CLOSED; the last REMEMBERED_GAPS gaps are known.
- Streams above the id of our last GOAWAY are ignored, but decoded and counted against the window.
- Of a setting that stands twice in one frame the last one counts; each must be valid.
- PRIORITY and the priority in HEADERS are checked and ignored.
"""

from typing import Final

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.answers import Refusal
from ratelimitd.transport.h2.checks import (
    check_length,
    check_priority,
    protocol_error,
    read_settings,
    without_padding,
)
from ratelimitd.transport.h2.failures import PeerError, StreamError, over_bound
from ratelimitd.transport.h2.frames import STREAM_MASK, ErrorCode
from ratelimitd.transport.h2.headers import Head, check_trailers
from ratelimitd.transport.h2.hpack import HeaderListTooLarge
from ratelimitd.transport.h2.intake import Stream
from ratelimitd.transport.h2.lifecycle import DRAIN_PING, NEVER, Lifecycle
from ratelimitd.transport.h2.meter import Kind

REMEMBERED_GAPS: Final = 16

_PRIORITY_LENGTH: Final = 5
_U32_LENGTH: Final = 4
_PING_LENGTH: Final = 8
_GOAWAY_LENGTH: Final = 8

_Calls = list[tuple[int, Head, bytes]]


class Dispatch(Lifecycle):
    """What each frame does."""

    __slots__ = ()

    def _on_frame(  # noqa: C901, PLR0912 - one branch for each type of frame
        self, kind: int, flags: int, stream_id: int, payload: bytes, calls: _Calls
    ) -> None:
        """Take one frame of at most the advertised size. Raises PeerError."""
        stream_id &= STREAM_MASK
        if self._block_stream and (kind != frames.CONTINUATION or stream_id != self._block_stream):
            raise protocol_error("a frame within a header block")
        if not self._is_greeted and (kind != frames.SETTINGS or flags & frames.ACK):
            raise protocol_error("the first frame is not SETTINGS")
        try:
            match kind:
                case frames.DATA:
                    self._on_data(flags, stream_id, payload, calls)
                case frames.HEADERS:
                    self._on_headers(flags, stream_id, payload, calls)
                case frames.CONTINUATION:
                    self._on_continuation(flags, payload, calls)
                case frames.WINDOW_UPDATE:
                    self._on_window_update(stream_id, payload)
                case frames.RST_STREAM:
                    self._on_rst_stream(stream_id, payload)
                case frames.PING:
                    self._on_ping(flags, stream_id, payload)
                case frames.SETTINGS:
                    self._on_settings(flags, stream_id, payload)
                case frames.PRIORITY:
                    self._meter.spend(Kind.OTHER_FRAMES)
                    check_length(payload, _PRIORITY_LENGTH)
                    check_priority(stream_id, payload)
                case frames.GOAWAY:
                    self._on_goaway(stream_id, payload)
                case frames.PUSH_PROMISE:
                    raise protocol_error("PUSH_PROMISE from a client")
                case _:
                    self._meter.spend(Kind.OTHER_FRAMES)
        except StreamError as error:
            self._reset(stream_id, error.code, error.reason)

    def _on_data(self, flags: int, stream_id: int, payload: bytes, calls: _Calls) -> None:
        self._use(len(payload))
        data = without_padding(payload) if flags & frames.PADDED else payload
        is_ended = bool(flags & frames.END_STREAM)
        stream = self._intake.streams.get(stream_id)
        if stream is None:
            self._on_stray(stream_id, "DATA")
            return
        if not data and not is_ended:
            self._meter.spend(Kind.EMPTY_DATA)
        update = self._intake.add(stream_id, stream, data, len(payload))
        if is_ended:
            self._complete(stream_id, stream, calls)
        elif update:
            self._out.write(update)

    def _on_stray(self, stream_id: int, kind: str) -> None:
        """Take a frame on a stream that is not open."""
        self._check_not_idle(stream_id, kind)
        if stream_id in self._our_resets or stream_id > self._last_id:
            self._meter.spend(Kind.OTHER_FRAMES)
            return
        raise StreamError(ErrorCode.STREAM_CLOSED, "frame_after_end")

    def _on_headers(self, flags: int, stream_id: int, payload: bytes, calls: _Calls) -> None:
        if not stream_id & 1:
            raise protocol_error("HEADERS on a stream that is not a client's")
        block = without_padding(payload) if flags & frames.PADDED else payload
        if flags & frames.HAS_PRIORITY:
            if len(block) < _PRIORITY_LENGTH:
                raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without their priority")
            check_priority(stream_id, block)
            block = block[_PRIORITY_LENGTH:]
        if flags & frames.END_HEADERS:
            self._on_block(stream_id, block, is_ended=bool(flags & frames.END_STREAM), calls=calls)
            return
        self._block_stream = stream_id
        # Nothing but CONTINUATION may follow, so the short way of a request is closed.
        self._expected = NEVER
        self._block_flags = flags
        self._block = block
        self._continuations = 0
        self._check_block()

    def _on_continuation(self, flags: int, payload: bytes, calls: _Calls) -> None:
        stream_id = self._block_stream
        if not stream_id:
            raise protocol_error("CONTINUATION without HEADERS")
        self._continuations += 1
        if self._continuations > self._bounds.continuation_frames:
            raise over_bound("continuation_frames")
        self._block += payload
        self._check_block()
        if flags & frames.END_HEADERS:
            block, self._block, self._block_stream = self._block, b"", 0
            if not self._is_final:
                self._expected = self._last_id + 2 if self._last_id else 1
            is_ended = bool(self._block_flags & frames.END_STREAM)
            self._on_block(stream_id, block, is_ended=is_ended, calls=calls)

    def _check_block(self) -> None:
        if len(self._block) > self._bounds.header_block_bytes:
            raise over_bound("header_block_bytes")

    def _on_block(self, stream_id: int, block: bytes, *, is_ended: bool, calls: _Calls) -> None:
        stream = self._intake.streams.get(stream_id)
        if stream is not None:
            self._on_trailers(block, is_ended=is_ended)
            self._complete(stream_id, stream, calls)
        elif stream_id > self._last_id:
            if self._is_final:
                self._skip_block(block)
                return
            head = self._read_head(block)
            if stream_id > self._last_id + 2:
                first_skipped = self._last_id + 2 if self._last_id else 1
                self._gaps = [*self._gaps[1 - REMEMBERED_GAPS :], range(first_skipped, stream_id)]
            self._last_id = stream_id
            self._expected = stream_id + 2
            self._open(stream_id, head, is_ended=is_ended, calls=calls)
        elif stream_id in self._our_resets:
            self._skip_block(block)
        elif any(stream_id in gap for gap in self._gaps):
            raise protocol_error("a stream id lower than one before")
        else:
            raise PeerError(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that ended")

    def _skip_block(self, block: bytes) -> None:
        """Decode a block for the sake of the dynamic table alone."""
        self._meter.spend(Kind.OTHER_FRAMES)
        self._read_head(block)

    def _on_trailers(self, block: bytes, *, is_ended: bool) -> None:
        try:
            names, values = self._decode(block)
        except HeaderListTooLarge as error:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "header_list_bytes") from error
        if not is_ended or check_trailers(names, values):
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "malformed_trailers")

    def _open(
        self, stream_id: int, head: Head, *, is_ended: bool, calls: _Calls | None = None
    ) -> None:
        """Begin a request that is not the common one; `calls` takes it if it ended."""
        refusal = head.refusal
        if len(self._out.awaiting) >= self._room():
            self._reset(stream_id, ErrorCode.REFUSED_STREAM, "concurrent_streams")
        elif refusal is not None and refusal.reset is not None:
            self._reset(stream_id, refusal.reset, refusal.reason)
        else:
            stream = self._intake.open(stream_id, head)
            if is_ended:
                assert calls is not None
                self._complete(stream_id, stream, calls)

    def _complete(self, stream_id: int, stream: Stream, calls: _Calls) -> None:
        message = stream.finish()
        self._intake.close(stream_id)
        if stream.refusal is None:
            self._out.awaiting[stream_id] = stream.delta
            calls.append((stream_id, stream.head, message))
        else:
            self._refuse(stream_id, stream.refusal, stream.delta)

    def _refuse(self, stream_id: int, refusal: Refusal, delta: int) -> None:
        self._counters.refuse(refusal.reason)
        if refusal.body is None:
            self._out.send_only(stream_id, refusal.block)
        else:
            self._out.send(stream_id, delta, refusal.block, refusal.body)

    def _refuse_early(self) -> None:
        """Answer requests that go on although they are refused, and ask for no more of them."""
        early = self._intake.early
        for stream_id in early:
            stream = self._intake.close(stream_id)
            if stream is not None and stream.refusal is not None:
                self._refuse(stream_id, stream.refusal, stream.delta)
                self._out.write(frames.rst_stream(stream_id, ErrorCode.NO_ERROR))
                self._remember_reset(stream_id)
        early.clear()

    def _age_streams(self) -> None:
        """Reset requests whose body takes too long, and answers that are not let through."""
        streams = self._intake.streams
        for stream in streams.values():
            stream.age += 1
        limit = self._bounds.body_intervals
        for stream_id in [each for each, stream in streams.items() if stream.age > limit]:
            self._reset(stream_id, ErrorCode.CANCEL, "body_intervals")
        for stream_id in self._out.grown_old(self._bounds.answer_intervals):
            self._reset(stream_id, ErrorCode.CANCEL, "answer_intervals")

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        check_length(payload, _U32_LENGTH)
        self._meter.spend(Kind.WINDOW_UPDATES)
        increment = frames.to_u32(payload) & STREAM_MASK
        if not stream_id:
            if not increment:
                raise protocol_error("WINDOW_UPDATE of zero")
            self._out.open_window(increment)
            return
        self._check_not_idle(stream_id, "WINDOW_UPDATE")
        if stream_id in self._our_resets:
            return
        if not increment:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "window_update_of_zero")
        stream = self._intake.streams.get(stream_id)
        if stream is not None:
            stream.delta = self._out.raised(stream.delta, increment)
        else:
            self._out.open_stream_window(stream_id, increment)

    def _on_rst_stream(self, stream_id: int, payload: bytes) -> None:
        check_length(payload, _U32_LENGTH)
        self._check_not_idle(stream_id, "RST_STREAM")
        self._meter.spend(Kind.RESETS)
        self._counters.peer_resets += 1
        self._intake.close(stream_id)
        self._out.forget(stream_id)

    def _check_not_idle(self, stream_id: int, kind: str) -> None:
        """Raise PeerError for stream 0, one of ours, and one that was never opened."""
        if not stream_id & 1 or (stream_id > self._last_id and not self._is_final):
            raise protocol_error(f"{kind} on a stream that is not open")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise protocol_error("PING on a stream")
        check_length(payload, _PING_LENGTH)
        self._meter.spend(Kind.PINGS)
        if not flags & frames.ACK:
            self._out.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == DRAIN_PING and self._is_draining:
            self.finish_drain()
        else:
            self.last_ping_ack = int.from_bytes(payload, "big")

    def _on_goaway(self, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise protocol_error("GOAWAY on a stream")
        if len(payload) < _GOAWAY_LENGTH:
            raise PeerError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        self._meter.spend(Kind.OTHER_FRAMES)
        self.peer_is_leaving = True

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise protocol_error("SETTINGS on a stream")
        self._meter.spend(Kind.SETTINGS)
        if flags & frames.ACK:
            check_length(payload, 0)
            return
        size = dict(read_settings(payload)).get(frames.INITIAL_WINDOW_SIZE)
        if size is not None:
            deltas = (stream.delta for stream in self._intake.streams.values())
            self._out.set_initial_window(size, max(deltas, default=0))
        self._out.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if size is not None:
            self._out.use_initial_window()
        if not self._is_greeted:
            self._is_greeted = True
            self._expected = NEVER if self._is_final else 1
