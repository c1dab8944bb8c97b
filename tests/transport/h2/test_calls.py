"""What makes a call, and how the others are refused: RFC 9113, 8, and gRPC."""

import base64
import re

import pytest

from ratelimitd.transport.h2 import frames
from ratelimitd.transport.h2.answers import percent_encode
from ratelimitd.transport.h2.bounds import Bounds
from ratelimitd.transport.h2.frames import ErrorCode
from ratelimitd.transport.h2.headers import parse_timeout
from ratelimitd.transport.h2.hpack import encode_static
from tests.transport.h2 import peer
from tests.transport.h2.peer import CALL, Client, call, changed, connect, data, headers, message


def test_call_brings_handle_message_deadline_and_trace() -> None:
    fields = changed(grpc_timeout=b"250m", traceparent=b"00-aa-bb-01")

    [(stream_id, head, body)] = connect().receive(call(1, b"hello", fields))

    assert (stream_id, body) == (1, b"hello")
    assert head.method == "handle"
    assert head.timeout_s == 0.25
    assert head.trace_parent == "00-aa-bb-01"


def test_calls_of_one_read_come_together_and_are_answered_in_one_output() -> None:
    client = Client()
    ids = [client.peer.get_next_available_stream_id() + 2 * i for i in range(20)]
    for stream_id in ids:
        client.peer.send_headers(stream_id, list(CALL))
        client.peer.send_data(stream_id, message(b"%d" % stream_id), end_stream=True)

    client.exchange()
    assert [each[0] for each in client.calls] == ids
    client.serve()

    for stream_id in ids:
        answer = client.answers[stream_id]
        assert answer.headers == {b":status": b"200", b"content-type": b"application/grpc"}
        assert answer.body == message(b"%d" % stream_id)
        assert answer.status == b"0"
        assert answer.is_ended


def test_blocks_are_remembered_while_the_table_stands_still() -> None:
    # Given a client that indexes, whose first two blocks differ
    client = Client()

    for _ in range(5):
        client.call(b"x")
    client.exchange()

    counters = client.connection._counters  # noqa: SLF001
    assert (counters.block_misses, counters.block_hits) == (2, 3)
    assert len(client.calls) == 5

    # When a block changes the table, the others are worked out again
    client.call(b"x", changed(traceparent=b"00-aa-bb-01"))
    client.call(b"x")
    client.exchange()
    assert (counters.block_misses, counters.block_hits) == (4, 3)
    assert [each[1].trace_parent for each in client.calls] == [None] * 5 + ["00-aa-bb-01", None]


def _trace_literal(value: bytes) -> bytes:
    """Return a traceparent that is inserted into the dynamic table."""
    return b"\x40\x0btraceparent" + bytes((len(value),)) + value


def test_block_whose_bytes_come_again_means_what_the_table_says_now() -> None:
    # Given a block that ends with the newest entry, and is remembered
    connection = connect()
    block = encode_static(CALL)
    sent: list[bytes] = [
        block + _trace_literal(b"first"),
        block + b"\xbe",
        block + b"\xbe",
        # When another entry becomes the newest
        block + _trace_literal(b"second"),
        block + b"\xbe",
    ]

    calls = [
        connection.receive(frames.frame(1, 4, 2 * i + 1, each) + data(2 * i + 1, message(b"")))
        for i, each in enumerate(sent)
    ]

    # Then the same bytes mean that one
    traces = [found[0][1].trace_parent for found in calls]
    assert traces == ["first", "first", "first", "second", "second"]


def test_block_that_changes_the_table_changes_it_each_time() -> None:
    # Given the same block three times, each of which inserts
    connection = connect()
    block = encode_static(CALL)
    for stream_id in (1, 3, 5):
        sent = frames.frame(1, 4, stream_id, block + _trace_literal(b"x"))
        connection.receive(sent + data(stream_id, message(b"")))

    # When a block names the third newest entry
    calls = connection.receive(frames.frame(1, 4, 7, block + b"\xc0") + data(7, message(b"")))

    assert [each[1].trace_parent for each in calls] == ["x"]


