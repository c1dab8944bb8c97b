"""Every bound of Bounds, and what fires it; and of what is remembered."""

from dataclasses import fields

import pytest

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.connection import Connection
from ratelimitd.transport.h2.dispatch import REMEMBERED_GAPS
from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.headers import MAX_CONSTANTS, MAX_SHAPES, _parse_timeout
from ratelimitd.transport.h2.lifecycle import REMEMBERED_RESETS
from ratelimitd.transport.h2.profile import Profile
from tests.transport.h2 import peer
from tests.transport.h2.peer import CALL, call, changed, connect, data, headers, message

_PING = frames.frame(frames.PING, 0, 0, b"12345678")
_PRIORITY = frames.frame(frames.PRIORITY, 0, 1, b"\0\0\0\3\x10")

# For each bound that ends the connection: a small value, what is sent once, and what is sent
# again and again until it fires.
_FLOODS: dict[str, tuple[int, bytes, bytes]] = {
    "resets_per_interval": (5, call(1), frames.rst_stream(1, ErrorCode.CANCEL)),
    "settings_per_interval": (5, b"", frames.settings({})),
    "pings_per_interval": (5, b"", _PING),
    "empty_data_per_interval": (5, headers(1), data(1, b"", 0)),
    "window_updates_per_interval": (5, b"", frames.window_update(0, 1)),
    "other_frames_per_interval": (5, b"", _PRIORITY),
}
_TESTED_BELOW = {
    "concurrent_streams",
    "stream_errors_per_interval",
    "message_bytes",
    "header_list_bytes",
    "header_block_bytes",
    "continuation_frames",
    "buffered_request_bytes",
    "buffered_answer_bytes",
    "connection_window",
    "frames_per_call",
    "header_intervals",
    "body_intervals",
    "answer_intervals",
    "remembered_blocks",
    "remembered_block_bytes",
}


def test_every_bound_is_tested() -> None:
    assert {field.name for field in fields(Bounds)} == _TESTED_BELOW | _FLOODS.keys()


def _assert_calm(connection: Connection, bound: str) -> None:
    [(_, code)] = peer.goaways(connection.take_output())
    assert code == ErrorCode.ENHANCE_YOUR_CALM
    assert connection.is_closing
    assert bound in connection.end_reason
    assert connection._counters.over_bound == {bound: 1}  # noqa: SLF001


@pytest.mark.parametrize("bound", _FLOODS)
def test_flood_ends_the_connection_beyond_its_bound(bound: str) -> None:
    # Given a small bound, of which nothing was used and no call completed
    size, once, again = _FLOODS[bound]
    connection = connect(Bounds(**{bound: size, "frames_per_call": 0}))
    connection.receive(once)
    connection.new_interval()

    # When just as much comes in two intervals
    for _ in range(2):
        for _ in range(size):
            connection.receive(again)
        assert not connection.is_closing
        connection.new_interval()

    # Then one more in one interval is too much
    connection.take_output()
    connection.receive(again * (size + 1))
    _assert_calm(connection, bound)


def test_flood_of_rapid_resets_ends_the_connection() -> None:
    # Given nothing but calls that are taken back at once (CVE-2023-44487)
    connection = connect()
    calls = 0
    for stream_id in range(1, 100_001, 2):
        calls += len(
            connection.receive(headers(stream_id) + frames.rst_stream(stream_id, ErrorCode.CANCEL))
        )
        if connection.is_closing:
            break

    assert connection.is_closing
    assert stream_id < 2 * 2048 + 3
    assert calls == 0


def test_flood_of_malformed_requests_ends_the_connection() -> None:
    # Given requests that are reset, one after the other
    connection = connect(Bounds(stream_errors_per_interval=5))
    wrong = [headers(stream_id, changed(te=b"gzip"), 5) for stream_id in range(1, 35, 2)]

    # When as many come as may in an interval, twice
    for part in (wrong[:5], wrong[5:10]):
        connection.receive(b"".join(part))
        connection.new_interval()
    assert len(peer.resets(connection.take_output())) == 10
    assert not connection.is_closing

    # Then one more than that is too much
    connection.receive(b"".join(wrong[10:16]))
    _assert_calm(connection, "stream_errors_per_interval")


def test_frames_per_call_are_allowed_beyond_the_bound() -> None:
    connection = connect(Bounds(pings_per_interval=0, frames_per_call=2))
    connection.receive(call(1))

    connection.receive(_PING * 2)
    assert not connection.is_closing
    connection.receive(_PING)
    assert connection.is_closing


def test_concurrent_streams_beyond_the_bound_are_refused_for_another_try() -> None:
    connection = connect(Bounds(concurrent_streams=3))

    calls = connection.receive(call(1) + headers(3) + call(5) + call(7) + headers(9))

    assert [each[0] for each in calls] == [1, 5]
    assert peer.resets(connection.take_output()) == [
        (7, ErrorCode.REFUSED_STREAM),
        (9, ErrorCode.REFUSED_STREAM),
    ]
    connection.answer(1, b"")
    assert len(connection.receive(call(11))) == 1


