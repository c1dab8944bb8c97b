"""Texts of flags and variables become values, or a message that says what is accepted."""

import logging
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.settings import values
from ratelimitd.settings.values import LogLevel
from ratelimitd.transport.listen import TcpAddress, UnixAddress, is_private


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("24h", 86_400_000_000),
        ("1h30m", 5_400_000_000),
        ("10s", 10_000_000),
        ("1.5s", 1_500_000),
        ("250ms", 250_000),
        ("5us", 5),
        ("5µs", 5),
        ("1000ns", 1),
        ("1m0s", 60_000_000),
    ],
)
def test_duration_is_read_as_go_writes_it(text: str, microseconds: int) -> None:
    assert values.parse_duration_us(text) == microseconds


@pytest.mark.parametrize(
    "text", ["", "10", "10 s", "-1s", "1d", "s", "1e3s", "0s", "999999999h", "\u0661s"]
)
def test_duration_refuses_the_rest(text: str) -> None:
    with pytest.raises(ValueError, match="like 250ms, 10s, 1m30s or 24h"):
        values.parse_duration_us(text)


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_bool_reads_gos_true(text: str) -> None:
    assert values.parse_bool(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_bool_reads_gos_false(text: str) -> None:
    assert values.parse_bool(text) is False


@pytest.mark.parametrize("text", ["yes", "on", "tRUE", "2", " true", ""])
def test_bool_refuses_the_rest(text: str) -> None:
    with pytest.raises(ValueError, match="true or false"):
        values.parse_bool(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8081", TcpAddress("127.0.0.1", 8081)),
        ("[::1]:8081", TcpAddress("::1", 8081)),
        (":9090", TcpAddress("0.0.0.0", 9090)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("unix:/run/r.sock", UnixAddress("/run/r.sock")),
    ],
)
def test_listen_reads_every_form_and_prints_it_again(
    text: str, address: TcpAddress | UnixAddress
) -> None:
    assert values.parse_listen(text) == address
    assert values.parse_listen(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "8081", "host", "host:", "host:99999", "host:-1", "::1:8081", "[::1]", "[h]:1"),
        *("a b:1", "http://h:1", "u@h:1", "h:\uff11"),
    ],
)
def test_listen_refuses_the_rest(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        values.parse_listen(text)


@pytest.mark.parametrize("text", ["unix:", "unix:/" + "x" * 107, "unix:/a\0b"])
def test_listen_refuses_unix_paths_that_cannot_be_bound(text: str) -> None:
    with pytest.raises(ValueError, match="unix"):
        values.parse_listen(text)


def test_unix_path_may_have_107_bytes() -> None:
    path = "/" + "x" * 106

    assert values.parse_listen(f"unix:{path}") == UnixAddress(path)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("WARN", LogLevel.WARNING),
        ("warning", LogLevel.WARNING),
        ("Info", LogLevel.INFO),
        ("panic", LogLevel.ERROR),
        ("fatal", LogLevel.ERROR),
        ("trace", LogLevel.DEBUG),
    ],
)
def test_log_level_knows_the_reference_servers_names(text: str, level: LogLevel) -> None:
    assert values.parse_log_level(text) is level
    assert logging.getLevelName(level.number) == level.name


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (TcpAddress("127.0.0.1", 1), True),
        (TcpAddress("127.9.9.9", 1), True),
        (TcpAddress("::1", 1), True),
        (TcpAddress("localhost", 1), True),
        (UnixAddress("/x"), True),
        (TcpAddress("0.0.0.0", 1), False),
        (TcpAddress("::", 1), False),
        (TcpAddress("10.0.0.1", 1), False),
        (TcpAddress("localhost.example", 1), False),
    ],
)
def test_private_is_what_only_this_machine_reaches(
    address: TcpAddress | UnixAddress, expected: bool
) -> None:
    assert is_private(address) is expected


@given(st.text(max_size=40))
def test_parsers_accept_or_raise_value_error_whatever_they_are_given(text: str) -> None:
    parsers: list[Callable[[str], object]] = [
        values.parse_bool,
        values.parse_duration_us,
        values.parse_count,
        values.parse_positive,
        values.parse_port,
        values.parse_ratio,
        values.parse_header_name,
        values.parse_url_path,
        values.parse_listen,
        values.parse_names,
        values.parse_log_level,
        values.parse_log_format,
        values.parse_metrics_compat,
        values.parse_path,
    ]
    for parse in parsers:
        try:
            parse(text)
        except ValueError as error:
            assert str(error)  # noqa: PT017 - acceptance is as good as this
