"""The other side of a connection under test: raw frames, and the h2 library as a client."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import hyperframe.frame
from h2.connection import H2Connection

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.connection import Call, Connection
from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.hpack import encode_static
from ratelimitd.transport.h2.profile import Profile

PATH = b"/test.Service/Method"
METHODS = {PATH: "handle"}

Fields = Sequence[tuple[bytes, bytes]]

CALL: Fields = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", PATH),
    (b":authority", b"ratelimit"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)


def changed(fields: Fields = CALL, **changes: bytes | None) -> list[tuple[bytes, bytes]]:
    """Return `fields` with some replaced, added or (None) left out; _ stands for - in names."""
    wanted = {name.replace("_", "-").encode(): value for name, value in changes.items()}
    out = []
    for name, value in fields:
        plain = name.lstrip(b":")
        replacement = wanted.pop(plain, value)
        if replacement is not None:
            out.append((name, replacement))
    out.extend((name, value) for name, value in wanted.items() if value is not None)
    return out


def message(body: bytes, flag: int = 0) -> bytes:
    """Return a gRPC message."""
    return struct.pack(">BI", flag, len(body)) + body


def headers(stream_id: int, fields: Fields = CALL, flags: int = frames.END_HEADERS) -> bytes:
    """Return a HEADERS frame that leaves the dynamic table alone."""
    return frames.frame(frames.HEADERS, flags, stream_id, encode_static(fields))


def data(stream_id: int, payload: bytes, flags: int = frames.END_STREAM) -> bytes:
    """Return a DATA frame."""
    return frames.frame(frames.DATA, flags, stream_id, payload)


def call(stream_id: int, body: bytes = b"hello", fields: Fields = CALL) -> bytes:
    """Return a whole request."""
    return headers(stream_id, fields) + data(stream_id, message(body))


def connect(bounds: Bounds | None = None, *, is_greeted: bool = True) -> Connection:
    """Return a connection, past the exchange of settings if `is_greeted`."""
    connection = Connection(Profile(METHODS, bounds or Bounds()))
    if is_greeted:
        connection.receive(frames.PREFACE + frames.settings({}))
        connection.take_output()
    return connection


def sent_frames(output: bytes) -> list[hyperframe.frame.Frame]:
    """Return the frames of an output, as another implementation reads them."""
    out = []
    while output:
        frame, length = hyperframe.frame.Frame.parse_frame_header(memoryview(output[:9]))
        frame.parse_body(memoryview(output[9 : 9 + length]))
        out.append(frame)
        output = output[9 + length :]
    return out


def resets(output: bytes) -> list[tuple[int, ErrorCode]]:
    """Return the streams that were reset, and why."""
    return [
        (frame.stream_id, ErrorCode(frame.error_code))
        for frame in sent_frames(output)
        if isinstance(frame, hyperframe.frame.RstStreamFrame)
    ]


def goaways(output: bytes) -> list[tuple[int, ErrorCode]]:
    """Return the last stream and the code of each GOAWAY."""
    return [
        (frame.last_stream_id, ErrorCode(frame.error_code))
        for frame in sent_frames(output)
        if isinstance(frame, hyperframe.frame.GoAwayFrame)
    ]


@dataclass(slots=True)
class Answer:
    """What the client saw of one stream."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    reset: int | None = None
    is_ended: bool = False

    @property
    def status(self) -> bytes | None:
        """Return grpc-status, wherever it came."""
        return self.trailers.get(b"grpc-status", self.headers.get(b"grpc-status"))

    @property
    def message(self) -> bytes | None:
        """Return grpc-message, wherever it came."""
        return self.trailers.get(b"grpc-message", self.headers.get(b"grpc-message"))


class Client:
    """The h2 library on the other side of a connection, in memory."""

    def __init__(
        self,
        bounds: Bounds | None = None,
        settings: dict[int, int] | None = None,
        *,
        acknowledges: bool = True,
    ) -> None:
        """Exchange settings; a client that acknowledges no data keeps its windows shut."""
        self.connection = connect(bounds, is_greeted=False)
        self.answers: dict[int, Answer] = {}
        self.calls: list[Call] = []
        self.events: list[h2.events.Event] = []
        self._acknowledges = acknowledges
        config = h2.config.H2Configuration(
            client_side=True,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            header_encoding=None,
        )
        self.peer = H2Connection(config)
        self.peer.initiate_connection()
        if settings:
            self.peer.update_settings(settings)
        self.exchange()

    def call(self, body: bytes, fields: Fields = CALL) -> int:
        """Send a request; return its stream."""
        stream_id: int = self.peer.get_next_available_stream_id()
        self.peer.send_headers(stream_id, list(fields))
        rest = message(body)
        while rest:
            room = min(self.peer.local_flow_control_window(stream_id), 16384)
            assert room, "the server does not open its window"
            self.peer.send_data(stream_id, rest[:room], end_stream=len(rest) <= room)
            rest = rest[room:]
            self.exchange()
        return stream_id

    def serve(self, answer: bytes | None = None) -> None:
        """Answer all calls, with what they said if there is no `answer`."""
        calls, self.calls = self.calls, []
        for stream_id, _, body in calls:
            self.connection.answer(stream_id, body if answer is None else answer)
        self.exchange()

    def exchange(self) -> None:
        """Carry bytes until both sides are quiet."""
        while True:
            sent = self.peer.data_to_send()
            if sent:
                self.calls.extend(self.connection.receive(sent))
            received = self.connection.take_output()
            if not sent and not received:
                return
            if received:
                self._take(self.peer.receive_data(received))

    def _take(self, events: Iterable[h2.events.Event]) -> None:
        for event in events:
            self.events.append(event)
            stream_id = getattr(event, "stream_id", None)
            if not stream_id:
                continue
            answer = self.answers.setdefault(stream_id, Answer())
            match event:
                case h2.events.ResponseReceived():
                    answer.headers = dict(event.headers)
                case h2.events.TrailersReceived():
                    answer.trailers = dict(event.headers)
                case h2.events.DataReceived():
                    answer.body += event.data
                    if self._acknowledges:
                        self.peer.acknowledge_received_data(event.flow_controlled_length, stream_id)
                case h2.events.StreamReset():
                    answer.reset = event.error_code
                case h2.events.StreamEnded():
                    answer.is_ended = True