_MALFORMED = [
    ("an upper-case name", [*CALL, (b"Foo", b"x")]),
    ("a name with a space", [*CALL, (b"f o", b"x")]),
    ("an empty name", [*CALL, (b"", b"x")]),
    ("a colon in a name", [*CALL, (b"a:b", b"x")]),
    ("a NUL in a value", [*CALL, (b"foo", b"a\0b")]),
    ("a line feed in a value", [*CALL, (b"foo", b"a\nb")]),
    ("a carriage return in a value", [*CALL, (b"foo", b"a\rb")]),
    ("a space before a value", [*CALL, (b"foo", b" a")]),
    ("a tab behind a value", [*CALL, (b"foo", b"a\t")]),
    ("an unknown pseudo-header", [(b":foo", b"x"), *CALL]),
    ("a response's pseudo-header", [(b":status", b"200"), *CALL]),
    ("a pseudo-header twice", [(b":method", b"POST"), *CALL]),
    ("a pseudo-header behind a field", [*CALL[1:], CALL[0]]),
    ("no :method", changed(method=None)),
    ("no :scheme", changed(scheme=None)),
    ("no :path", changed(path=None)),
    ("an empty :path", changed(path=b"")),
    ("connection", changed(connection=b"close")),
    ("keep-alive", changed(keep_alive=b"1")),
    ("proxy-connection", changed(proxy_connection=b"x")),
    ("transfer-encoding", changed(transfer_encoding=b"chunked")),
    ("upgrade", changed(upgrade=b"h2c")),
    ("another te", changed(te=b"gzip")),
    ("a content-length that is no number", changed(content_length=b"+5")),
    ("content-length twice", [*CALL, (b"content-length", b"10"), (b"content-length", b"10")]),
    ("nothing", []),
]


@pytest.mark.parametrize("fields", [pytest.param(fields, id=name) for name, fields in _MALFORMED])
def test_malformed_request_is_a_stream_error(fields: peer.Fields) -> None:
    connection = connect()

    calls = connection.receive(call(1, b"hello", fields) + call(3))

    assert [each[0] for each in calls] == [3]
    assert peer.resets(connection.take_output()) == [(1, ErrorCode.PROTOCOL_ERROR)]


@pytest.mark.parametrize(
    "fields",
    [
        changed(authority=None),
        changed(content_type=b"application/grpc+proto"),
        changed(content_type=b"application/grpc;charset=utf-8"),
        changed(content_length=b"10"),
        changed(grpc_encoding=b"gzip"),
        changed(user_agent=b"grpc-c++/1.80 (linux; chttp2)"),
        changed(binary=b"\x80\xff"),
        changed(empty=b""),
        changed(grpc_timeout=b"123456789S"),
        [*CALL, (b"cookie", b"a"), (b"cookie", b"b")],
    ],
)
def test_unusual_but_good_requests_are_calls(fields: peer.Fields) -> None:
    calls = connect().receive(call(1, b"hello", fields))

    assert [each[2] for each in calls] == [b"hello"]


@pytest.mark.parametrize(
    ("fields", "body", "status", "text"),
    [
        (changed(path=b"/no/such"), message(b""), b"12", b"Method not found!"),
        (
            changed(grpc_timeout=b"1"),
            message(b""),
            b"13",
            b"Error parsing 'grpc-timeout' metadata",
        ),
        (changed(grpc_timeout=b"0S"), message(b""), b"4", b"Deadline Exceeded"),
        (CALL, b"", b"12", b"a unary call needs exactly one message"),
        (CALL, message(b"abc")[:3], b"13", b"the stream ended within the message"),
        (CALL, message(b"abc")[:7], b"13", b"the stream ended within the message"),
        (CALL, message(b"abc", 1), b"13", b"Compression bit set but no encoding configured"),
        (
            changed(grpc_encoding=b"gzip"),
            message(b"abc", 1),
            b"12",
            b"compressed messages are not supported; send identity",
        ),
        (CALL, message(b"", 2), b"13", b"the message's compressed flag is neither 0 nor 1"),
        (
            CALL,
            message(bytes(2000)),
            b"8",
            b"SERVER: Received message larger than max (2000 vs. 1000)",
        ),
        (
            changed(large=b"x" * 20000),
            message(b""),
            b"8",
            b"received metadata size exceeds the limit",
        ),
    ],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_refused_calls_get_a_status(
    fields: peer.Fields, body: bytes, status: bytes, text: bytes, pieces: int
) -> None:
    # Given a client that sends head and body together, or in pieces
    client = Client(Bounds(message_bytes=1000))
    client.peer.send_headers(1, list(fields))
    step = len(body) // pieces + 1
    for start in range(0, max(len(body), 1), step):
        part = body[start : start + step]
        client.peer.send_data(1, part, end_stream=start + step >= max(len(body), 1))

    client.exchange()

    answer = client.answers[1]
    assert client.calls == []
    assert (answer.headers[b":status"], answer.status, answer.message) == (b"200", status, text)
    assert answer.is_ended
    assert client.connection.is_idle


def test_compressed_call_is_told_what_is_accepted() -> None:
    client = Client()
    client.peer.send_headers(1, changed(grpc_encoding=b"gzip"))
    client.peer.send_data(1, message(b"abc", 1), end_stream=True)
    client.exchange()

    assert client.answers[1].headers[b"grpc-accept-encoding"] == b"identity"


def test_second_message_is_ignored_as_by_grpcio() -> None:
    whole = headers(1) + data(1, message(b"a") + message(b"b"))
    parts = headers(3) + data(3, message(b"a"), 0) + data(3, message(b"b"))

    calls = connect().receive(whole + parts)

    assert [each[2] for each in calls] == [b"a", b"a"]


def test_call_without_te_is_reset_as_by_grpcio() -> None:
    connection = connect()

    connection.receive(call(1, b"", changed(te=None)))

    assert peer.resets(connection.take_output()) == [(1, ErrorCode.INTERNAL_ERROR)]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (changed(method=b"GET"), b"405"),
        (changed(method=b"PUT"), b"405"),
        (changed(content_type=None), b"415"),
        (changed(content_type=b"text/html"), b"415"),
        (changed(content_type=b"application/grpc-web"), b"415"),
    ],
)
def test_somebody_without_grpc_gets_a_short_page(fields: peer.Fields, status: bytes) -> None:
    client = Client()

    client.peer.send_headers(1, list(fields), end_stream=True)
    client.exchange()

    answer = client.answers[1]
    assert answer.headers[b":status"] == status
    assert answer.body.startswith(b"This is a gRPC server")
    assert int(answer.headers[b"content-length"]) == len(answer.body)
    assert answer.is_ended


