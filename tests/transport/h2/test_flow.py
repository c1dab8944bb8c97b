"""Flow control in both directions (RFC 9113, 5.2 and 6.9)."""

import hyperframe.frame
import pytest
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.frames import ErrorCode
from tests.transport.h2 import peer
from tests.transport.h2.peer import Client, call, changed, connect, data, headers, message

_SHUT = frames.settings({frames.INITIAL_WINDOW_SIZE: 0})


def _sent_data(output: bytes, stream_id: int = 1) -> bytes:
    return b"".join(
        frame.data
        for frame in peer.sent_frames(output)
        if isinstance(frame, hyperframe.frame.DataFrame) and frame.stream_id == stream_id
    )


def test_answer_waits_for_a_stream_window_and_goes_byte_by_byte() -> None:
    # Given a peer whose streams may not receive anything
    connection = connect()
    connection.receive(_SHUT + call(1))
    connection.answer(1, b"hello")
    opening = peer.sent_frames(connection.take_output())
    assert opening[-1].type == frames.HEADERS
    assert connection.buffered_bytes == 10

    # When it opens the window byte by byte
    received = b""
    for _ in range(9):
        connection.receive(frames.window_update(1, 1))
        received += _sent_data(connection.take_output())
    assert not connection.is_idle
    connection.receive(frames.window_update(1, 1))
    last = connection.take_output()

    # Then the last byte brings the trailers
    assert received + _sent_data(last) == message(b"hello")
    assert peer.sent_frames(last)[-1].type == frames.HEADERS
    assert (connection.is_idle, connection.buffered_bytes) == (True, 0)


def test_answers_wait_for_the_connection_window_in_their_order() -> None:
    # Given a connection window that one answer uses up
    connection = connect()
    connection.receive(call(1) + call(3) + call(5))
    connection.answer(3, bytes(65530))
    assert len(_sent_data(connection.take_output(), 3)) == 65535

    # When two more are ready and 12 bytes are allowed
    connection.answer(5, b"five!")
    connection.answer(1, b"one..")
    connection.receive(frames.window_update(0, 12))
    output = connection.take_output()

    # Then the older has its ten, the other what is left
    assert _sent_data(output, 5) == message(b"five!")
    assert _sent_data(output, 1) == message(b"one..")[:2]


def test_initial_window_size_is_acknowledged_before_it_is_used() -> None:
    # Given an answer that waits
    connection = connect()
    connection.receive(_SHUT + call(1))
    connection.answer(1, b"hello")
    connection.take_output()

    # When the peer's settings make room
    connection.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 1}))
    sent = peer.sent_frames(connection.take_output())

    # Then
    assert [frame.type for frame in sent] == [frames.SETTINGS, frames.DATA]


def test_initial_window_size_moves_open_streams_also_below_zero() -> None:
    # Given an answer of ten bytes, of which a window of 7 let 7 pass
    connection = connect()
    connection.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 7}) + call(1))
    connection.answer(1, b"hello")
    assert len(_sent_data(connection.take_output())) == 7

    # When the setting falls to 5, the window is -2, and 2 more open nothing
    connection.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 5}))
    connection.receive(frames.window_update(1, 2))
    assert _sent_data(connection.take_output()) == b""

    # Then one more lets one byte pass, and the setting of 7 the rest
    connection.receive(frames.window_update(1, 1))
    assert len(_sent_data(connection.take_output())) == 1
    connection.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 7}))
    assert len(_sent_data(connection.take_output())) == 2
    assert connection.is_idle


def test_initial_window_size_that_overflows_a_stream_ends_the_connection() -> None:
    connection = connect()
    connection.receive(call(1) + frames.window_update(1, 1))

    connection.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31 - 1}))

    assert peer.goaways(connection.take_output()) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]


@pytest.mark.parametrize("when", ["while receiving", "while serving", "while waiting"])
def test_stream_window_opened_at_any_time_counts(when: str) -> None:
    connection = connect()
    connection.receive(_SHUT)
    opening = frames.window_update(1, 10)

    connection.receive(headers(1) + (opening if when == "while receiving" else b""))
    connection.receive(data(1, message(b"x")) + (opening if when == "while serving" else b""))
    connection.answer(1, b"hello")
    connection.receive(opening if when == "while waiting" else b"")

    assert _sent_data(connection.take_output()) == message(b"hello")
    assert connection.is_idle


