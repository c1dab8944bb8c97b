"""What came out otherwise, as lines for people: the steps of a case that failed, field by field.

A line has no control character of a file or a policy.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from ratelimitd.policy_tests.files import Played
from ratelimitd.terminal import count, printable

MAX_TOLD_STEPS = 20
"""Of one case: the first failure is mostly the cause of those that follow."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_lines(played: Played) -> Iterator[str]:
    """Yield the lines about one case: its steps that failed, and below each its differences."""
    for number, step, differences in played.failed[:MAX_TOLD_STEPS]:
        place = printable(f"{played.file}:{step.line}")
        yield f"step {number + 1}, {place}, at {_instant(step.now_us)}"
        rows = [(field, printable(wanted), printable(got)) for field, wanted, got in differences]
        field_width, wanted_width = (max(len(row[at]) for row in rows) for at in (0, 1))
        for field, wanted, got in rows:
            yield f"  {field:{field_width}}  expected {wanted:{wanted_width}}  got {got}"
    if (more := len(played.failed) - MAX_TOLD_STEPS) > 0:
        yield f"and {count(more, 'more step')}"


def _instant(time_us: int) -> str:
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.isoformat().replace("+00:00", "Z")