def test_head_request_gets_no_body() -> None:
    client = Client()

    client.peer.send_headers(1, changed(method=b"HEAD"), end_stream=True)
    client.exchange()

    assert (client.answers[1].body, client.answers[1].is_ended) == (b"", True)


def test_refused_stream_that_goes_on_is_answered_and_then_reset() -> None:
    # Given a bidirectional call to a method that is not there
    client = Client()
    client.peer.send_headers(1, changed(path=b"/no/such"))
    client.exchange()

    assert client.answers[1].status == b"12"
    assert client.answers[1].reset == ErrorCode.NO_ERROR


def test_fail_sends_status_message_and_details() -> None:
    client = Client()
    client.call(b"x")
    client.exchange()

    client.connection.fail(1, 8, "zu viel: 100 %\n", b"\x08\x08\x12")
    client.exchange()

    answer = client.answers[1]
    assert answer.status == b"8"
    assert answer.message == b"zu viel: 100 %25%0A"
    assert base64.b64decode(answer.headers[b"grpc-status-details-bin"] + b"==") == b"\x08\x08\x12"
    assert (answer.is_ended, answer.body) == (True, b"")


def test_fail_with_a_huge_message_stays_in_one_frame() -> None:
    client = Client()
    client.call(b"x")
    client.exchange()

    client.connection.fail(1, 13, "\N{SNOWMAN}" * 5000, bytes(20000))
    client.exchange()

    answer = client.answers[1]
    assert answer.message is not None
    assert len(answer.message) <= 2048
    assert b"grpc-status-details-bin" not in answer.headers
    # No escape is cut in two.
    assert re.fullmatch(rb"(%[0-9A-F]{2})+", answer.message)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("plain text", b"plain text"),
        ("50%", b"50%25"),
        ("a\tb", b"a%09b"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}", b"%C3%A9"),
        ("\x7f", b"%7F"),
        ("\ud800", b"?"),
    ],
)
def test_percent_encode_leaves_printable_ascii_alone(text: str, encoded: bytes) -> None:
    assert percent_encode(text) == encoded


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"4m", 0.004),
        (b"5u", 0.000005),
        (b"6n", 0.000000006),
        (b"0n", 0.0),
        (b"99999999H", 99999999 * 3600.0),
        (b"", None),
        (b"S", None),
        (b"5", None),
        (b"5s", None),
        (b"-5S", None),
        (b"+5S", None),
        (b"1.5S", None),
        (b" 5S", None),
        (b"1" * 40 + b"S", None),
    ],
)
def test_parse_timeout_reads_the_units(value: bytes, seconds: float | None) -> None:
    assert parse_timeout(value) == (None if seconds is None else pytest.approx(seconds))


def test_frames_of_a_call_are_counted_by_kind() -> None:
    connection = connect()

    connection.receive(call(1) + call(3, fields=changed(path=b"/no")) + frames.settings({}))

    counters = connection._counters  # noqa: SLF001
    assert counters.calls == 1
    assert counters.refused == {"unknown_method": 1}