def test_stream_window_that_overflows_while_serving_cancels_the_call() -> None:
    connection = connect()
    connection.receive(call(1) + frames.window_update(1, 2**31 - 1))

    assert peer.resets(connection.take_output()) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
    assert not connection.is_awaited(1)


def test_page_for_strangers_keeps_to_the_window() -> None:
    connection = connect()
    connection.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 1}))

    connection.receive(headers(1, changed(method=b"GET"), 5))

    assert _sent_data(connection.take_output()) == b"T"


def test_windows_are_replenished_for_messages_over_64_kib() -> None:
    client = Client()
    body = bytes(range(256)) * 2000

    client.call(body)
    client.call(body)
    client.exchange()
    assert [each[2] == body for each in client.calls] == [True, True]
    client.serve()

    assert client.answers[1].body == message(body)
    assert client.answers[3].body == message(body)
    assert client.connection.buffered_bytes == 0


def test_connection_window_is_replenished_rarely() -> None:
    # Given a window of a mebibyte
    connection = connect()
    updates = 0
    for stream_id in range(1, 601, 2):
        connection.receive(call(stream_id, bytes(4000)))
        connection.answer(stream_id, b"")
        for frame in peer.sent_frames(connection.take_output()):
            updates += frame.type == frames.WINDOW_UPDATE

    # Then 1.2 MB bring two updates
    assert updates == 2


def test_padding_counts_against_the_windows() -> None:
    # Given nothing but padding, many times the window of the connection
    connection = connect(Bounds(connection_window=65535, empty_data_per_interval=10_000))
    connection.receive(headers(1))

    padded = frames.frame(frames.DATA, frames.PADDED, 1, b"\xff" + bytes(255))
    for _ in range(1000):
        connection.receive(padded)

    assert not connection.is_closing
    frames_sent = peer.sent_frames(connection.take_output())
    assert {frame.stream_id for frame in frames_sent} == {0, 1}


def test_more_than_the_stream_window_resets_the_stream() -> None:
    # Given a window that is only replenished by what is read, when one read brings too much
    connection = connect()
    sent = headers(1) + data(1, message(bytes(90_000))[:16384], 0) * 5

    connection._intake._bounds = Bounds()  # noqa: SLF001
    connection.receive(headers(1))
    connection._intake.streams[1].window = 10  # noqa: SLF001
    connection.receive(sent[len(headers(1)) :])

    assert peer.resets(connection.take_output()) == [(1, ErrorCode.FLOW_CONTROL_ERROR)]
    assert len(connection.receive(call(3))) == 1


def test_more_than_the_connection_window_ends_the_connection() -> None:
    # Given a connection whose window is used up
    connection = connect()
    connection._intake._window = 9  # noqa: SLF001

    connection.receive(call(1, b"hello"))

    assert peer.goaways(connection.take_output()) == [(0, ErrorCode.FLOW_CONTROL_ERROR)]


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=8),
    st.integers(0, 40),
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 200)), max_size=30),
)
def test_answers_arrive_whole_however_the_windows_open(
    bodies: list[bytes], initial: int, steps: list[tuple[int, int]]
) -> None:
    # Given a client with tiny windows that never opens them by itself
    client = Client(settings={SettingCodes.INITIAL_WINDOW_SIZE: initial}, acknowledges=False)
    ids = [client.call(body) for body in bodies]
    client.exchange()
    client.serve()

    # When it opens some, and at last all
    for index, increment in steps:
        stream_id = ids[index % len(ids)]
        if not client.answers[stream_id].is_ended:
            client.peer.increment_flow_control_window(increment, stream_id)
            client.exchange()
    for stream_id in ids:
        if not client.answers[stream_id].is_ended:
            client.peer.increment_flow_control_window(1000, stream_id)
    client.exchange()

    # Then the h2 library saw no overrun and every answer
    assert [client.answers[stream_id].body for stream_id in ids] == list(map(message, bodies))
    assert all(client.answers[stream_id].status == b"0" for stream_id in ids)
    assert client.connection.buffered_bytes == 0
