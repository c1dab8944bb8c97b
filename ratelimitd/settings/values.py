"""Texts of flags and variables become values.

Rules:
- A parser takes a non-empty text and returns a value, or raises ValueError whose message says
  what is accepted. Whoever calls it adds where the text came from.
- Booleans and durations are written as Go writes them, because the reference server's are.
"""

import logging
import re
from decimal import Decimal
from enum import StrEnum
from pathlib import Path

from ratelimitd.store.address import MAX_SOCKET_PATH_BYTES
from ratelimitd.telemetry.logs import LogFormat
from ratelimitd.transport.listen import ListenAddress, TcpAddress, UnixAddress

MAX_PORT = 65535
MAX_WORKERS = 256
# A store that saves its data, or a machine that is busy, takes some milliseconds now and then.
MIN_STORE_TIMEOUT_US = 5_000
MAX_DURATION_US = 10 * 365 * 86_400_000_000

TRUE_TEXTS = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE_TEXTS = frozenset({"0", "f", "F", "FALSE", "false", "False"})

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_US_PER_UNIT = {
    "ns": Decimal("0.001"),
    "us": Decimal(1),
    "µs": Decimal(1),
    "ms": Decimal(1_000),
    "s": Decimal(1_000_000),
    "m": Decimal(60_000_000),
    "h": Decimal(3_600_000_000),
}
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}", re.ASCII)


class LogLevel(StrEnum):
    """How much is logged, least first to most."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    DEBUG = "debug"

    @property
    def number(self) -> int:
        """Return the standard library's level."""
        return logging.getLevelNamesMapping()[self.name]


class MetricsCompat(StrEnum):
    """Whose metric names are exported beside ours."""

    NONE = "none"
    ENVOYPROXY = "envoyproxy"


class DataPlane(StrEnum):
    """Which server answers on the gRPC port: our own HTTP/2, or grpcio's."""

    H2 = "h2"
    GRPCIO = "grpcio"


# The reference server's levels that have another name here.
_LEVEL_ALIASES = {
    "panic": LogLevel.ERROR,
    "fatal": LogLevel.ERROR,
    "warn": LogLevel.WARNING,
    "trace": LogLevel.DEBUG,
}


def parse_text(text: str) -> str:
    """Return any text as it is."""
    return text


def parse_store(text: str) -> str:
    """Return where the store is; the store's own parser reads a URL."""
    if not text:
        raise ValueError("write embedded, or the URL of a Redis or Valkey like redis://host:6379")
    return text


def parse_path(text: str) -> Path:
    """Return a path; whether it exists is for its user to find out."""
    if not text or "\0" in text:
        raise ValueError("write a path; it is empty or holds a zero byte")
    return Path(text)


def parse_bool(text: str) -> bool:
    """Read a Go boolean."""
    if text in TRUE_TEXTS:
        return True
    if text in FALSE_TEXTS:
        return False
    raise ValueError("write true or false (also 1, t, T, TRUE, True, 0, f, F, FALSE, False)")


def parse_duration_us(text: str) -> int:
    """Read a Go duration of at least 1 us and at most 10 years, as microseconds."""
    accepted = "write a duration like 250ms, 10s, 1m30s or 24h"
    if not _DURATION.fullmatch(text):
        raise ValueError(accepted)
    parts = _DURATION_PART.findall(text)
    total_us = int(sum(Decimal(number) * _US_PER_UNIT[unit] for number, unit in parts))
    if not 1 <= total_us <= MAX_DURATION_US:
        raise ValueError(f"{accepted}, longer than zero and at most 10 years")
    return total_us


def parse_store_timeout_us(text: str) -> int:
    """Read how long the store may take: a duration of at least MIN_STORE_TIMEOUT_US."""
    timeout_us = parse_duration_us(text)
    if timeout_us < MIN_STORE_TIMEOUT_US:
        raise ValueError(
            f"write at least {MIN_STORE_TIMEOUT_US // 1000}ms: no store answers sooner every time, "
            "and three calls without an answer open the breaker"
        )
    return timeout_us


