import math

import pytest

from ratelimitd.policy.scalars import is_octal, resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("Null", None),
        ("yes", True),
        ("On", True),
        ("y", True),
        ("FALSE", False),
        ("off", False),
        ("N", False),
        ("tRue", "tRue"),
        ("hello", "hello"),
        ("0", 0),
        ("-0", 0),
        ("+12", 12),
        ("-12", -12),
        ("1_000", 1000),
        ("010", 8),
        ("-010", -8),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0b101", -5),
        ("9223372036854775807", 2**63 - 1),
        ("2024-01-01", "2024-01-01"),
        ("10.0.0.1", "10.0.0.1"),
        ("1:30", "1:30"),
        ("0x", "0x"),
        ("-", "-"),
        (".", "."),
        ("._5", "._5"),
        ("1e999", "1e999"),
    ],
)
def test_resolve_reads_what_the_reference_server_reads(text: str, value: object) -> None:
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.10", 1.1),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("08", 8.0),
        ("1e3", 1000.0),
        ("1E-1", 0.1),
        ("9223372036854775808", 2.0**63),
        ("-9223372036854775809", -(2.0**63)),
        ("0" * 80, 0.0),
    ],
)
def test_resolve_finds_floats(text: str, value: float) -> None:
    number = resolve(text)

    assert isinstance(number, float)
    assert number == value


@pytest.mark.parametrize("text", [".inf", "-.INF", "+.Inf", ".nan", ".NaN"])
def test_resolve_special_floats_are_not_finite(text: str) -> None:
    number = resolve(text)

    assert isinstance(number, float)
    assert not math.isfinite(number)


@pytest.mark.parametrize(
    ("text", "answer"),
    [("010", True), ("-0_10", True), ("0", False), ("10", False), ("0x10", False), ("0o10", False)],
)
def test_is_octal_tells_only_what_looks_decimal(text: str, answer: bool) -> None:
    assert is_octal(text) is answer
