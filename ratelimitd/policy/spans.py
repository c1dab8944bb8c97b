"""Spans and instants as people write them: `90s`, `10m`, `6h`, `2d`, and RFC 3339."""

import re
from datetime import UTC, datetime, timedelta

from ratelimitd.policy.fields import value_of
from ratelimitd.policy.nodes import MapNode, Scalar
from ratelimitd.policy.report import Report, join_path, quote

US_PER_S = 1_000_000

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SPAN = re.compile(r"([0-9]{1,9})([smhd])")
# RFC 3339, section 5.6, with seconds that may have a fraction.
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_AFTER = re.compile(r"\+([0-9]{1,9})(?:\.([0-9]{1,6}))?([smhd])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The store's clock counts from 1970, and no date in UTC is written beyond the year 9999.
_END_US = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def read_span(node: MapNode, name: str, path: str, report: Report, *, longest_s: int) -> int | None:
    """Return a span in microseconds, from a second on; None when absent, null or wrong."""
    value = value_of(node, name)
    if value is None:
        return None
    below = join_path(path, name)
    text = value.text if isinstance(value, Scalar) else ""
    found = _SPAN.fullmatch(text)
    if found is None:
        given = f"{quote(text)} is no span" if text else "is no span"
        report.error(value, below, f"{given}; write `90s`, `10m`, `6h` or `2d`")
        return None
    seconds = int(found[1]) * _SECONDS[found[2]]
    if not 1 <= seconds <= longest_s:
        most = f"{longest_s // 86_400}d"
        report.error(value, below, f"{quote(text)} is not from `1s` to `{most}`")
        return None
    return seconds * US_PER_S


def read_instant(node: MapNode, name: str, path: str, report: Report) -> int | None:
    """Return an instant in microseconds since the Unix epoch; None when absent, null or wrong."""
    value = value_of(node, name)
    if value is None:
        return None
    text = value.text if isinstance(value, Scalar) else ""
    moment: datetime | None = None
    if _INSTANT.fullmatch(text):
        try:
            moment = datetime.fromisoformat(text.upper().replace(" ", "T"))
        except ValueError:
            moment = None
    if moment is None:
        given = f"{quote(text)} is no instant" if text else "is no instant"
        message = f"{given}; write it with its zone, as `2027-01-01T00:00:00Z`"
        report.error(value, join_path(path, name), message)
        return None
    time_us = (moment - _EPOCH) // timedelta(microseconds=1)
    if not 0 <= time_us < _END_US:
        message = f"{quote(text)} is not from `1970-01-01T00:00:00Z` to `9999-12-31T00:00:00Z`"
        report.error(value, join_path(path, name), message)
        return None
    return time_us


def read_after(value: Scalar, path: str, report: Report) -> int:
    """Return a span behind a plus, as `+1.5s` or `+10m`, in microseconds; 0 if it is wrong."""
    found = _AFTER.fullmatch(value.text)
    if found is None:
        message = f"{quote(value.text)} is no span; write `+1.5s`, `+10m`, `+6h` or `+2d`"
        report.error(value, path, message)
        return 0
    whole, part, unit = found.groups()
    fraction_us = int((part or "").ljust(6, "0") or 0)
    return (int(whole) * US_PER_S + fraction_us) * _SECONDS[unit]
