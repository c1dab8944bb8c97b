"""The rules of RFC 9113 that a server must keep, one test each."""

import struct

import pytest

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.hpack import encode_static
from tests.transport.h2 import peer
from tests.transport.h2.peer import CALL, call, changed, connect, data, headers, message

_PING = b"12345678"


def _ended(output: bytes) -> ErrorCode | None:
    found = peer.goaways(output)
    return found[-1][1] if found else None


def _u32(value: int) -> bytes:
    return struct.pack(">I", value)


def test_preface_and_settings_are_exchanged_and_acknowledged() -> None:
    connection = connect(is_greeted=False)

    greeting = peer.sent_frames(connection.take_output())
    connection.receive(frames.PREFACE + frames.settings({frames.MAX_FRAME_SIZE: 20000}))
    reply = peer.sent_frames(connection.take_output())

    assert [frame.type for frame in greeting] == [frames.SETTINGS, frames.WINDOW_UPDATE]
    assert [(frame.type, set(frame.flags)) for frame in reply] == [(frames.SETTINGS, {"ACK"})]


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16\x03"])
def test_preface_that_is_wrong_ends_the_connection_at_its_first_byte(first: bytes) -> None:
    connection = connect(is_greeted=False)
    connection.take_output()

    connection.receive(first)

    assert connection.is_closing
    assert _ended(connection.take_output()) == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "first",
    [frames.frame(frames.PING, 0, 0, _PING), call(1), frames.frame(frames.SETTINGS, 1, 0)],
)
def test_preface_without_settings_ends_the_connection(first: bytes) -> None:
    connection = connect(is_greeted=False)
    connection.take_output()

    connection.receive(frames.PREFACE + first)

    assert _ended(connection.take_output()) == ErrorCode.PROTOCOL_ERROR


_OPEN = headers(1)
_PADDED = frames.PADDED | frames.END_HEADERS
_BLOCK = headers(1)[9:]