def test_concurrent_streams_count_answers_that_wait() -> None:
    connection = connect(Bounds(concurrent_streams=1))
    connection.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}) + call(1))
    connection.answer(1, b"x")

    assert connection.receive(call(3)) == []
    connection.receive(frames.window_update(1, 100))
    assert len(connection.receive(call(5))) == 1


def test_concurrent_streams_are_advertised() -> None:
    greeting = peer.sent_frames(connect(Bounds(), is_greeted=False).take_output())

    assert greeting[0].settings == {  # type: ignore[attr-defined] # hyperframe has no union
        frames.MAX_CONCURRENT_STREAMS: 1024,
        frames.MAX_HEADER_LIST_SIZE: 16384,
    }
    assert greeting[1].window_increment == 1024 * 1024 - 65535  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [100, 20_000])
def test_message_of_the_bound_passes_and_one_more_byte_does_not(size: int) -> None:
    connection = connect(Bounds(message_bytes=size))
    for stream_id, length in ((1, size), (3, size + 1)):
        connection.receive(headers(stream_id))
        rest = message(bytes(length))
        for start in range(0, len(rest), 16384):
            is_last = start + 16384 >= len(rest)
            part = data(stream_id, rest[start : start + 16384], int(is_last))
            calls = connection.receive(part)
        assert len(calls) == (stream_id == 1)

    assert connection._counters.refused == {"message_bytes": 1}  # noqa: SLF001
    assert connection.buffered_bytes == 0


def test_message_over_the_bound_in_one_read_is_refused() -> None:
    connection = connect(Bounds(message_bytes=100))

    assert connection.receive(call(1, bytes(101))) == []
    assert len(connection.receive(call(3, bytes(100)))) == 1


def test_header_list_over_the_bound_refuses_only_its_call() -> None:
    connection = connect(Bounds(header_list_bytes=1000))

    calls = connection.receive(call(1, fields=changed(large=b"x" * 1000)) + call(3))

    assert [each[0] for each in calls] == [3]
    assert connection._counters.refused == {"header_list_bytes": 1}  # noqa: SLF001


@pytest.mark.parametrize("sizes", [[16000, 16000, 16000], [1000, 16384, 16384]])
def test_header_block_over_the_bound_ends_the_connection(sizes: list[int]) -> None:
    connection = connect()

    connection.receive(frames.frame(frames.HEADERS, 0, 1, bytes(sizes[0])))
    for size in sizes[1:]:
        connection.receive(frames.frame(frames.CONTINUATION, 0, 1, bytes(size)))

    _assert_calm(connection, "header_block_bytes")
    assert connection.buffered_bytes == 0


def test_continuation_frames_without_end_end_the_connection() -> None:
    connection = connect()
    connection.receive(headers(1, CALL, 0))

    for _ in range(8):
        connection.receive(frames.frame(frames.CONTINUATION, 0, 1, b""))
    assert not connection.is_closing
    connection.receive(frames.frame(frames.CONTINUATION, 0, 1, b""))

    _assert_calm(connection, "continuation_frames")


def test_buffered_requests_over_the_bound_end_the_connection() -> None:
    connection = connect(Bounds(buffered_request_bytes=100_000))
    part = message(bytes(1000_000))[:16384]

    for stream_id in range(1, 13, 2):
        connection.receive(headers(stream_id) + data(stream_id, part, 0))
    assert connection.buffered_bytes == 6 * 16384
    connection.receive(headers(13) + data(13, part, 0))

    _assert_calm(connection, "buffered_request_bytes")
    assert connection.buffered_bytes == 0


def test_buffered_answers_over_the_bound_end_the_connection() -> None:
    # Given a peer that never opens its window
    connection = connect(Bounds(buffered_answer_bytes=1000))
    connection.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    for stream_id in range(1, 25, 2):
        connection.receive(call(stream_id))
    connection.take_output()

    # When its answers become too many
    for stream_id in range(1, 25, 2):
        connection.answer(stream_id, bytes(95))

    _assert_calm(connection, "buffered_answer_bytes")
    assert connection.buffered_bytes == 0
    assert connection.is_idle


def test_connection_window_smaller_is_not_possible() -> None:
    with pytest.raises(AssertionError):
        connect(Bounds(connection_window=65534))


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(frames.PREFACE[:10], id="half a preface"),
        pytest.param(frames.PREFACE, id="no settings"),
        pytest.param(frames.PREFACE + frames.settings({}) + call(1)[:30], id="half a frame"),
        pytest.param(frames.PREFACE + frames.settings({}) + headers(1, CALL, 0), id="half a block"),
    ],
)
def test_header_intervals_end_what_was_begun(begun: bytes) -> None:
    connection = connect(Bounds(header_intervals=3), is_greeted=False)
    connection.take_output()
    connection.receive(begun)
    connection.take_output()

    for _ in range(4):
        assert not connection.is_closing
        connection.new_interval()

    _assert_calm(connection, "header_intervals")


