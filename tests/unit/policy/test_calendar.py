"""Calendar periods, against dates that people look up in a calendar."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.policy.calendar import periods
from ratelimitd.policy.model import Calendar, Unit

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_US = 3_600_000_000
ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Asia/Kathmandu"),
    *("Africa/Cairo", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Beirut"),
)


def to_us(text: str) -> int:
    return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)


def local(time_us: int, zone: str) -> str:
    moment = (EPOCH + timedelta(microseconds=time_us)).astimezone(ZoneInfo(zone))
    return moment.strftime("%Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("calendar", "now", "expected"),
    [
        # 23 and 25 hours.
        (
            Calendar(Unit.DAY, "Europe/Berlin"),
            "2026-03-29T12:00:00+02:00",
            ("2026-03-28 00:00", "2026-03-29 00:00", "2026-03-30 00:00", "2026-03-31 00:00"),
        ),
        (
            Calendar(Unit.DAY, "Europe/Berlin"),
            "2026-10-25T02:30:00+01:00",
            ("2026-10-24 00:00", "2026-10-25 00:00", "2026-10-26 00:00", "2026-10-27 00:00"),
        ),
        # Midnight is left out: the day begins at one o'clock.
        (
            Calendar(Unit.DAY, "America/Havana"),
            "2026-03-08T12:00:00-04:00",
            ("2026-03-07 00:00", "2026-03-08 01:00", "2026-03-09 00:00", "2026-03-10 00:00"),
        ),
        # At a minute past midnight the clocks go back to the day before: the new one goes on.
        (
            Calendar(Unit.DAY, "America/St_Johns"),
            "2006-10-28T23:30:00-03:30",
            ("2006-10-28 00:00", "2006-10-29 00:00", "2006-10-30 00:00", "2006-10-31 00:00"),
        ),
        (
            Calendar(Unit.WEEK, "UTC"),
            "2026-11-29T23:59:59+00:00",
            ("2026-11-16 00:00", "2026-11-23 00:00", "2026-11-30 00:00", "2026-12-07 00:00"),
        ),
        # 29 February, and where there is none.
        (
            Calendar(Unit.MONTH, "UTC", 29),
            "2028-02-29T00:00:00+00:00",
            ("2028-01-29 00:00", "2028-02-29 00:00", "2028-03-29 00:00", "2028-04-29 00:00"),
        ),
        (
            Calendar(Unit.MONTH, "UTC", 29),
            "2027-02-28T00:00:00+00:00",
            ("2027-01-29 00:00", "2027-02-28 00:00", "2027-03-29 00:00", "2027-04-29 00:00"),
        ),
        # A month from the 31st begins on the last day of shorter ones.
        (
            Calendar(Unit.MONTH, "Europe/Berlin", 31),
            "2026-04-29T12:00:00+02:00",
            ("2026-02-28 00:00", "2026-03-31 00:00", "2026-04-30 00:00", "2026-05-31 00:00"),
        ),
        # The end of a year, which another zone has reached already.
        (
            Calendar(Unit.MONTH, "Asia/Kathmandu"),
            "2026-12-31T18:15:00+00:00",
            ("2026-12-01 00:00", "2027-01-01 00:00", "2027-02-01 00:00", "2027-03-01 00:00"),
        ),
        (
            Calendar(Unit.YEAR, "America/New_York"),
            "2026-12-31T23:59:59-05:00",
            ("2025-01-01 00:00", "2026-01-01 00:00", "2027-01-01 00:00", "2028-01-01 00:00"),
        ),
    ],
)
def test_periods_are_those_of_the_calendar(
    calendar: Calendar, now: str, expected: tuple[str, ...]
) -> None:
    found = periods(calendar, to_us(now))

    assert tuple(local(at, calendar.timezone) for at in found) == expected


def test_days_have_as_many_hours_as_the_clocks_say() -> None:
    berlin = Calendar(Unit.DAY, "Europe/Berlin")
    lengths = []
    for now in ("2026-03-29T12:00:00+02:00", "2026-10-25T12:00:00+01:00"):
        _, current, following, _ = periods(berlin, to_us(now))
        lengths.append((following - current) // HOUR_US)

    assert lengths == [23, 25]


@given(
    st.sampled_from([Unit.DAY, Unit.WEEK, Unit.MONTH, Unit.YEAR]),
    st.sampled_from(ZONES),
    st.integers(1, 31),
    st.integers(to_us("1995-01-01T00:00:00+00:00"), to_us("2090-01-01T00:00:00+00:00")),
)
def test_periods_follow_each_other_without_a_gap(
    unit: Unit, zone: str, anchor_day: int, now_us: int
) -> None:
    # given
    calendar = Calendar(unit, zone, anchor_day if unit is Unit.MONTH else 1)
    # when
    previous, current, following, end = periods(calendar, now_us)
    # then the one before and the one after say the same
    assert previous <= current <= now_us < following <= end
    assert periods(calendar, current)[1:3] == (current, following)
    assert periods(calendar, following)[0:3:1][1:] == (following, end)
    if previous < current:
        assert periods(calendar, current - 1)[1:3] == (previous, current)


def test_every_hour_of_two_years_is_in_one_period() -> None:
    for zone in ("Europe/Berlin", "America/Havana", "Africa/Cairo"):
        calendar = Calendar(Unit.DAY, zone)
        begin = to_us("2026-01-01T00:00:00+00:00")
        _, start, following, _ = periods(calendar, begin)
        for now_us in range(begin, begin + 2 * 365 * 24 * HOUR_US, HOUR_US):
            _, current, after, _ = periods(calendar, now_us)
            if now_us >= following:
                assert current == following
                start, following = current, after
            assert (current, after) == (start, following)