def parse_count(text: str, *, minimum: int = 0, maximum: int = 2**53 - 1) -> int:
    """Read a whole number from `minimum` to `maximum`."""
    accepted = f"write a whole number from {minimum} to {maximum}"
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(accepted)
    number = int(text)
    if not minimum <= number <= maximum:
        raise ValueError(accepted)
    return number


def parse_positive(text: str) -> int:
    """Read a whole number of at least 1."""
    return parse_count(text, minimum=1, maximum=1_000_000)


def parse_workers(text: str) -> int:
    """Read how many processes answer: at least 1, and no more than there are cores anywhere."""
    return parse_count(text, minimum=1, maximum=MAX_WORKERS)


def parse_port(text: str) -> int:
    """Read a TCP port; 0 asks the system for a free one."""
    return parse_count(text, maximum=MAX_PORT)


def parse_ratio(text: str) -> float:
    """Read a decimal number from 0 to 1."""
    if not re.fullmatch(r"[0-9]*\.?[0-9]+", text) or not 0 <= float(text) <= 1:
        raise ValueError("write a number from 0 to 1, like 0.8")
    return float(text)


def parse_header_name(text: str) -> str:
    """Read the name of an HTTP header."""
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError("write the name of an HTTP header, like RateLimit-Limit")
    return text


def parse_url_path(text: str) -> str:
    """Read the path of a page."""
    if not re.fullmatch(r"/[!-~]*", text):
        raise ValueError("write a path that starts with a slash, like /metrics")
    return text


def parse_listen(text: str) -> ListenAddress:
    """Read `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`; an empty host is every address."""
    if text.startswith("unix:"):
        return _unix_address(text.removeprefix("unix:"))
    accepted = "write HOST:PORT, [IPV6]:PORT or unix:PATH, like 127.0.0.1:8081"
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if is_bracketed else host
    if not colon or (":" in host) != is_bracketed or re.search(r"[\s/\[\]@]", host):
        raise ValueError(accepted)
    try:
        return TcpAddress(host or "0.0.0.0", parse_port(port))  # noqa: S104 - an empty host asks for it
    except ValueError:
        raise ValueError(f"{accepted}; a port is a number from 0 to {MAX_PORT}") from None


def parse_names(text: str) -> tuple[str, ...]:
    """Read names with commas between them."""
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError("write names with commas between them, none of them empty")
    return names


def parse_log_level(text: str) -> LogLevel:
    """Read a level, ours or the reference server's, in any case."""
    level = text.lower()
    if level in _LEVEL_ALIASES:
        return _LEVEL_ALIASES[level]
    try:
        return LogLevel(level)
    except ValueError:
        raise ValueError("write error, warning, info or debug") from None


def parse_log_format(text: str) -> LogFormat:
    """Read a log format in any case."""
    try:
        return LogFormat(text.lower())
    except ValueError:
        raise ValueError("write text or json") from None


def parse_metrics_compat(text: str) -> MetricsCompat:
    """Read whose metric names are exported too."""
    try:
        return MetricsCompat(text.lower())
    except ValueError:
        raise ValueError("write envoyproxy or none") from None


def parse_data_plane(text: str) -> DataPlane:
    """Read which server answers on the gRPC port."""
    try:
        return DataPlane(text.lower())
    except ValueError:
        raise ValueError("write h2 or grpcio") from None


def _unix_address(path: str) -> UnixAddress:
    size = len(path.encode())
    if not path or "\0" in path:
        raise ValueError("write a path after unix:, like unix:/run/ratelimitd.sock")
    if size > MAX_SOCKET_PATH_BYTES:
        raise ValueError(
            f"a unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes, this one has {size}"
        )
    return UnixAddress(path)
