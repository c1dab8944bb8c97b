"""A client that sends any bytes, and what a server made of them, in a line.

The outcome of a stream is one of:
- `OK: <overall code>` or `<STATUS>: <grpc-message>`, which is a gRPC answer;
- `HTTP <status>`, an answer in HTTP's words;
- `RST_STREAM <code>`, `GOAWAY <code>` or `closed`, when the server ended stream or connection;
- `no answer`, when calls that came later on the connection are answered and it is not.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import unquote

import grpc
import hpack
import hyperframe.frame as hf

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.hpack import encode_static
from tests.transport.h2 import peer

Fields = Sequence[tuple[bytes, bytes]]

HIT = b"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CALL: Fields = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", HIT),
    (b":authority", b"ratelimit"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
NO_ANSWER = "no answer"
# A stream without an answer for so long is asked about by calls that follow it; grpcio takes some
# tenths of a second for some of its refusals.
QUIET_S = 3
PATIENCE_S = 20
WITNESSES = 2

_STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


@dataclass(slots=True)
class Stream:
    """What came back on one stream."""

    blocks: list[dict[str, str]] = field(default_factory=list)
    body: bytes = b""
    reset: int | None = None
    is_ended: bool = False

    @property
    def is_done(self) -> bool:
        """Whether nothing more can come."""
        return self.is_ended or self.reset is not None

    def outcome(self) -> str:
        """Return it in a line; the stream is done."""
        fields = {name: value for block in self.blocks for name, value in block.items()}
        if "grpc-status" in fields:
            return self._status(int(fields["grpc-status"]), unquote(fields.get("grpc-message", "")))
        if self.blocks:
            return f"HTTP {self.blocks[0][':status']}"
        assert self.reset is not None, "a stream that ended without headers"
        return f"RST_STREAM {ErrorCode(self.reset).name}"

    def _status(self, status: int, message: str) -> str:
        if status:
            return f"{_STATUS_NAMES[status]}: {message}"
        size = int.from_bytes(self.body[1:5], "big")
        assert len(self.body) == 5 + size, "a good answer is one message"
        answer = RateLimitResponse.FromString(self.body[5:])
        return f"OK: {RateLimitResponse.Code.Name(answer.overall_code)}"


class Wire:
    """A connection to a server, which may send as much as it likes."""

    def __init__(self, port: int) -> None:
        """Connect and greet."""
        self.streams: dict[int, Stream] = {}
        self.goaway: int | None = None
        self.is_closed = False
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self._decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self._rest = b""
        self.send(frames.PREFACE + frames.settings({}))
        self.send(frames.window_update(0, frames.MAX_WINDOW - frames.DEFAULT_WINDOW))
        # A server's settings are in force when it knows that we know them.
        self.send(frames.frame(frames.PING, 0, 0, b"greeting"))
        self._has_pong = False
        self._read_until(lambda: self._has_pong, PATIENCE_S)
        assert self._has_pong, "the server does not greet"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send, as far as the server still takes it."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.is_closed = True

    def outcome(self, stream_id: int, witness: bytes) -> str:
        """Return what becomes of a stream; `witness` is the message of a good call."""
        stream = self.streams.setdefault(stream_id, Stream())
        if not self._read_until(lambda: stream.is_done, QUIET_S):
            for later in range(1, WITNESSES + 1):
                known = self.streams.setdefault(stream_id + 2 * later, Stream())
                self.send(call(stream_id + 2 * later, witness))
                is_known = self._read_until(lambda: known.is_done, PATIENCE_S)  # noqa: B023 - called here
                assert is_known, "the server answers nobody"
        return self._outcome(stream)

    def outcomes(self, stream_ids: Sequence[int]) -> list[str]:
        """Return what becomes of streams that are all answered."""
        streams = [self.streams.setdefault(each, Stream()) for each in stream_ids]
        for stream in streams:
            is_answered = self._read_until(lambda: stream.is_done, PATIENCE_S)  # noqa: B023 - called here
            assert is_answered, "a stream is not answered"
        return [self._outcome(stream) for stream in streams]

    def _outcome(self, stream: Stream) -> str:
        if stream.is_done:
            return stream.outcome()
        if self.goaway is not None:
            return f"GOAWAY {ErrorCode(self.goaway).name}"
        return "closed" if self.is_closed else NO_ANSWER

    def _read_until(self, is_done: Callable[[], bool], timeout_s: float) -> bool:
        """Read until it is done or nothing can come; False when `timeout_s` passed first."""
        self._socket.settimeout(timeout_s)
        while not is_done() and not self.is_closed:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return False
            except ConnectionResetError:
                data = b""
            self.is_closed = not data
            self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= frames.HEADER_LENGTH:
            frame, length = hf.Frame.parse_frame_header(memoryview(self._rest[:9]))
            if len(self._rest) < 9 + length:
                return
            frame.parse_body(memoryview(self._rest[9 : 9 + length]))
            self._rest = self._rest[9 + length :]
            self._on_frame(frame)

    def _on_frame(self, frame: hf.Frame) -> None:
        stream = self.streams.setdefault(frame.stream_id, Stream())
        match frame:
            case hf.HeadersFrame():
                assert "END_HEADERS" in frame.flags
                stream.blocks.append({str(n): str(v) for n, v in self._decoder.decode(frame.data)})
            case hf.DataFrame():
                stream.body += frame.data
            case hf.RstStreamFrame():
                stream.reset = frame.error_code
            case hf.GoAwayFrame():
                self.goaway = frame.error_code
            case hf.PingFrame() if "ACK" in frame.flags:
                self._has_pong = True
            case hf.PingFrame():
                self.send(frames.frame(frames.PING, frames.ACK, 0, frame.opaque_data))
            case hf.SettingsFrame() if "ACK" not in frame.flags:
                self.send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if "END_STREAM" in frame.flags:
            stream.is_ended = True


def changed(fields: Fields = CALL, **changes: bytes | None) -> list[tuple[bytes, bytes]]:
    """Return `fields` with some replaced, added or (None) left out; _ stands for - in names."""
    return peer.changed(fields, **changes)


def message(body: bytes, flag: int = 0) -> bytes:
    """Return a gRPC message."""
    return peer.message(body, flag)


def headers(stream_id: int, fields: Fields = CALL, flags: int = frames.END_HEADERS) -> bytes:
    """Return a request's block in as many frames as it takes."""
    block = encode_static(fields)
    first, rest = block[: frames.DEFAULT_FRAME_SIZE], block[frames.DEFAULT_FRAME_SIZE :]
    ended, others = flags & frames.END_HEADERS, flags & ~frames.END_HEADERS
    out = frames.frame(frames.HEADERS, others if rest else flags, stream_id, first)
    while rest:
        part, rest = rest[: frames.DEFAULT_FRAME_SIZE], rest[frames.DEFAULT_FRAME_SIZE :]
        out += frames.frame(frames.CONTINUATION, 0 if rest else ended, stream_id, part)
    return out


def data(stream_id: int, payload: bytes, flags: int = frames.END_STREAM) -> bytes:
    """Return DATA frames that together hold `payload`."""
    size = frames.DEFAULT_FRAME_SIZE
    parts = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
    last = len(parts) - 1
    return b"".join(
        frames.frame(frames.DATA, flags if index == last else 0, stream_id, part)
        for index, part in enumerate(parts)
    )


def call(stream_id: int, body: bytes, fields: Fields = CALL) -> bytes:
    """Return a whole request."""
    return headers(stream_id, fields) + data(stream_id, message(body))
