"""What was sent in either direction, as hyperframe and hpack read it: the fuzzer's second opinion.

Rules:
- `Requests` reads what the peer sent. It knows the windows that the peer opened at most, for an
  overrun, and what each stream asks, for calls that are not what was sent.
- `Responses` reads what we sent, and raises AssertionError where no client could read it, or where
  a stream has anything behind its end.
"""

from dataclasses import dataclass, field

import hpack
import hyperframe.exceptions
import hyperframe.frame as hf

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.lifecycle import REMEMBERED_RESETS

_HEAD = 9


@dataclass(slots=True)
class Request:
    """What a stream of the peer says so far."""

    fields: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    data_bytes: int = 0
    is_ended: bool = False
    is_reset: bool = False


class Requests:
    """The peer's side of a connection."""

    def __init__(self) -> None:
        self.streams: dict[int, Request] = {}
        self.granted = frames.DEFAULT_WINDOW
        self.granted_to: dict[int, int] = {}
        self.largest_initial = frames.DEFAULT_WINDOW
        self.data_bytes = 0
        self.settings = 0
        self.pings: list[bytes] = []
        # What these libraries cannot read they know nothing of.
        self.is_readable = True
        self._rest = b""
        self._has_preface = False
        # We bound lists ourselves, and refuse them without ending the connection.
        self._decoder = hpack.Decoder(max_header_list_size=2**24)
        self._block: tuple[int, int, bytes] | None = None

    @property
    def is_whole(self) -> bool:
        """Tell whether no preface, frame or block has begun and not ended."""
        return self._has_preface and not self._rest and self._block is None

    def receive(self, data: bytes) -> None:
        """Take what the peer sent."""
        data = self._rest + data
        if not self._has_preface:
            if len(data) < len(frames.PREFACE):
                self._rest = data
                return
            self._has_preface = True
            data = data[len(frames.PREFACE) :]
        position = 0
        while len(data) - position >= _HEAD:
            end = position + _HEAD + int.from_bytes(data[position : position + 3], "big")
            if end > len(data):
                break
            self._frame(data[position:end])
            position = end
        self._rest = data[position:]

    def _frame(self, raw: bytes) -> None:
        kind, flags = raw[3], raw[4]
        stream_id = int.from_bytes(raw[5:9], "big") & frames.STREAM_MASK
        payload = raw[_HEAD:]
        match kind:
            case frames.WINDOW_UPDATE if len(payload) == 4:
                amount = int.from_bytes(payload, "big") & frames.STREAM_MASK
                if stream_id:
                    self.granted_to[stream_id] = self.granted_to.get(stream_id, 0) + amount
                else:
                    self.granted += amount
            case frames.SETTINGS if not flags & frames.ACK and len(payload) % 6 == 0:
                self.settings += 1
                sizes = dict(frames.parse_settings(payload))
                size = sizes.get(frames.INITIAL_WINDOW_SIZE, 0)
                self.largest_initial = max(self.largest_initial, size)
            case frames.PING if not flags & frames.ACK:
                self.pings.append(payload)
            case frames.RST_STREAM if stream_id in self.streams:
                self.streams[stream_id].is_reset = True
            case frames.DATA | frames.HEADERS | frames.CONTINUATION:
                try:
                    self._request_frame(raw, stream_id)
                except (hyperframe.exceptions.HyperframeError, hpack.HPACKError):
                    self.is_readable = False

    def _request_frame(self, raw: bytes, stream_id: int) -> None:
        frame, _ = hf.Frame.parse_frame_header(memoryview(raw[:_HEAD]))
        try:
            frame.parse_body(memoryview(raw[_HEAD:]))
        except hyperframe.exceptions.InvalidPaddingError:
            # The library has no frame that is all padding; RFC 9113, 6.1, has.
            if raw[_HEAD] >= len(raw) - _HEAD:
                raise
        if isinstance(frame, hf.DataFrame):
            self.data_bytes += frame.flow_controlled_length
            request = self.streams.get(stream_id)
            if request is not None and not request.is_ended:
                request.body += frame.data
                request.data_bytes += frame.flow_controlled_length
                request.is_ended = "END_STREAM" in frame.flags
            return
        if isinstance(frame, hf.HeadersFrame):
            self._block = (stream_id, raw[4], frame.data)
        elif self._block is not None:
            self._block = (*self._block[:2], self._block[2] + raw[_HEAD:])
        if self._block is not None and raw[4] & frames.END_HEADERS:
            self._end_block(*self._block)
            self._block = None

    def _end_block(self, stream_id: int, flags: int, block: bytes) -> None:
        decoded = self._decoder.decode(block, raw=True)
        request = self.streams.get(stream_id)
        if request is None:
            request = self.streams[stream_id] = Request()
            for name, value in decoded:
                request.fields.setdefault(bytes(name), bytes(value))
        request.is_ended |= bool(flags & frames.END_STREAM)


