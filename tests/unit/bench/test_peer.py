"""The load client's connection, spoken to by the h2 library as the server."""

import itertools

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingAckReceived,
    RequestReceived,
    SettingsAcknowledged,
    StreamEnded,
)
from h2.settings import SettingCodes
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from bench.load import frames
from bench.load.blocks import Blocks, request_headers
from bench.load.peer import (
    CODE_OK,
    CODE_OVER_LIMIT,
    STATUS_GOAWAY,
    STATUS_RESET,
    STATUS_UNKNOWN,
    Answer,
    Peer,
    PeerError,
)

PATH = "/service/Method"
BODY = b"\0\0\0\0\x04body"
OK_BODY = b"\0\0\0\0\x02" + CODE_OK
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]


class Pair:
    """A client and a server that have greeted each other."""

    def __init__(self, settings: dict[SettingCodes | int, int] | None = None) -> None:
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.peer = Peer()
        self.server.initiate_connection()
        if settings:
            self.server.update_settings(settings)
        self.to_client()
        self.events: list[Event] = self.to_server()
        self.stream_id = -1
        self.blocks = blocks(table_bytes=self.peer.table_bytes)

    def to_server(self) -> list[Event]:
        return list(self.server.receive_data(self.peer.take_output()))

    def to_client(self) -> list[Answer]:
        return self.peer.receive(self.server.data_to_send())

    def call(self, body: bytes = BODY) -> int:
        """Start a call; its tag is its stream, which rises by two."""
        self.stream_id += 2
        self.peer.start(self.blocks, iter([body]), [self.stream_id])
        return self.stream_id

    def answer(self, stream_id: int, body: bytes = OK_BODY, status: str = "0") -> None:
        self.server.send_headers(stream_id, HEAD)
        self.server.send_data(stream_id, body)
        self.server.send_headers(stream_id, [("grpc-status", status)], end_stream=True)


def blocks(*, table_bytes: int = 4096) -> Blocks:
    headers = request_headers(PATH, is_tls=False)
    return Blocks(headers, table_bytes=table_bytes, seed="test")


def test_peer_greets_and_acknowledges_settings() -> None:
    assert any(isinstance(event, SettingsAcknowledged) for event in Pair().events)


def test_peer_takes_no_calls_before_the_settings_of_the_server() -> None:
    assert Peer().capacity(1) == 0
    assert Pair().peer.capacity(1) > 0


def test_call_is_a_whole_request_for_the_server() -> None:
    # Given
    pair = Pair()

    # When
    first, second = pair.call(), pair.call(b"\0\0\0\0\x00")
    events = pair.to_server()

    # Then
    asked = [event for event in events if isinstance(event, RequestReceived)]
    bodies = [event.data for event in events if isinstance(event, DataReceived)]
    assert [event.stream_id for event in asked] == [first, second] == [1, 3]
    assert list(asked[1].headers) == request_headers(PATH, is_tls=False)
    assert bodies == [BODY, b"\0\0\0\0\x00"]
    assert sum(isinstance(event, StreamEnded) for event in events) == 2


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (OK_BODY, CODE_OK),
        (b"\0\0\0\0\x06" + CODE_OVER_LIMIT + b"\x12\x02\x08\x02", CODE_OVER_LIMIT),
        (b"\0\0\0\0\x00", b""),
    ],
)
def test_answer_tells_the_status_and_the_code(body: bytes, code: bytes) -> None:
    pair = Pair()
    stream_id = pair.call()
    pair.to_server()
    pair.answer(stream_id, body)
    assert pair.to_client() == [Answer(stream_id, 0, code)]
    assert not pair.peer.open_tags


@given(cuts=st.lists(st.integers(0, 400), max_size=8))
def test_answers_do_not_depend_on_how_bytes_arrive(cuts: list[int]) -> None:
    # Given
    pair = Pair()
    calls = [pair.call() for _ in range(4)]
    pair.to_server()
    for number, stream_id in enumerate(calls):
        pair.answer(stream_id, status=str(number))
    data = pair.server.data_to_send()

    # When
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    chunks = [data[start:end] for start, end in itertools.pairwise(edges)]
    answers = [answer for chunk in chunks for answer in pair.peer.receive(chunk)]

    # Then
    assert [answer.status for answer in answers] == [0, 1, 2, 3]
    assert {answer.code for answer in answers} == {CODE_OK}