_CONNECTION_ERRORS = [
    ("a frame over the size", frames.frame(0, 0, 1, bytes(16385)), "FRAME_SIZE_ERROR"),
    ("DATA on stream 0", data(0, b""), "PROTOCOL_ERROR"),
    ("DATA on an idle stream", data(5, b""), "PROTOCOL_ERROR"),
    ("DATA padded beyond itself", _OPEN + frames.frame(0, 8, 1, b"\x05ab"), "PROTOCOL_ERROR"),
    ("DATA padded and empty", _OPEN + frames.frame(0, 8, 1, b""), "FRAME_SIZE_ERROR"),
    ("HEADERS on stream 0", headers(0), "PROTOCOL_ERROR"),
    ("HEADERS on an even stream", headers(2), "PROTOCOL_ERROR"),
    ("HEADERS below a higher stream", headers(5) + headers(3), "PROTOCOL_ERROR"),
    ("HEADERS on a closed stream", call(1) + headers(1), "STREAM_CLOSED"),
    (
        "HEADERS padded beyond themselves",
        frames.frame(1, _PADDED, 1, b"\xff" + _BLOCK),
        "PROTOCOL_ERROR",
    ),
    ("HEADERS without their priority", frames.frame(1, 0x24, 1, b"abc"), "FRAME_SIZE_ERROR"),
    (
        "HEADERS that depend on themselves",
        frames.frame(1, 0x24, 1, _u32(1) + b"\x10" + _BLOCK),
        "PROTOCOL_ERROR",
    ),
    ("HEADERS that cannot be decoded", frames.frame(1, 4, 1, b"\x80"), "COMPRESSION_ERROR"),
    ("PRIORITY of a wrong length", frames.frame(2, 0, 1, b"1234"), "FRAME_SIZE_ERROR"),
    ("PRIORITY of itself", frames.frame(2, 0, 3, _u32(3) + b"\x10"), "PROTOCOL_ERROR"),
    ("PRIORITY of stream 0", frames.frame(2, 0, 0, _u32(3) + b"\x10"), "PROTOCOL_ERROR"),
    ("RST_STREAM of stream 0", frames.frame(3, 0, 0, _u32(8)), "PROTOCOL_ERROR"),
    ("RST_STREAM of an idle stream", frames.frame(3, 0, 1, _u32(8)), "PROTOCOL_ERROR"),
    ("RST_STREAM of a wrong length", _OPEN + frames.frame(3, 0, 1, b"123"), "FRAME_SIZE_ERROR"),
    ("SETTINGS on a stream", frames.frame(4, 0, 1, b""), "PROTOCOL_ERROR"),
    ("SETTINGS of a wrong length", frames.frame(4, 0, 0, b"12345"), "FRAME_SIZE_ERROR"),
    ("SETTINGS acknowledged with some", frames.frame(4, 1, 0, b"123456"), "FRAME_SIZE_ERROR"),
    ("ENABLE_PUSH of 2", frames.settings({2: 2}), "PROTOCOL_ERROR"),
    ("INITIAL_WINDOW_SIZE too large", frames.settings({4: 2**31}), "FLOW_CONTROL_ERROR"),
    ("MAX_FRAME_SIZE too small", frames.settings({5: 16383}), "PROTOCOL_ERROR"),
    ("MAX_FRAME_SIZE too large", frames.settings({5: 2**24}), "PROTOCOL_ERROR"),
    ("PUSH_PROMISE", frames.frame(5, 4, 1, _u32(2)), "PROTOCOL_ERROR"),
    ("PING on a stream", frames.frame(6, 0, 1, _PING), "PROTOCOL_ERROR"),
    ("PING of a wrong length", frames.frame(6, 0, 0, b"1234567"), "FRAME_SIZE_ERROR"),
    ("GOAWAY on a stream", frames.frame(7, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
    ("GOAWAY too short", frames.frame(7, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
    ("WINDOW_UPDATE of zero", frames.window_update(0, 0), "PROTOCOL_ERROR"),
    ("WINDOW_UPDATE of an idle stream", frames.window_update(1, 1), "PROTOCOL_ERROR"),
    ("WINDOW_UPDATE of a wrong length", frames.frame(8, 0, 0, b"123"), "FRAME_SIZE_ERROR"),
    ("WINDOW_UPDATE that overflows", frames.window_update(0, 2**31 - 1), "FLOW_CONTROL_ERROR"),
    ("CONTINUATION alone", frames.frame(9, 4, 1, b""), "PROTOCOL_ERROR"),
    ("CONTINUATION after the end", _OPEN + frames.frame(9, 4, 1, b""), "PROTOCOL_ERROR"),
    (
        "a frame within a block",
        headers(1, CALL, 0) + frames.frame(6, 0, 0, _PING),
        "PROTOCOL_ERROR",
    ),
    ("a request within a block", headers(1, CALL, 0) + headers(1), "PROTOCOL_ERROR"),
    ("a later request within a block", headers(1, CALL, 0) + headers(3), "PROTOCOL_ERROR"),
    (
        "a request within trailers",
        _OPEN + headers(1, ((b"x", b"y"),), 1) + headers(3),
        "PROTOCOL_ERROR",
    ),
    (
        "CONTINUATION of another stream",
        headers(1, CALL, 0) + frames.frame(9, 4, 3, b""),
        "PROTOCOL_ERROR",
    ),
    (
        "an unknown frame within a block",
        headers(1, CALL, 0) + frames.frame(0x16, 0, 1, b""),
        "PROTOCOL_ERROR",
    ),
]


@pytest.mark.parametrize(
    ("sent", "code"),
    [pytest.param(sent, code, id=name) for name, sent, code in _CONNECTION_ERRORS],
)
def test_connection_error_sends_goaway_and_closes(sent: bytes, code: str) -> None:
    connection = connect()

    calls = connection.receive(sent)

    assert calls == []
    assert connection.is_closing
    assert peer.goaways(connection.take_output()) == [(0, ErrorCode[code])]
    assert connection.receive(call(101)) == []


_STREAM_ERRORS = [
    ("WINDOW_UPDATE of zero", _OPEN + frames.window_update(1, 0), "PROTOCOL_ERROR"),
    (
        "WINDOW_UPDATE that overflows",
        _OPEN + frames.window_update(1, 2**31 - 1),
        "FLOW_CONTROL_ERROR",
    ),
    ("DATA after the end", call(1) + data(1, b""), "STREAM_CLOSED"),
    (
        "DATA after RST_STREAM",
        _OPEN + frames.rst_stream(1, ErrorCode.CANCEL) + data(1, b""),
        "STREAM_CLOSED",
    ),
    ("trailers that do not end", _OPEN + headers(1, ((b"a", b"b"),)), "PROTOCOL_ERROR"),
    ("pseudo-headers in trailers", _OPEN + headers(1, ((b":path", b"/"),), 5), "PROTOCOL_ERROR"),
    ("upper case in trailers", _OPEN + headers(1, ((b"Aa", b"b"),), 5), "PROTOCOL_ERROR"),
    (
        "less DATA than content-length",
        headers(1, changed(content_length=b"11")) + data(1, message(b"hello")),
        "PROTOCOL_ERROR",
    ),
    ("no DATA for content-length", headers(1, changed(content_length=b"1"), 5), "PROTOCOL_ERROR"),
]


@pytest.mark.parametrize(
    ("sent", "code"), [pytest.param(sent, code, id=name) for name, sent, code in _STREAM_ERRORS]
)
def test_stream_error_resets_the_stream_and_the_connection_goes_on(sent: bytes, code: str) -> None:
    connection = connect()

    connection.receive(sent)

    assert (1, ErrorCode[code]) in peer.resets(connection.take_output())
    assert [each[0] for each in connection.receive(call(3))] == [3]


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frames.frame(0x16, 0xFF, 0, b"abc"), id="an unknown type"),
        pytest.param(frames.frame(0x16, 0xFF, 77, b"abc"), id="an unknown type on a stream"),
        pytest.param(frames.settings({0xFFFF: 7}), id="an unknown setting"),
        pytest.param(frames.frame(2, 0, 9, _u32(3) + b"\x10"), id="PRIORITY of an idle stream"),
        pytest.param(frames.frame(frames.PING, 0xFE, 0, _PING), id="unknown flags"),
        pytest.param(frames.goaway(0, ErrorCode.NO_ERROR, b"bye"), id="GOAWAY"),
        pytest.param(frames.frame(frames.SETTINGS, 1, 0), id="an acknowledgement"),
        pytest.param(call(1) + frames.window_update(1, 5), id="WINDOW_UPDATE after the end"),
        pytest.param(
            call(1) + frames.rst_stream(1, ErrorCode.CANCEL) + frames.rst_stream(1, 8),  # type: ignore[arg-type] # a number as a peer sends it
            id="RST_STREAM twice",
        ),
    ],
)
def test_frames_that_mean_nothing_here_are_ignored(sent: bytes) -> None:
    connection = connect()

    connection.receive(sent)

    assert peer.resets(connection.take_output()) == []
    assert [each[0] for each in connection.receive(call(3))] == [3]


def test_ping_is_answered_with_its_payload_and_an_ack_is_not() -> None:
    connection = connect()

    connection.receive(frames.frame(frames.PING, 0, 0, _PING))
    connection.receive(frames.frame(frames.PING, frames.ACK, 0, (7).to_bytes(8, "big")))

    assert connection.take_output() == frames.frame(frames.PING, frames.ACK, 0, _PING)
    assert connection.last_ping_ack == 7


def test_ping_asks_the_peer_whether_it_lives() -> None:
    connection = connect()

    connection.ping(9)

    assert connection.take_output() == frames.frame(frames.PING, 0, 0, (9).to_bytes(8, "big"))


def test_padding_and_priority_are_taken_off() -> None:
    # Given HEADERS with both, and DATA with padding
    block = headers(1)[9:]
    flags = frames.END_HEADERS | frames.PADDED | frames.HAS_PRIORITY
    opening = frames.frame(1, flags, 1, b"\x04" + _u32(3) + b"\x10" + block + bytes(4))
    body = frames.frame(0, frames.PADDED | frames.END_STREAM, 1, b"\x03" + message(b"x") + bytes(3))

    calls = connect().receive(opening + body)

    assert [(each[0], each[2]) for each in calls] == [(1, b"x")]


def test_reserved_bit_of_a_stream_id_is_ignored() -> None:
    sent = bytearray(call(1))
    sent[5] |= 0x80

    assert len(connect().receive(bytes(sent))) == 1


def test_largest_stream_is_the_last_one() -> None:
    # Given an open request, and a call on the largest stream
    connection = connect()
    connection.receive(headers(1) + data(1, message(b"x"), 0))
    assert [each[0] for each in connection.receive(call(2**31 - 1))] == [2**31 - 1]

    # When the first one is used with the reserved bit, which makes it the number behind the last
    calls = connection.receive(headers(2**31 + 1, ((b"x-check", b"1"),), 5))

    # Then it is still the first one, and no other begins
    assert [each[0] for each in calls] == [1]
    connection.take_output()
    assert connection.receive(headers(2**31 + 1)) == []
    assert peer.goaways(connection.take_output()) == [(2**31 - 1, ErrorCode.STREAM_CLOSED)]


def test_continuation_completes_a_block() -> None:
    block = headers(1)[9:]
    sent = frames.frame(1, 0, 1, block[:5]) + frames.frame(9, 0, 1, block[5:6])
    sent += frames.frame(9, 4, 1, block[6:]) + data(1, message(b"x"))

    assert [each[2] for each in connect().receive(sent)] == [b"x"]


def test_trailers_end_a_request() -> None:
    sent = headers(1) + data(1, message(b"x"), 0) + headers(1, ((b"x-check", b"1"),), 5)

    assert [each[2] for each in connect().receive(sent)] == [b"x"]


def test_requests_go_on_behind_trailers_in_pieces() -> None:
    # Given trailers that CONTINUATION completes, with another request behind them
    trailer = encode_static(((b"x-check", b"1"),))
    cut = frames.frame(1, 1, 1, trailer[:3]) + frames.frame(9, 4, 1, trailer[3:])
    connection = connect()

    calls = connection.receive(headers(1) + data(1, message(b"x"), 0) + cut + call(3))

    # Then both are calls, the second on the short way
    assert [each[0] for each in calls] == [1, 3]
    assert connection._counters.block_hits == 1  # noqa: SLF001


def test_rst_stream_of_a_call_in_flight_makes_its_answer_dropped() -> None:
    connection = connect()
    connection.receive(call(1) + call(3))

    connection.receive(frames.rst_stream(1, ErrorCode.CANCEL))
    assert not connection.is_awaited(1)
    connection.answer(1, b"late")
    connection.fail(1, 4, "late")

    assert connection._counters.answers_dropped == 2  # noqa: SLF001
    assert connection.take_output() == b""
    assert connection.calls_in_flight == 1


def test_connection_error_names_the_last_stream_before_and_cancels_its_calls() -> None:
    # Given one call with the service
    connection = connect()
    connection.receive(call(1))
    connection.take_output()

    # When a read brings another one, and then nonsense
    calls = connection.receive(call(3) + data(0, b""))

    # Then the second may be sent again elsewhere, and nobody waits for the first
    assert calls == []
    assert peer.goaways(connection.take_output()) == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert not connection.is_awaited(1)


def test_connection_that_is_lost_keeps_nothing() -> None:
    # Given calls with the service, answers that wait, a half request, a half block and a half frame
    connection = connect()
    connection.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}) + call(1) + call(3))
    connection.answer(1, b"hello")
    connection.receive(headers(5) + data(5, message(b"x")[:3], 0) + headers(7, CALL, 0) + b"\0")
    assert connection.buffered_bytes > 20

    connection.lose()

    assert connection.buffered_bytes == 0
    assert connection.is_idle
    assert not connection.is_awaited(3)


