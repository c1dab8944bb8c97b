"""Calendar periods."""

from ratelimitd.policy.model import Calendar


def periods(calendar: Calendar, now_us: int) -> tuple[int, int, int, int]:
    """Return the borders of the periods around `now_us`."""
    del calendar
    day = 86_400_000_000
    start = now_us - now_us % day
    return start - day, start, start + day, start + 2 * day
