"""Arbitrary, mutated and cut input: nothing escapes, and memory stays bounded."""

import random

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.connection import Call, Connection
from ratelimitd.transport.h2.frames import ErrorCode
from tests.transport.h2 import peer
from tests.transport.h2.peer import CALL, call, changed, connect, data, headers, message

_GREETING = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 100})


def _conversation() -> bytes:
    """Return what a client may send in its life: all frame types, indexed blocks, good and bad."""
    encoder = hpack.Encoder()
    sent = _GREETING
    for stream_id, fields in ((1, CALL), (3, CALL), (5, changed(content_length=b"10"))):
        block = encoder.encode(list(fields))
        sent += frames.frame(1, 0, stream_id, block[:3]) + frames.frame(9, 4, stream_id, block[3:])
        sent += frames.window_update(stream_id, 10) + data(stream_id, message(b"hello")[:4], 0)
        sent += frames.frame(0, 9, stream_id, b"\x02" + message(b"hello")[4:] + b"\0\0")
        sent += frames.frame(frames.PING, 0, 0, bytes(8))
    for stream_id in range(31, 51, 2):
        fields = changed(traceparent=b"00-%032x-%016x-01" % (stream_id << 90, stream_id))
        sent += frames.frame(1, 4, stream_id, encoder.encode(fields))
        sent += data(stream_id, message(b"y" * stream_id))
    sent += frames.rst_stream(31, ErrorCode.CANCEL) + frames.window_update(0, 1000)
    sent += frames.frame(2, 0, 61, b"\0\0\0\3\x10")
    sent += headers(61) + data(61, message(b"a"), 0) + headers(61, ((b"x", b"y"),), 5)
    sent += headers(63, changed(method=b"GET"), 5)
    sent += headers(65, changed(path=b"/none")) + data(65, message(b"b"))
    return sent + frames.frame(0x42, 3, 9, b"?") + frames.goaway(0, ErrorCode.NO_ERROR)


_VALID = _conversation()


def _feed(connection: Connection, pieces: list[bytes], *, answers: bool = True) -> list[Call]:
    calls: list[Call] = []
    for piece in pieces:
        found = connection.receive(piece)
        calls += found
        if answers:
            for stream_id, _, body in found:
                connection.answer(stream_id, body)
    return calls


def _new() -> Connection:
    return connect(is_greeted=False)


def test_valid_conversation_is_valid() -> None:
    connection = _new()

    calls = _feed(connection, [_VALID])

    assert not connection.is_closing, connection.end_reason
    assert [each[0] for each in calls] == [1, 3, 5, *range(31, 51, 2), 61]
    peer.sent_frames(connection.take_output())


def test_split_at_every_boundary_gives_the_same_calls() -> None:
    whole = _feed(_new(), [_VALID])

    for at in range(1, len(_VALID)):
        connection = _new()
        assert _feed(connection, [_VALID[:at], _VALID[at:]]) == whole
        assert not connection.is_closing


def test_byte_by_byte_gives_the_same_calls_and_answers() -> None:
    whole, single = _new(), _new()

    expected = _feed(whole, [_VALID], answers=False)
    found = _feed(single, [_VALID[i : i + 1] for i in range(len(_VALID))], answers=False)

    assert found == expected
    for connection in (whole, single):
        for stream_id, _, body in expected:
            connection.answer(stream_id, body)
    # A refusal that comes before the end of its request is followed by RST_STREAM.
    kinds = [
        sorted(
            (frame.stream_id, frame.type)
            for frame in peer.sent_frames(each.take_output())
            if frame.type != frames.RST_STREAM
        )
        for each in (whole, single)
    ]
    assert kinds[0] == kinds[1]


def _assert_sane(connection: Connection, bounds: Bounds) -> None:
    assert connection.buffered_bytes <= (
        bounds.buffered_request_bytes
        + bounds.buffered_answer_bytes
        + bounds.header_block_bytes
        + frames.DEFAULT_FRAME_SIZE
        + frames.HEADER_LENGTH
    )
    assert len(connection._blocks) <= bounds.remembered_blocks  # noqa: SLF001
    assert connection._intake.early == []  # noqa: SLF001
    assert len(connection._our_resets) <= 128  # noqa: SLF001
    assert connection.calls_in_flight <= bounds.concurrent_streams
    # What is sent is always whole frames.
    peer.sent_frames(connection.take_output())


@given(st.lists(st.binary(max_size=200), max_size=10), st.booleans())
def test_arbitrary_bytes_never_escape(pieces: list[bytes], is_greeted: bool) -> None:
    connection = connect(is_greeted=is_greeted)

    _feed(connection, pieces)

    _assert_sane(connection, Bounds())


_FRAMES = st.builds(
    frames.frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7, 2**31 - 1]),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([headers(1)[9:], message(b"hello"), bytes(4), bytes(8), b"\0\0\0\1"]),
    ),
)


@given(st.lists(st.one_of(_FRAMES, st.sampled_from([call(1), call(3), headers(5)])), max_size=40))
def test_arbitrary_frames_never_escape(sent: list[bytes]) -> None:
    connection = connect()

    _feed(connection, sent)
    for _ in range(3):
        connection.new_interval()

    _assert_sane(connection, Bounds())


@given(st.data())
def test_mutated_conversations_never_escape(source: st.DataObject) -> None:
    sent = bytearray(_VALID)
    for _ in range(source.draw(st.integers(1, 6))):
        at = source.draw(st.integers(0, len(sent) - 1))
        match source.draw(st.integers(0, 2)):
            case 0:
                sent[at] ^= source.draw(st.integers(1, 255))
            case 1:
                del sent[at : at + source.draw(st.integers(1, 20))]
            case _:
                sent[at:at] = source.draw(st.binary(min_size=1, max_size=20))

    connection = _new()
    _feed(connection, [bytes(sent)])

    _assert_sane(connection, Bounds())


@pytest.mark.parametrize("seed", range(4))
def test_long_mutated_streams_keep_memory_bounded(seed: int) -> None:
    # Given small bounds, and a peer that sends frames with random mistakes for long
    source = random.Random(seed)
    bounds = Bounds(buffered_request_bytes=3000, buffered_answer_bytes=300, concurrent_streams=8)
    for _ in range(30):
        connection = connect(bounds)
        stream_id = 1
        for _ in range(100):
            frame = bytearray(
                source.choice(
                    [
                        call(stream_id),
                        headers(stream_id),
                        data(max(1, stream_id - 2), message(bytes(source.randrange(999))), 0),
                        frames.window_update(0, 5),
                        frames.settings({frames.INITIAL_WINDOW_SIZE: source.randrange(9)}),
                        frames.rst_stream(max(1, stream_id - 4), ErrorCode.CANCEL),
                    ]
                )
            )
            if source.random() < 0.02:
                frame[source.randrange(len(frame))] ^= 1 << source.randrange(8)
            if frame[3] == frames.HEADERS:
                stream_id += 2
            _feed(connection, [bytes(frame)])
            _assert_sane(connection, bounds)