def test_drain_lets_streams_finish_and_ignores_later_ones() -> None:
    # Given a call in flight, when the connection drains
    connection = connect()
    connection.receive(call(1))
    connection.drain()
    assert peer.goaways(connection.take_output()) == [(2**31 - 1, ErrorCode.NO_ERROR)]

    # Then one that was under way is taken until the peer has seen it
    assert len(connection.receive(call(3))) == 1
    connection.receive(frames.frame(frames.PING, frames.ACK, 0, b"draining"))
    assert peer.goaways(connection.take_output()) == [(3, ErrorCode.NO_ERROR)]

    # And later ones are ignored
    assert connection.receive(call(5) + frames.window_update(5, 10)) == []
    assert connection.take_output() == b""
    assert not connection.is_drained
    connection.answer(1, b"")
    connection.answer(3, b"")
    assert not connection.is_closing
    assert connection.is_drained


def test_frames_on_a_stream_that_we_reset_are_ignored() -> None:
    # Given a call that was refused before its end
    connection = connect()
    connection.receive(headers(1, changed(path=b"/no/such")))
    assert peer.resets(connection.take_output()) == [(1, ErrorCode.NO_ERROR)]

    # When the rest of it comes
    connection.receive(data(1, message(b"x"), 0) + headers(1, ((b"a", b"b"),), 5))
    connection.receive(frames.window_update(1, 0))

    # Then nothing is said to it
    assert connection.take_output() == b""
    assert len(connection.receive(call(3))) == 1
