"""Arguments of the commands about subjects and blocks; ConfigError says what is accepted."""

import getpass
import re
import sys
from typing import Final

from ratelimitd._proto.ratelimitd.subject.v1 import subject_pb2
from ratelimitd.errors import ConfigError

FROM_STDIN: Final = "-"
MAX_NUMBER: Final = 2**53 - 1
MAX_STDIN_BYTES: Final = 65_536
_SPAN = re.compile(r"(?:\d{1,9}[smhd])+", re.ASCII)
_SPAN_PART = re.compile(r"(\d+)([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parse_entry(text: str) -> subject_pb2.Entry:
    """Read KEY=VALUE; for `KEY=-` the value is the first line of stdin."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        # What stands there may be a secret: it is not repeated.
        raise ConfigError("an entry is written KEY=VALUE; KEY=- reads the value from stdin")
    if value == FROM_STDIN:
        value = _read_value(key)
    return subject_pb2.Entry(key=key, value=value)


def parse_entries(texts: list[str]) -> list[subject_pb2.Entry]:
    """Read entries, of which one may come from stdin."""
    if sum(text.endswith(f"={FROM_STDIN}") for text in texts) > 1:
        raise ConfigError("only one value can be read from stdin")
    return [parse_entry(text) for text in texts]


def parse_amount(text: str, flag: str = "--limit") -> tuple[str, int]:
    """Read NAME=NUMBER."""
    name, equals, number = text.rpartition("=")
    if not name or not equals or not number.isdecimal() or not number.isascii():
        raise ConfigError(f"{flag}: {text!r} is not accepted: write NAME=NUMBER, or '*=NUMBER'")
    if len(number) > len(str(MAX_NUMBER)) or int(number) > MAX_NUMBER:
        raise ConfigError(f"{flag}: {text!r} is not accepted: at most {MAX_NUMBER}")
    return name, int(number)


def parse_span_s(text: str, flag: str = "--for") -> int:
    """Read a span like 10m, 12h or 30d, as seconds; an empty one is 0, which is for ever."""
    if not text:
        return 0
    if not _SPAN.fullmatch(text):
        raise ConfigError(f"{flag}: {text!r} is not accepted: write a span like 90s, 10m, 12h, 30d")
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in _SPAN_PART.findall(text))
    if not seconds:
        raise ConfigError(f"{flag}: {text!r} is not accepted: longer than zero, or leave it out")
    return seconds


def _read_value(key: str) -> str:
    if sys.stdin is None:
        raise ConfigError(f"{key}=-: there is no stdin to read the value from")
    if sys.stdin.isatty():
        value = getpass.getpass(f"{key}: ")
    else:
        value = sys.stdin.readline(MAX_STDIN_BYTES).rstrip("\r\n")
    if not value:
        raise ConfigError(f"{key}=-: stdin has no value in its first line")
    return value