def test_header_intervals_do_not_end_the_quiet_or_the_busy() -> None:
    # Given a frame that is always cut, but another one each time
    connection = connect(Bounds(header_intervals=3))
    sent = b"".join(map(call, range(1, 81, 2)))

    for start in range(0, len(sent), 50):
        connection.receive(sent[start : start + 50])
        connection.new_interval()
    for _ in range(100):
        connection.new_interval()

    assert not connection.is_closing


def test_body_intervals_reset_a_request_that_never_ends() -> None:
    connection = connect(Bounds(body_intervals=3))
    connection.receive(headers(1))

    for _ in range(3):
        connection.receive(data(1, b"\0", 0))
        connection.new_interval()
    assert connection.take_output() == b""
    connection.new_interval()

    assert peer.resets(connection.take_output()) == [(1, ErrorCode.CANCEL)]
    assert connection.is_idle


def test_answer_intervals_reset_what_the_peer_does_not_let_through() -> None:
    # Given a peer that asks, and never opens the windows of two streams
    connection = connect(Bounds(answer_intervals=3))
    shut = frames.settings({frames.INITIAL_WINDOW_SIZE: 4})
    connection.receive(shut + call(1) + call(3) + call(5) + frames.window_update(5, 100))
    for stream_id in (1, 3, 5):
        connection.answer(stream_id, b"hello")

    # When it waits for longer than it may, although one window moves a little
    connection.take_output()
    for _ in range(3):
        connection.new_interval()
        connection.receive(frames.window_update(3, 1))
    assert peer.resets(connection.take_output()) == []
    connection.new_interval()

    # Then both answers are given up, and the connection goes on
    assert peer.resets(connection.take_output()) == [(1, ErrorCode.CANCEL), (3, ErrorCode.CANCEL)]
    assert connection._counters.refused == {"answer_intervals": 2}  # noqa: SLF001
    assert (connection.is_idle, connection.buffered_bytes) == (True, 0)
    assert not connection.has_begun
    connection.receive(call(7))
    assert connection.is_awaited(7)


def test_remembered_blocks_are_bounded_in_number_and_size() -> None:
    connection = connect(Bounds(remembered_blocks=4, remembered_block_bytes=300))

    for stream_id in range(1, 101, 2):
        connection.receive(call(stream_id, fields=changed(number=b"%d" % stream_id)))
        connection.receive(call(stream_id + 100, fields=changed(large=b"x" * stream_id * 9)))
        assert len(connection._blocks) <= 4  # noqa: SLF001
        assert all(len(block) <= 300 for block in connection._blocks)  # noqa: SLF001


def test_skipped_and_reset_streams_are_remembered_in_bounded_number() -> None:
    # Given a peer that skips stream ids, and whose requests are reset
    connection = connect()

    for number in range(300):
        connection.receive(headers(1 + 4 * number, changed(te=b"gzip"), 5))

    # Then the last ones are known
    assert not connection.is_closing
    assert len(connection._gaps) == REMEMBERED_GAPS  # noqa: SLF001
    assert len(connection._our_resets) == REMEMBERED_RESETS  # noqa: SLF001
    connection.take_output()
    connection.receive(data(1 + 4 * 299, b"") + data(1 + 4 * 299 - 4, b""))
    assert connection.take_output() == b""
    connection.receive(headers(4 * 299 - 1))
    assert peer.goaways(connection.take_output()) == [(4 * 299 + 1, ErrorCode.PROTOCOL_ERROR)]


def test_timeouts_that_are_too_long_are_not_remembered() -> None:
    connection = connect()
    connection.receive(call(1, fields=changed(grpc_timeout=b"5S")))
    before = _parse_timeout.cache_info().currsize

    for stream_id in range(3, 100, 2):
        connection.receive(call(stream_id, fields=changed(grpc_timeout=b"%0999dS" % stream_id)))

    assert _parse_timeout.cache_info().currsize == before
    assert connection._counters.refused == {"timeout": 49}  # noqa: SLF001


def test_what_all_connections_remember_of_heads_is_bounded() -> None:
    # Given one server, and peers whose requests all have other names and values
    profile = Profile(peer.METHODS, Bounds())
    for number in range(3 * MAX_SHAPES):
        connection = Connection(profile)
        greeting = frames.PREFACE + frames.settings({})
        fields = [*changed(path=b"/%d" % number), (b"x%d" % number, b"1")]
        connection.receive(greeting + call(1, fields=fields))
        connection.receive(call(3, fields=changed(path=b"/" + b"x" * 600)))

        heads = profile.heads
        assert len(heads._shapes) <= MAX_SHAPES  # noqa: SLF001
        assert len(heads._constants) <= MAX_CONSTANTS  # noqa: SLF001
    assert all(sum(map(len, each)) <= 512 for each in heads._shapes)  # noqa: SLF001
    assert all(sum(len(v or b"") for v in each) <= 512 for each in heads._constants)  # noqa: SLF001