@dataclass(slots=True)
class Response:
    """What a stream was answered so far."""

    has_headers: bool = False
    body_bytes: int = 0
    is_ended: bool = False
    is_reset: bool = False


class Responses:
    """Our side of a connection."""

    def __init__(self) -> None:
        self.streams: dict[int, Response] = {}
        self.data_bytes = 0
        self.granted = {0: frames.DEFAULT_WINDOW}
        self.settings_acks = 0
        self.resets = 0
        self.pongs: list[bytes] = []
        self.last_streams: list[int] = []
        # What the frames of the last output were.
        self.seen: set[tuple[int, int]] = set()
        self._decoder = hpack.Decoder()
        self._is_first = True

    def receive(self, output: bytes) -> None:
        """Take what we sent, which is whole frames."""
        self.seen = set()
        position = 0
        while position < len(output):
            head = memoryview(output[position : position + _HEAD])
            frame, length = hf.Frame.parse_frame_header(head, strict=True)
            assert length <= frames.DEFAULT_FRAME_SIZE, "a frame is longer than the peer allows"
            end = position + _HEAD + length
            assert end <= len(output), "the output ends within a frame"
            frame.parse_body(memoryview(output[position + _HEAD : end]))
            position = end
            if self._is_first:
                assert isinstance(frame, hf.SettingsFrame), "the first frame is not SETTINGS"
                self._is_first = False
            self._frame(frame)

    def _frame(self, frame: hf.Frame) -> None:
        detail = int("END_STREAM" in frame.flags)
        match frame:
            case hf.HeadersFrame() | hf.DataFrame() | hf.RstStreamFrame():
                detail = self._stream_frame(frame)
            case hf.SettingsFrame():
                self.settings_acks += "ACK" in frame.flags
            case hf.PingFrame():
                if "ACK" in frame.flags:
                    self.pongs.append(frame.opaque_data)
            case hf.GoAwayFrame():
                detail = frame.error_code
                before = (self.last_streams or [frames.MAX_WINDOW])[-1]
                assert frame.last_stream_id <= before, "GOAWAY takes back what it said before"
                self.last_streams.append(frame.last_stream_id)
            case hf.WindowUpdateFrame():
                assert frame.window_increment, "WINDOW_UPDATE of zero"
                before_it = self.granted.get(frame.stream_id, frames.DEFAULT_WINDOW)
                self.granted[frame.stream_id] = before_it + frame.window_increment
            case _:
                raise AssertionError(f"a server does not send {frame!r}")
        self.seen.add((frame.type or 0, detail))

    def _stream_frame(self, frame: hf.HeadersFrame | hf.DataFrame | hf.RstStreamFrame) -> int:
        """Take a frame of a stream; return what tells it from others of its type."""
        assert frame.stream_id & 1, "a frame on a stream that is not the peer's"
        response = self.streams.setdefault(frame.stream_id, Response())
        if response.is_reset and self.resets <= REMEMBERED_RESETS:
            raise AssertionError(f"stream {frame.stream_id}: {frame!r} after RST_STREAM")
        if isinstance(frame, hf.RstStreamFrame):
            response.is_reset = True
            self.resets += 1
            return int(frame.error_code)
        assert not response.is_ended, f"stream {frame.stream_id}: {frame!r} after its end"
        is_last = "END_STREAM" in frame.flags
        response.is_ended = is_last
        if isinstance(frame, hf.DataFrame):
            assert response.has_headers, f"stream {frame.stream_id}: DATA before HEADERS"
            self.data_bytes += frame.flow_controlled_length
            response.body_bytes += frame.flow_controlled_length
            return int(is_last)
        decoded = {bytes(name): bytes(value) for name, value in self._decode(frame.data)}
        if response.has_headers:
            assert is_last, "trailers without END_STREAM"
            assert b":status" not in decoded, "a second response"
        else:
            assert b":status" in decoded, "a response without a status"
            response.has_headers = True
        return int(decoded.get(b"grpc-status", decoded.get(b":status", b"0")))

    def _decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        found = self._decoder.decode(block, raw=True)
        assert not self._decoder.header_table.dynamic_entries, "an answer moved the peer's table"
        return [(bytes(name), bytes(value)) for name, value in found]
