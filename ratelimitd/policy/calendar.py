"""Where calendar periods begin: days, weeks, months and years in an IANA zone.

Rules:
- A period begins at local midnight; where the clocks leave that out, at the first instant after.
  A day has 23 or 25 hours where they change.
- A week begins on Monday, a year on 1 January.
- A month begins on its anchor day, or on its last day where it has fewer days.
- Pure: the zone's rules are data, and time is an argument.
"""

from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from ratelimitd.policy.model import Calendar, Unit

US_PER_S = 1_000_000
DAYS_PER_WEEK = 7
MONTHS_PER_YEAR = 12

# datetime ends with the year 9999; nobody's clock is there, and a period must end somewhere.
_LAST_US = 253_000_000_000 * US_PER_S

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def periods(calendar: Calendar, now_us: int) -> tuple[int, int, int, int]:
    """Return where the previous, the current and the next period begin, and where that one ends.

    All are microseconds since the Unix epoch; the current period is the one that holds `now_us`.
    """
    now_us = min(max(now_us, 0), _LAST_US)
    zone = _zone(calendar.timezone)
    today = (_EPOCH + timedelta(microseconds=now_us)).astimezone(zone).date()
    at = _first_day(calendar, today)
    start_us = _begin_us(at, zone)
    assert start_us <= now_us, "the day that holds a time has begun"
    # Where the clocks go back over midnight, a day begins before the one before it is over.
    while (next_us := _begin_us(_after(calendar, at), zone)) <= now_us:
        at, start_us = _after(calendar, at), next_us
    ahead = _after(calendar, at)
    return (
        _begin_us(_before(calendar, at), zone),
        start_us,
        next_us,
        _begin_us(_after(calendar, ahead), zone),
    )


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _begin_us(day: date, zone: ZoneInfo) -> int:
    """Return the first instant of a local day."""
    midnight = datetime.combine(day, time(), zone)
    begin_us = _to_us(midnight)
    if (_EPOCH + timedelta(microseconds=begin_us)).astimezone(zone).replace(
        tzinfo=None
    ) == midnight.replace(tzinfo=None):
        return begin_us
    # Left out: both readings of a time in a gap are off by its length, to either side of it.
    early_us, late_us = sorted((begin_us, _to_us(midnight.replace(fold=1))))
    while late_us - early_us > US_PER_S:
        middle_us = (early_us + late_us) // 2 // US_PER_S * US_PER_S
        local = (_EPOCH + timedelta(microseconds=middle_us)).astimezone(zone)
        if local.date() < day:
            early_us = middle_us
        else:
            late_us = middle_us
    return late_us


def _to_us(moment: datetime) -> int:
    return (moment.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1)


def _first_day(calendar: Calendar, day: date) -> date:
    """Return the first day of the period that holds `day`."""
    match calendar.unit:
        case Unit.WEEK:
            return day - timedelta(days=day.weekday())
        case Unit.MONTH:
            anchor = _anchor(calendar, day.year, day.month)
            return anchor if anchor <= day else _shifted(calendar, day.year, day.month, -1)
        case Unit.YEAR:
            return date(day.year, 1, 1)
        case _:
            return day


def _after(calendar: Calendar, first: date) -> date:
    return _step(calendar, first, 1)


def _before(calendar: Calendar, first: date) -> date:
    return _step(calendar, first, -1)


def _step(calendar: Calendar, first: date, by: int) -> date:
    """Return the first day of the period `by` later than the one that begins on `first`."""
    match calendar.unit:
        case Unit.WEEK:
            return first + timedelta(days=by * DAYS_PER_WEEK)
        case Unit.MONTH:
            return _shifted(calendar, first.year, first.month, by)
        case Unit.YEAR:
            return date(first.year + by, 1, 1)
        case _:
            return first + timedelta(days=by)


def _shifted(calendar: Calendar, year: int, month: int, by: int) -> date:
    months = year * MONTHS_PER_YEAR + month - 1 + by
    return _anchor(calendar, months // MONTHS_PER_YEAR, months % MONTHS_PER_YEAR + 1)


def _anchor(calendar: Calendar, year: int, month: int) -> date:
    return date(year, month, min(calendar.anchor_day, monthrange(year, month)[1]))