def test_statuses_follow_the_dynamic_table_of_the_server() -> None:
    # An equal block means another status once the table behind it has moved.
    pair = Pair()
    for status in ("0", "0", "14", "0", "4", "14", "0"):
        stream_id = pair.call()
        pair.to_server()
        pair.answer(stream_id, status=status)
        assert [answer.status for answer in pair.to_client()] == [int(status)]


def test_trailers_alone_end_a_call_and_keep_the_first_message() -> None:
    # Given
    pair = Pair()
    calls = [pair.call(), pair.call()]
    pair.to_server()

    # When
    for stream_id, message in zip(calls, ("first", "second"), strict=True):
        trailers = [*HEAD, ("grpc-status", "12"), ("grpc-message", message)]
        pair.server.send_headers(stream_id, trailers, end_stream=True)

    # Then
    assert [answer.status for answer in pair.to_client()] == [12, 12]
    assert pair.peer.first_message == "first"


def test_answer_without_a_status_is_unknown() -> None:
    pair = Pair()
    stream_id = pair.call()
    pair.to_server()
    pair.server.send_headers(stream_id, HEAD)
    pair.server.send_data(stream_id, OK_BODY, end_stream=True)
    assert pair.to_client() == [Answer(stream_id, STATUS_UNKNOWN, CODE_OK)]


def test_reset_ends_a_call() -> None:
    pair = Pair()
    stream_id = pair.call()
    pair.to_server()
    pair.server.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
    assert pair.to_client() == [Answer(stream_id, STATUS_RESET, b"")]


def test_goaway_ends_what_the_server_did_not_take() -> None:
    # Given
    pair = Pair()
    taken, refused = pair.call(), pair.call()
    pair.to_server()

    # When
    reason = b"too many"
    pair.server.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, reason, last_stream_id=taken)

    # Then
    assert pair.to_client() == [Answer(refused, STATUS_GOAWAY, b"")]
    assert pair.peer.is_going
    assert pair.peer.capacity(1) == 0
    assert pair.peer.open_tags == [taken]
    assert pair.peer.first_message == "GOAWAY 11 too many"


def test_ping_is_answered() -> None:
    pair = Pair()
    pair.server.ping(b"12345678")
    pair.to_client()
    (event,) = pair.to_server()
    assert isinstance(event, PingAckReceived)
    assert event.ping_data == b"12345678"


def test_capacity_is_what_the_server_lets_run_at_once() -> None:
    pair = Pair({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
    first = pair.call()
    assert pair.peer.capacity(len(BODY)) == 1
    pair.call()
    assert pair.peer.capacity(len(BODY)) == 0
    pair.to_server()
    pair.answer(first)
    pair.to_client()
    assert pair.peer.capacity(len(BODY)) == 1


def test_capacity_ends_with_the_window_and_grows_when_it_does() -> None:
    # Given
    pair = Pair()
    body = bytes(10_000)

    # When
    for _ in range(6):
        pair.call(body)
    pair.to_server()
    without_room = pair.peer.capacity(len(body))
    pair.server.increment_flow_control_window(20_000)
    pair.to_client()

    # Then
    assert without_room == 0
    assert pair.peer.capacity(len(body)) == (65_535 - 60_000 + 20_000) // 10_000


def test_body_larger_than_a_frame_is_refused() -> None:
    with pytest.raises(PeerError, match="does not fit"):
        Pair().peer.capacity(20_000)


def test_block_in_several_frames_with_padding_is_one_block() -> None:
    # Given: a server that splits its trailers, which h2 does only for large ones.
    pair = Pair()
    stream_id = pair.call()
    block = Encoder().encode(TRAILERS)
    start = frames.HEADERS, frames.END_STREAM | frames.PADDED | frames.HAS_PRIORITY
    padded = b"\x02" + b"\0\0\0\0\x10" + block[:3] + b"\0\0"

    # When
    parts = frames.frame(*start, stream_id, padded)
    parts += frames.frame(frames.CONTINUATION, 0, stream_id, block[3:4])
    parts += frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream_id, block[4:])

    # Then
    assert pair.peer.receive(parts) == [Answer(stream_id, 0, b"")]


@pytest.mark.parametrize("kind", [frames.CONTINUATION, frames.PUSH_PROMISE])
def test_frame_that_no_server_may_send_is_an_error(kind: int) -> None:
    with pytest.raises(PeerError):
        Pair().peer.receive(frames.frame(kind, frames.END_HEADERS, 1, b""))


def test_unknown_frames_and_settings_are_ignored() -> None:
    pair = Pair()
    assert pair.peer.receive(frames.frame(0x42, 0xFF, 7, b"x") + frames.settings({0x99: 1})) == []
